"""Fills a Btrfs subvolume with every kind of inode, name and attribute that a send stream can carry.

Left out because plain `btrfs send` and `btrfs receive` lose or change it themselves (tried with Linux 6.18 and
btrfs-progs 6.2):

- directories of nested subvolumes;
- extents that are allocated but hold no data (fallocate), and where holes are: contents stay equal;
- inode flags (chattr +C, +i, +a, +c);
- a default ACL on the subvolume's own directory: `btrfs receive` makes every inode there first, so all would inherit it.
"""

import os
import random
import socket
import stat
from pathlib import Path

from tree_syscalls import acl, reflink, reflink_range

KIB = 1024
MIB = 1024 * KIB

# struct vfs_ns_cap_data, revision 2, effective: cap_net_bind_service.
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")

WORDS = (
    "a backup that was never restored is a hope and a hope needs no disk but the night is long and the mail is late "
    "error warning info debug GET PUT 200 404 500 src include lib return static const struct int char void if else"
).split()


def seed(root: Path, seed_number: int, size_mib: int) -> None:
    """Fills the empty subvolume at `root`; the same arguments give the same names, contents and attributes."""
    rng = random.Random(f"seed {seed_number}")
    sizes(root / "sizes", rng)
    sparse(root / "sparse", rng)
    hard_links(root / "hard links", rng)
    symlinks(root / "symlinks")
    special_files(root / "special")
    modes_and_owners(root / "modes", rng)
    times(root / "times")
    xattrs(root / "xattrs", rng)
    acls(root / "acls", rng)
    names(root / "names", rng)
    directories(root / "directories", rng)
    reflinks(root / "reflinks", rng)
    same_contents(root / "same", rng)
    bulk(root / "bulk", rng, size_mib)
    # Last, as making names in it changes its time.
    os.chown(root, 1000, 100)
    root.chmod(0o751)
    os.setxattr(root, "user.root", b"the subvolume's own directory")
    set_mtime(root, 1_234_567_890, 123_456_789)


def random_bytes(rng: random.Random, size: int) -> bytes:
    return rng.randbytes(size)


def text_bytes(rng: random.Random, size: int) -> bytes:
    """Compressible contents: lines drawn from a small set of sentences."""
    lines = [" ".join(rng.choices(WORDS, k=rng.randrange(4, 16))) for _ in range(64)]
    text = "\n".join(rng.choices(lines, k=size // 16 + 1))
    return text.encode()[:size].ljust(size, b"\n")


def some_bytes(rng: random.Random, size: int) -> bytes:
    return rng.choice((random_bytes, text_bytes))(rng, size)


def set_mtime(path: Path, seconds: int, nanoseconds: int) -> None:
    mtime_ns = seconds * 1_000_000_000 + nanoseconds
    os.utime(path, ns=(mtime_ns, mtime_ns), follow_symlinks=False)


def sizes(directory: Path, rng: random.Random) -> None:
    directory.mkdir()
    edges = [0, 1, 2, 100, 2047, 2048, 4095, 4096, 4097, 48 * KIB - 1, 48 * KIB, 48 * KIB + 1]
    edges += [64 * KIB, 128 * KIB - 1, 128 * KIB, 128 * KIB + 1, 256 * KIB + 7, MIB, 3 * MIB + 12345]
    for size in edges:
        (directory / f"random-{size}").write_bytes(random_bytes(rng, size))
        (directory / f"text-{size}").write_bytes(text_bytes(rng, size))
    (directory / "zeros").write_bytes(bytes(2 * MIB))
    (directory / "moved-8-mib").write_bytes(random_bytes(rng, 8 * MIB))
    (directory / "shifted-2-mib").write_bytes(random_bytes(rng, 2 * MIB))


def sparse(directory: Path, rng: random.Random) -> None:
    directory.mkdir()
    layouts = {
        "hole-at-start": [(MIB, 64 * KIB)],
        "hole-in-middle": [(0, 64 * KIB), (2 * MIB, 64 * KIB)],
        "hole-at-end": [(0, 64 * KIB), (MIB, 0)],
        "many-holes": [(offset, 4 * KIB) for offset in range(0, 2 * MIB, 64 * KIB)],
        "odd-offsets": [(4097, 11), (70_001, 5000), (500_003, 1)],
        "only-a-hole": [(64 * MIB, 0)],
        "data-far-out": [(64 * MIB, 1)],
    }
    for name, pieces in layouts.items():
        with open(directory / name, "wb") as file:
            for offset, length in pieces:
                file.truncate(offset)
                file.seek(offset)
                file.write(random_bytes(rng, length))


def hard_links(directory: Path, rng: random.Random) -> None:
    (directory / "here").mkdir(parents=True)
    (directory / "there").mkdir()
    for number in range(5):
        first = directory / "here" / f"first-{number}"
        first.write_bytes(some_bytes(rng, 3000 * number))
        for link in range(number + 1):
            os.link(first, directory / ("here", "there")[link % 2] / f"link-{number}-{link}")
    many = directory / "many"
    many.write_bytes(b"fifty names")
    for link in range(50):
        os.link(many, directory / "there" / f"many-{link}")
    os.mkfifo(directory / "fifo")
    os.link(directory / "fifo", directory / "there" / "fifo too")
    os.symlink("many", directory / "symlink")
    os.link(directory / "symlink", directory / "there" / "symlink too", follow_symlinks=False)


def symlinks(directory: Path) -> None:
    directory.mkdir()
    targets = {
        "relative": "../sizes/random-1",
        "absolute": "/etc/hostname",
        "dangling": "nowhere/at all",
        "to-directory": "..",
        "to-itself": "to-itself",
        "long": "x/" * 1500 + "end",
        "longest": "y" * 4000,
        "odd": "line\nfeed \udcff ü",
    }
    for name, target in targets.items():
        os.symlink(target, directory / name)
    os.lchown(directory / "dangling", 1234, 5678)
    os.setxattr(directory / "dangling", "trusted.on-symlink", b"value", follow_symlinks=False)
    set_mtime(directory / "dangling", 1_000_000_000, 1)


def special_files(directory: Path) -> None:
    directory.mkdir()
    os.mkfifo(directory / "fifo", 0o640)
    with socket.socket(socket.AF_UNIX) as listener:
        # Bound by a short relative name: a socket's path has at most 107 bytes.
        before = os.open(".", os.O_RDONLY)
        os.chdir(directory)
        listener.bind("socket")
        os.fchdir(before)
        os.close(before)
    os.mknod(directory / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(directory / "loop", 0o660 | stat.S_IFBLK, os.makedev(7, 200))
    os.mknod(directory / "large-numbers", 0o600 | stat.S_IFCHR, os.makedev(4095, 1_048_575))
    os.chown(directory / "null", 7, 8)
    os.setxattr(directory / "fifo", "trusted.on-fifo", b"value")
    for name in ("fifo", "socket", "null", "loop"):
        set_mtime(directory / name, 1_500_000_000, 999_999_999)


def modes_and_owners(directory: Path, rng: random.Random) -> None:
    directory.mkdir()
    for mode in (0o000, 0o001, 0o400, 0o644, 0o777, 0o4755, 0o2755, 0o6711, 0o1644, 0o7777):
        file, folder = directory / f"file-{mode:04o}", directory / f"directory-{mode:04o}"
        file.write_bytes(some_bytes(rng, 500))
        folder.mkdir()
        (folder / "inside").write_bytes(some_bytes(rng, 50))
        for path in (file, folder):
            # After chown, which takes setuid and setgid away.
            os.chown(path, rng.randrange(100_000), rng.randrange(100_000))
            path.chmod(mode)
    for owner in (1, 65_534, 65_536, 2_147_483_648, 4_294_967_294):
        file = directory / f"owner-{owner}"
        file.write_bytes(some_bytes(rng, 100))
        os.chown(file, owner, owner)


def times(directory: Path) -> None:
    directory.mkdir()
    moments = {
        "epoch": (0, 0),
        "one-nanosecond": (0, 1),
        "before-1970": (-1, 999_999_999),
        "1901": (-2_177_452_800, 5),
        "2038": (2_147_483_648, 123_456_789),
        "2106": (4_294_967_296, 1),
        "9999": (253_402_300_799, 999_999_999),
    }
    for name, (seconds, nanoseconds) in moments.items():
        (directory / name).write_bytes(name.encode())
        (directory / f"directory-{name}").mkdir()
        set_mtime(directory / name, seconds, nanoseconds)
        set_mtime(directory / f"directory-{name}", seconds, nanoseconds)
    set_mtime(directory, 1, 2)


def xattrs(directory: Path, rng: random.Random) -> None:
    directory.mkdir()
    values = {
        "user.text": b"value",
        "user.empty": b"",
        "user.binary": bytes(range(256)),
        "user.large": random_bytes(rng, 12_000),
        "user." + "n" * 250: b"the longest name",
        "user.\udcff \n": b"an odd name",
        "trusted.text": b"for root only",
        "security.other": b"a label",
    }
    file = directory / "all-on-one"
    file.write_bytes(b"")
    for name, value in values.items():
        os.setxattr(file, name, value)
    folder = directory / "directory"
    folder.mkdir()
    os.setxattr(folder, "user.on-directory", b"value")
    os.setxattr(folder, "trusted.on-directory", b"")
    many = directory / "many"
    many.write_bytes(some_bytes(rng, 5000))
    for number in range(100):
        os.setxattr(many, f"user.number-{number}", random_bytes(rng, number))
    capable = directory / "capable"
    capable.write_bytes(some_bytes(rng, 5000))
    os.chown(capable, 10, 20)
    capable.chmod(0o755)
    os.setxattr(capable, "security.capability", CAPABILITY)


def acls(directory: Path, rng: random.Random) -> None:
    directory.mkdir()
    access = directory / "access"
    access.write_bytes(some_bytes(rng, 100))
    os.setxattr(access, "system.posix_acl_access", acl(6, {1000: 7, 4_000_000_000: 0}, 4, {33: 5}, 0))
    folder = directory / "default"
    folder.mkdir()
    os.setxattr(folder, "system.posix_acl_default", acl(7, {1000: 5}, 5, {}, 1))
    os.setxattr(folder, "system.posix_acl_access", acl(7, {2000: 3}, 5, {}, 0))
    (folder / "inherits").write_bytes(some_bytes(rng, 100))
    (folder / "inherits-too").mkdir()
    (folder / "inherits-too" / "deeper").write_bytes(b"x")


def names(directory: Path, rng: random.Random) -> None:
    directory.mkdir()
    odd = [
        "line\nfeed", "carriage\rreturn", "tab\t", " leading and trailing ", "-rf", "--help", "back\\slash", "'\"`$(x)`",
        "*?[a]", "%s%n", "~", "...", ".hidden", "\x01\x7f", "Grüße", "e\u0301", "\u00e9", "日本語", "🗄", "CON", "a:b",
        "\udcff\udcfe", "half\udce2\udc82", "n" * 255, "ü" * 127, "o257-7-0",
    ]
    for name in odd:
        (directory / name).write_bytes(some_bytes(rng, rng.randrange(200)))
    folder = directory / "directory\n\udcff" / ("d" * 255)
    folder.mkdir(parents=True)
    (folder / "inside").write_bytes(b"x")


def directories(directory: Path, rng: random.Random) -> None:
    (directory / "empty").mkdir(parents=True)
    deep = directory / "deep" / Path(*["d"] * 150)
    deep.mkdir(parents=True)
    (deep / "bottom").write_bytes(b"150 levels down")
    long = directory / "long" / Path(*["l" * 250] * 10)
    long.mkdir(parents=True)
    (long / "end").write_bytes(b"at the end of a path of 2,500 bytes")
    many = directory / "many"
    many.mkdir()
    for number in range(2000):
        (many / f"file-{number:04}").write_bytes(some_bytes(rng, rng.randrange(300)))


def reflinks(directory: Path, rng: random.Random) -> None:
    directory.mkdir()
    original = directory / "original"
    original.write_bytes(random_bytes(rng, 2 * MIB))
    reflink(original, directory / "whole")
    reflink(original, directory / "whole-then-edited")
    with open(directory / "whole-then-edited", "r+b") as file:
        file.seek(MIB)
        file.write(random_bytes(rng, 8 * KIB))
    part = directory / "part-at-offset"
    part.write_bytes(random_bytes(rng, MIB))
    reflink_range(original, 256 * KIB, 512 * KIB, part, 128 * KIB)
    itself = directory / "within-itself"
    itself.write_bytes(random_bytes(rng, 512 * KIB))
    reflink_range(itself, 0, 128 * KIB, itself, 256 * KIB)


def same_contents(directory: Path, rng: random.Random) -> None:
    directory.mkdir()
    contents = random_bytes(rng, MIB)
    for number in range(3):
        (directory / f"copy-{number}").write_bytes(contents)


def bulk(directory: Path, rng: random.Random, size_mib: int) -> None:
    """Small, medium and large files, `size_mib` together, in a few directories."""
    directory.mkdir()
    left = size_mib * MIB
    number = 0
    while left > 0:
        size = min(left, rng.choice((rng.randrange(32 * KIB), rng.randrange(512 * KIB), rng.randrange(6 * MIB))))
        folder = directory / f"{number % 7}" / f"{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"file-{number}").write_bytes(some_bytes(rng, size))
        left -= size
        number += 1

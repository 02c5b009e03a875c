"""Changes a seeded tree the way a night of use does, with every kind of change that a send stream can carry.

Everything is chosen from the tree as it is found, in sorted order, by a generator seeded with seed and night.
"""

import os
import random
import shutil
import stat
from pathlib import Path

from tree_seed import CAPABILITY, KIB, MIB, random_bytes, set_mtime, some_bytes
from tree_syscalls import acl, punch_hole, reflink, reflink_range


class Night:
    """The tree, the generator and the choices of one night."""

    def __init__(self, root: Path, seed_number: int, night: int) -> None:
        self.root = root
        self.rng = random.Random(f"seed {seed_number} night {night}")
        self.night = night
        self.names_made = 0
        self.root_length = len(os.fsencode(root))

    def walk(self) -> list[os.DirEntry]:
        """Everything below the root, sorted by path."""
        found = []
        pending = [str(self.root)]
        while pending:
            with os.scandir(pending.pop()) as children:
                for child in children:
                    found.append(child)
                    if child.is_dir(follow_symlinks=False):
                        pending.append(child.path)
        return sorted(found, key=lambda entry: entry.path)

    def length(self, path: str) -> int:
        return len(os.fsencode(path)) - self.root_length

    def entries(self) -> list[os.DirEntry]:
        """What is near the root: long and deep paths would be most of the choices, and grow beyond PATH_MAX."""
        deepest = str(self.root).count("/") + 10
        return [entry for entry in self.walk() if self.length(entry.path) < 600 and entry.path.count("/") < deepest]

    def paths(self, *types: int) -> list[Path]:
        """Paths of inodes of these types (stat.S_IFREG, …)."""
        return [
            Path(entry.path)
            for entry in self.entries()
            if stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode) in types
        ]

    def file_names(self, smallest: int, largest: int) -> list[str]:
        return [
            entry.path
            for entry in self.entries()
            if entry.is_file(follow_symlinks=False)
            and smallest <= entry.stat(follow_symlinks=False).st_size <= largest
        ]

    def files(self, smallest: int = 0, largest: int = 16 * MIB) -> list[Path]:
        return [Path(name) for name in self.file_names(smallest, largest)]

    def movable_directories(self) -> list[Path]:
        """Directories whose whole contents stay far from PATH_MAX wherever they are moved."""
        long = (Path(entry.path) for entry in self.walk() if self.length(entry.path) > 1500)
        fixed = {parent for path in long for parent in path.parents}
        return [path for path in self.directories() if path not in fixed]

    def directories(self) -> list[Path]:
        return self.paths(stat.S_IFDIR)

    def file(self, smallest: int = 0, largest: int = 16 * MIB) -> Path:
        """A file of any directory: the directory is chosen first, so that one with 2,000 files counts as one."""
        by_directory: dict[str, list[str]] = {}
        for name in self.file_names(smallest, largest):
            by_directory.setdefault(os.path.dirname(name), []).append(name)
        return Path(self.rng.choice(by_directory[self.rng.choice(list(by_directory))]))

    def directory(self) -> Path:
        return self.rng.choice(self.directories())

    def file_or_directory(self) -> Path:
        return self.rng.choice((self.file, self.directory))()

    def new_path(self, directory: Path | None = None) -> Path:
        """A path that was never used, so that no file is overwritten by chance."""
        self.names_made += 1
        return (directory or self.directory()) / f"night-{self.night}-{self.names_made}"

    def some_bytes(self, largest: int = 64 * KIB) -> bytes:
        return some_bytes(self.rng, self.rng.randrange(1, largest))


def mutate(root: Path, seed_number: int, night_number: int) -> None:
    """Makes the changes of one night below `root`."""
    night = Night(root, seed_number, night_number)
    for change, times in CHANGES.items():
        for _ in range(times):
            change(night)


def edit_in_place(night: Night) -> None:
    file = night.file(smallest=1)
    with open(file, "r+b") as opened:
        opened.seek(night.rng.randrange(file.stat().st_size))
        opened.write(night.some_bytes(8 * KIB))


def append(night: Night) -> None:
    with open(night.file(), "ab") as opened:
        opened.write(night.some_bytes())


def truncate_shorter(night: Night) -> None:
    file = night.file(smallest=2)
    os.truncate(file, night.rng.randrange(file.stat().st_size))


def truncate_longer(night: Night) -> None:
    file = night.file()
    os.truncate(file, file.stat().st_size + night.rng.randrange(1, 256 * KIB))


def punch(night: Night) -> None:
    file = night.file(smallest=16 * KIB)
    size = file.stat().st_size
    offset = night.rng.randrange(size)
    punch_hole(file, offset, night.rng.randrange(1, size - offset + 1))


def put_byte_in_front(night: Night) -> None:
    file = night.file(smallest=MIB)
    file.write_bytes(b"!" + file.read_bytes())


def save_like_an_editor(night: Night) -> None:
    file = night.file(largest=256 * KIB)
    new = night.new_path(file.parent)
    new.write_bytes(night.some_bytes())
    os.replace(new, file)


def rename_file(night: Night) -> None:
    os.rename(night.file(), night.new_path())


def move_large_file(night: Night) -> None:
    large = [path for path in night.files(smallest=4 * MIB) if path.name.startswith("moved-8-mib")]
    target = night.directory()
    if large:
        os.rename(large[0], target / f"moved-8-mib-{night.night}")
    else:
        (target / f"moved-8-mib-{night.night}").write_bytes(random_bytes(night.rng, 8 * MIB))


def swap_files(night: Night) -> None:
    first = night.file()
    swap(night, first, night.rng.choice([path for path in night.files() if path != first]))


def swap_directories(night: Night) -> None:
    movable = night.movable_directories()
    first = night.rng.choice(movable)
    apart = [path for path in movable if not is_within(path, first) and not is_within(first, path)]
    swap(night, first, night.rng.choice(apart))


def swap(night: Night, first: Path, second: Path) -> None:
    between = night.new_path(night.root)
    os.rename(first, between)
    os.rename(second, first)
    os.rename(between, second)


def is_within(path: Path, directory: Path) -> bool:
    return path == directory or directory in path.parents


def rename_directory(night: Night) -> None:
    source = night.rng.choice(night.movable_directories())
    targets = [path for path in night.directories() if not is_within(path, source)]
    os.rename(source, night.new_path(night.rng.choice(targets)))


def turn_inside_out(night: Night) -> None:
    """A directory becomes the parent of its own parent."""
    movable = night.movable_directories()
    child = night.rng.choice([path for path in movable if path.parent in movable])
    parent = child.parent
    outside = night.new_path(parent.parent)
    os.rename(child, outside)
    os.rename(parent, night.new_path(outside))


def delete_file(night: Night) -> None:
    os.unlink(night.file())


def count_below(directory: Path) -> int:
    # Not rglob: before Python 3.11.4 it follows symlinks, and fails at those whose text is too long for a name.
    return sum(len(folders) + len(files) for _, folders, files in os.walk(directory))


def delete_directory(night: Night) -> None:
    small = [path for path in night.directories() if count_below(path) <= 20]
    shutil.rmtree(night.rng.choice(small))


def file_to_directory(night: Night) -> None:
    file = night.file(largest=MIB)
    os.unlink(file)
    file.mkdir()
    (file / "was a file").write_bytes(night.some_bytes())


def directory_to_file(night: Night) -> None:
    small = [path for path in night.directories() if count_below(path) <= 5]
    directory = night.rng.choice(small)
    shutil.rmtree(directory)
    directory.write_bytes(night.some_bytes())


def add_link(night: Night) -> None:
    os.link(night.file(), night.new_path())


def remove_link(night: Night) -> None:
    linked = [path for path in night.files() if path.stat().st_nlink > 1]
    if linked:
        os.unlink(night.rng.choice(linked))


def change_xattrs(night: Night) -> None:
    path = night.file_or_directory()
    present = [name for name in os.listxattr(path) if name.startswith(("user.", "trusted."))]
    if present:
        os.setxattr(path, present[0], random_bytes(night.rng, 20))
    if len(present) > 1:
        os.removexattr(path, present[1])
    # What an inode can hold of xattrs has a limit of its own, far above this.
    if len(present) < 20:
        os.setxattr(path, f"user.night-{night.night}", random_bytes(night.rng, night.rng.randrange(200)))
        os.setxattr(path, f"trusted.night-{night.night}", b"")


def change_acl(night: Night) -> None:
    permission = night.rng.randrange(8)
    os.setxattr(night.file(), "system.posix_acl_access", acl(6, {1000 + night.night: permission}, 4, {}, 0))
    directory = night.directory()
    if "system.posix_acl_default" in os.listxattr(directory):
        os.removexattr(directory, "system.posix_acl_default")
    else:
        os.setxattr(directory, "system.posix_acl_default", acl(7, {1000: permission}, 5, {}, 0))


def change_mode(night: Night) -> None:
    night.file_or_directory().chmod(night.rng.randrange(0o10000))


def change_owner(night: Night) -> None:
    path = night.file_or_directory()
    os.chown(path, night.rng.randrange(100_000), night.rng.randrange(100_000))


def change_capability(night: Night) -> None:
    file = night.file(smallest=1)
    if "security.capability" in os.listxattr(file):
        os.removexattr(file, "security.capability")
    else:
        os.setxattr(file, "security.capability", CAPABILITY)


def change_mtime(night: Night) -> None:
    special = night.paths(stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR)
    path = night.rng.choice([night.file(), night.directory(), *special[:3]])
    set_mtime(path, night.rng.randrange(-(2**33), 2**34), night.rng.randrange(1_000_000_000))


def change_symlink(night: Night) -> None:
    link = night.rng.choice(night.paths(stat.S_IFLNK))
    os.unlink(link)
    os.symlink(f"../night {night.night}/{'x' * night.rng.randrange(200)}", link)


def change_device(night: Night) -> None:
    for device in night.paths(stat.S_IFCHR)[:1]:
        os.unlink(device)
        os.mknod(device, 0o600 | stat.S_IFCHR, os.makedev(1, night.night % 10))


def make_new(night: Night) -> None:
    folder = night.new_path()
    folder.mkdir()
    for _ in range(10):
        night.new_path(folder).write_bytes(night.some_bytes(32 * KIB))
    night.new_path(folder).write_bytes(night.some_bytes(2 * MIB))
    os.symlink("dangling", night.new_path(folder))
    os.mkfifo(night.new_path(folder))


def copy_file(night: Night) -> None:
    shutil.copyfile(night.file(), night.new_path())


def reflink_copy(night: Night) -> None:
    reflink(night.file(smallest=64 * KIB), night.new_path())


def reflink_part(night: Night) -> None:
    source = night.file(smallest=64 * KIB)
    target = night.new_path()
    target.write_bytes(random_bytes(night.rng, 100 * KIB))
    reflink_range(source, 4 * KIB * night.rng.randrange(8), 32 * KIB, target, 4 * KIB * night.rng.randrange(16))


def change_root(night: Night) -> None:
    night.root.chmod(0o700 + night.night % 8)
    os.chown(night.root, night.night, 1000 + night.night)
    os.setxattr(night.root, "user.night", str(night.night).encode())
    set_mtime(night.root, 1_300_000_000 + night.night, 1_000_000 + night.night)


# Change and how often, in the order made: what is chosen by its size before deletions, the root's time last.
CHANGES = {
    edit_in_place: 6,
    append: 3,
    truncate_shorter: 3,
    truncate_longer: 2,
    punch: 3,
    put_byte_in_front: 1,
    save_like_an_editor: 3,
    rename_file: 5,
    swap_files: 3,
    rename_directory: 2,
    swap_directories: 1,
    turn_inside_out: 1,
    make_new: 2,
    copy_file: 2,
    reflink_copy: 2,
    reflink_part: 2,
    add_link: 3,
    remove_link: 2,
    file_to_directory: 1,
    directory_to_file: 1,
    delete_file: 5,
    delete_directory: 1,
    move_large_file: 1,
    change_xattrs: 5,
    change_acl: 2,
    change_owner: 3,
    change_mode: 4,
    change_capability: 1,
    change_symlink: 2,
    change_device: 1,
    change_mtime: 4,
    change_root: 1,
}

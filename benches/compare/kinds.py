#!/usr/bin/env python3
"""Builds several nights of data of one kind each, and their send streams, for frames.py.

    apt-get download linux-source-6.1=6.1.170-3 …          # two or more versions
    sudo benches/compare/kinds.py OUT --source linux-source-6.1_6.1.170-3_all.deb --source …
    sudo benches/compare/kinds.py OUT --remove

OUT gets image (a sparse Btrfs image, mounted at OUT/mount) and streams/KIND/0.full, 1.incremental, …; one night for each
--source. The kinds: source (parts of a kernel's source tree, upgraded each night), disk (an ext4 file system in a file that has
programs, documentation, and each night one more directory of source and less of the former), database (SQLite, of which
rows are changed and added), mail (a mailbox and logs), binaries (libraries and programs of this system), packages.
"""

import argparse
import base64
import os
import random
import shutil
import sqlite3
import subprocess
from pathlib import Path

PARTS = ["fs", "kernel", "mm", "net", "drivers/net/ethernet", "drivers/media", "Documentation"]
DISK_BYTES = 768 << 20


def run(*command: object, **options) -> None:
    subprocess.run([str(word) for word in command], check=True, **options)


def unpack(package: Path, folder: Path) -> Path:
    """The parts of the source tree in a package."""
    name = package.name.split("_")[0]
    folder.mkdir(parents=True)
    archive = folder / "source.tar.xz"
    with open(archive, "wb") as output:
        whole = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE)
        run("tar", "-xO", f"./usr/src/{name}.tar.xz", stdin=whole.stdout, stdout=output)
        whole.wait()
    run("tar", "-xf", archive, "-C", folder, *(f"{name}/{part}" for part in PARTS))
    archive.unlink()
    return folder / name


def words_of(source: Path) -> list[str]:
    return (source / "Documentation/process/coding-style.rst").read_text().split()


def source(home: Path, night: int, tree: Path, package: Path) -> None:
    run("rsync", "-a", "--delete", "--checksum", f"{tree}/", home / "tree")


def disk(home: Path, night: int, tree: Path, package: Path) -> None:
    image, mount = home / "disk.img", home.parent.parent / "disk"
    mount.mkdir(exist_ok=True)
    if night == 0:
        with open(image, "wb") as file:
            file.truncate(DISK_BYTES)
        run("mkfs.ext4", "-q", "-F", image)
    run("mount", "-o", "loop", image, mount)
    try:
        if night == 0:
            run("cp", "-a", "/usr/share/doc", "/usr/sbin", "/usr/share/perl", mount)
        for former in mount.glob("copy.*"):
            shutil.rmtree(former)
        run("cp", "-a", tree / "fs", mount / f"copy.{night}")
        (mount / f"random.{night}").write_bytes(random.Random(night).randbytes(5 << 20))
    finally:
        run("umount", mount)


def database(home: Path, night: int, tree: Path, package: Path) -> None:
    rng, words, connection = random.Random(night), words_of(tree), sqlite3.connect(home / "app.sqlite")
    connection.execute("create table if not exists entries (id integer primary key, name text, body blob, note text)")
    rows = 150_000 if night == 0 else 5_000
    entry = ((f"{rng.getrandbits(64):x}", rng.randbytes(200), " ".join(rng.choices(words, k=60))) for _ in range(rows))
    connection.executemany("insert into entries (name, body, note) values (?, ?, ?)", entry)
    if night > 0:
        changed = ((rng.randbytes(200), rng.randrange(1, 150_000)) for _ in range(3_000))
        connection.executemany("update entries set body = ? where id = ?", changed)
    connection.commit()
    connection.close()


def mail(home: Path, night: int, tree: Path, package: Path) -> None:
    """Letters that quote each other, some with an attachment; a log that is rotated."""
    rng = random.Random(night)
    texts = sorted((tree / "Documentation").rglob("*.rst"))
    with open(home / "mailbox", "ab") as mailbox:
        for number in range(8_000 if night == 0 else 400):
            text = rng.choice(texts).read_bytes()
            start = rng.randrange(max(len(text) - 3_000, 1))
            address = f"{rng.getrandbits(80):x}@host.example.org"
            mailbox.write(f"From somebody {night} {number}\nMessage-Id: <{address}>\nSubject: on {start}\n\n".encode())
            mailbox.write(text[start : start + rng.randrange(500, 5_000)])
            if rng.random() < 0.05:
                mailbox.write(base64.encodebytes(rng.randbytes(60_000)))
    for number in range(night, 0, -1):
        (home / f"messages.{number - 1}").rename(home / f"messages.{number}")
    with open(home / "messages.0", "w") as log:
        for second in range(200_000):
            time = f"2026-11-{10 + night}T{second // 3600 % 24:02}:{second // 60 % 60:02}:{second % 60:02}"
            status, took = rng.choice((200, 200, 200, 304, 404, 500)), rng.expovariate(1 / 40)
            log.write(f"{time} host service[{rng.randrange(9_000)}]: id={rng.getrandbits(64):016x} {status} {took:.1f} ms\n")


def binaries(home: Path, night: int, tree: Path, package: Path) -> None:
    if night == 0:
        run("cp", "-a", "/usr/bin", "/usr/lib/gcc", "/usr/lib/python3", home)


def packages(home: Path, night: int, tree: Path, package: Path) -> None:
    shutil.copy(package, home)


KINDS = [source, disk, database, mail, binaries, packages]


def send(out: Path, kind: str, night: int) -> None:
    snapshots, streams = out / f"mount/snapshots.{kind}", out / "streams" / kind
    for folder in (snapshots, streams):
        folder.mkdir(parents=True, exist_ok=True)
    run("btrfs", "-q", "subvolume", "snapshot", "-r", out / "mount" / kind, snapshots / str(night))
    run("sync")
    against = ["-p", snapshots / str(night - 1)] if night > 0 else []
    path = streams / f"{night}.{'incremental' if against else 'full'}"
    with open(path, "wb") as stream:
        run("btrfs", "send", "-q", *against, snapshots / str(night), stdout=stream)
    print(f"{kind} {path.name}: {path.stat().st_size >> 20} MiB", flush=True)


def build(out: Path, versions: list[Path]) -> None:
    (out / "mount").mkdir(parents=True)
    with open(out / "image", "wb") as image:
        image.truncate(32 << 30)
    run("mkfs.btrfs", "-q", out / "image", stdout=subprocess.DEVNULL)
    run("mount", "-o", "loop,noatime", out / "image", out / "mount")
    for kind in KINDS:
        run("btrfs", "-q", "subvolume", "create", out / "mount" / kind.__name__)
    for night, package in enumerate(versions):
        tree = unpack(package, out / f"unpacked.{night}")
        for kind in KINDS:
            kind(out / "mount" / kind.__name__, night, tree, package)
            send(out, kind.__name__, night)
        shutil.rmtree(out / f"unpacked.{night}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--source", type=Path, action="append", default=[], help="a package with a kernel's source, in order")
    parser.add_argument("--remove", action="store_true", help="unmounts and deletes what was built in OUT")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    if arguments.remove:
        if os.path.ismount(out / "mount"):
            run("umount", out / "mount")
        shutil.rmtree(out)
    else:
        build(out, [path.resolve() for path in arguments.source])


if __name__ == "__main__":
    main()

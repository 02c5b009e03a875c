#!/usr/bin/env python3
"""Builds nights of a subvolume as a host may have it, and their send streams, for storage.py and compare.py.

    sudo benches/compare/nights.py OUT --nights 6 --source /usr/share --source /usr/lib/python3

OUT gets image (a sparse Btrfs image, mounted at OUT/mount until --remove, with one read-only snapshot a night under
snapshots/0, 1, …) and streams/ with full.N and inc.N. What is in the subvolume: copies of the sources, of which each night
some files are edited, some renamed, and all touched; the disk of a virtual machine, written to in places; a SQLite database,
with updates and inserts; logs, appended to and rotated; media, of which a file comes each night. All but the sources is
made up by seeds, so the same sources give the same nights.
"""

import argparse
import os
import random
import shutil
import sqlite3
import subprocess
from pathlib import Path

DISK_BYTES = 512 << 20
IMAGE_BYTES = 32 << 30


def run(*command: object, stdout: object = None) -> None:
    subprocess.run([str(word) for word in command], check=True, stdout=stdout)


def seed_sources(data: Path, sources: list[Path]) -> None:
    for number, source in enumerate(sources):
        run("cp", "-a", "--reflink=never", source, data / f"source{number}")


def change_sources(data: Path, night: int, generator: random.Random) -> None:
    """An upgrade: every file gets a new time, one in forty another content, one directory another name."""
    for number, root in enumerate(sorted(data.glob("source*"))):
        files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
        for path in files:
            os.utime(path, (1_700_000_000 + night * 86_400,) * 2)
            if generator.random() < 1 / 40:
                content = path.read_bytes()
                middle = generator.randrange(len(content) + 1)
                line = f"changed in night {night}: {generator.getrandbits(64):x}\n".encode()
                path.write_bytes(content[:middle] + line + content[middle:])
        folders = sorted(path for path in root.iterdir() if path.is_dir())
        if folders:
            chosen = folders[generator.randrange(len(folders))]
            chosen.rename(chosen.with_name(f"{chosen.name.split('.night')[0]}.night{night}.{number}"))


def write_disk(data: Path, night: int, generator: random.Random) -> None:
    """Blocks of 4 KiB to 256 KiB, at places that are aligned as a file system aligns them."""
    path = data / "disk.img"
    path.touch()
    with open(path, "r+b") as disk:
        disk.truncate(DISK_BYTES)
        for _ in range(2_000 if night == 0 else 150):
            disk.seek(generator.randrange(DISK_BYTES // 4096) * 4096)
            block = generator.randbytes(2048) + b"text of a file " * 136
            disk.write(block[:4096] * generator.randrange(1, 64))
        disk.truncate(DISK_BYTES)


def write_database(data: Path, night: int, generator: random.Random) -> None:
    database = sqlite3.connect(data / "app.sqlite")
    database.execute("create table if not exists entries (id integer primary key, name text, body blob)")
    rows = 100_000 if night == 0 else 3_000
    entry = ((f"{generator.getrandbits(96):x}", generator.randbytes(400)) for _ in range(rows))
    database.executemany("insert into entries (name, body) values (?, ?)", entry)
    if night > 0:
        changed = ((generator.randbytes(400), generator.randrange(1, 100_000)) for _ in range(2_000))
        database.executemany("update entries set body = ? where id = ?", changed)
    database.commit()
    database.close()


def write_logs(data: Path, night: int, generator: random.Random) -> None:
    log = data / "log"
    log.mkdir(exist_ok=True)
    if night > 0:
        (log / "messages").rename(log / f"messages.{night}")
    lines = (f"night {night} {number} {generator.getrandbits(40):x} something happened" for number in range(50_000))
    (log / "messages").write_text("\n".join(lines))
    with open(data / "mailbox", "a") as mailbox:
        mailbox.writelines(f"From {generator.getrandbits(64):x}\n" + "a line of a letter\n" * 40 for _ in range(1_000))


def add_media(data: Path, night: int, generator: random.Random) -> None:
    media = data / "media"
    media.mkdir(exist_ok=True)
    for number in range(8 if night == 0 else 1):
        (media / f"recording.{night}.{number}").write_bytes(generator.randbytes(16 << 20))


def live(data: Path, night: int, sources: list[Path]) -> None:
    generator = random.Random(night)
    if night == 0:
        seed_sources(data, sources)
    else:
        change_sources(data, night, generator)
    for write in (write_disk, write_database, write_logs, add_media):
        write(data, night, generator)


def send(out: Path, night: int) -> None:
    snapshots, streams = out / "mount/snapshots", out / "streams"
    run("btrfs", "-q", "subvolume", "snapshot", "-r", out / "mount/data", snapshots / str(night))
    run("sync")
    with open(streams / f"full.{night}", "wb") as stream:
        run("btrfs", "send", "-q", snapshots / str(night), stdout=stream)
    if night > 0:
        with open(streams / f"inc.{night}", "wb") as stream:
            run("btrfs", "send", "-q", "-p", snapshots / str(night - 1), snapshots / str(night), stdout=stream)


def build(out: Path, nights: int, sources: list[Path]) -> None:
    for folder in (out / "mount", out / "streams"):
        folder.mkdir(parents=True)
    with open(out / "image", "wb") as image:
        image.truncate(IMAGE_BYTES)
    run("mkfs.btrfs", "-q", out / "image")
    run("mount", "-o", "loop,noatime", out / "image", out / "mount")
    run("btrfs", "-q", "subvolume", "create", out / "mount/data")
    (out / "mount/snapshots").mkdir()
    for night in range(nights):
        live(out / "mount/data", night, sources)
        send(out, night)
        sizes = [f"{path.name} {path.stat().st_size >> 20} MiB" for path in (out / "streams").glob(f"*.{night}")]
        print(f"night {night}: {', '.join(sorted(sizes))}", flush=True)


def remove(out: Path) -> None:
    if os.path.ismount(out / "mount"):
        run("umount", out / "mount")
    shutil.rmtree(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--nights", type=int, default=6)
    parser.add_argument("--source", type=Path, action="append", help="a folder to copy; default: /usr/share")
    parser.add_argument("--remove", action="store_true", help="unmounts and deletes what was built in OUT")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    if arguments.remove:
        remove(out)
    elif out.exists():
        parser.error(f"{out} is there already: --remove deletes it")
    else:
        build(out, arguments.nights, arguments.source or [Path("/usr/share")])


if __name__ == "__main__":
    main()

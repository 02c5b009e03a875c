#!/usr/bin/env python3
"""Measures what it gains to send several subvolumes at once ([global] subvolumes_at_once), on a real Btrfs. Needs root.

    cargo build --release
    sudo benches/compare/side_by_side.py /var/tmp/side --results benches/compare/results/side_by_side.json
    integration_tests/garage.sh start /tmp/garage; . /tmp/garage/environment
    sudo -E benches/compare/side_by_side.py /var/tmp/side --s3 s3://test-bucket/side --round-trip-ms 50 --results …

Three subvolumes with other content each, of many small files and a few large ones, on a Btrfs in a loop device below the given
folder, which must not be there and is removed afterwards. Each round has a repository for each number at once, and does, in turn:
everything for the first time; a full backup again; a backup when nothing has changed; one after some files have.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import subprocess
from pathlib import Path

from measuring import BINARY, MIB, Record, run, write_config
from relay import Relay

SUBVOLUMES = 3
FILE_BYTES = (300, 2_000, 9_000, 60_000, 700, 4_000, 700_000, 3_000_000)
STEPS = {"new": ["--full"], "full again": ["--full"], "nothing changed": [], "some changed": []}


def fill(folder: Path, mib: int, seed: int) -> None:
    """Files of all sizes, every other one of words and else random, in directories of fifty."""
    generator, written, number = random.Random(seed), 0, 0
    while written < mib * MIB:
        length = FILE_BYTES[number % len(FILE_BYTES)]
        directory = folder / f"directory_{number // 50}"
        directory.mkdir(exist_ok=True)
        (directory / f"file_{number}").write_bytes(content(generator, length, number % 2 == 0))
        written, number = written + length, number + 1


def content(generator: random.Random, length: int, is_text: bool) -> bytes:
    if not is_text:
        return generator.randbytes(length)
    words = " ".join(f"word{generator.randrange(5000)}" for _ in range(length // 8 + 1))
    return words.encode()[:length]


def change(folder: Path, seed: int) -> None:
    """Appends to one file in ten."""
    generator = random.Random(seed)
    for directory in sorted(folder.iterdir()):
        for path in sorted(directory.iterdir())[:5]:
            with open(path, "ab") as file:
                file.write(generator.randbytes(5_000))


@contextlib.contextmanager
def file_system(folder: Path, mib: int):
    folder.mkdir(parents=True)
    image, mount = folder / "image", folder / "mount"
    try:
        with open(image, "wb") as file:
            file.truncate(16 << 30)
        mount.mkdir()
        subprocess.run(["mkfs.btrfs", "-q", image], check=True)
        subprocess.run(["mount", "-o", "loop,noatime", image, mount], check=True)
        for number in range(SUBVOLUMES):
            subprocess.run(["btrfs", "-q", "subvolume", "create", mount / f"data{number}"], check=True)
            fill(mount / f"data{number}", mib, number)
        subprocess.run(["sync"], check=True)
        yield mount
    finally:
        if os.path.ismount(mount):
            subprocess.run(["umount", mount], check=True)
        shutil.rmtree(folder)


def configure(folder: Path, mount: Path, url: str, at_once: int) -> Path:
    base = mount / "snapshots" / folder.name
    base.mkdir(parents=True)
    sections = [f'[global]\nstate_dir = "{folder}/state"\nsubvolumes_at_once = {at_once}', f'[snapshots]\nbase_dir = "{base}"']
    sections += [f'[[subvolumes]]\npath = "{mount}/data{number}"' for number in range(SUBVOLUMES)]
    return write_config(folder, url, "\n".join(sections))


def measure(record: Record, mount: Path, number: int, arguments: argparse.Namespace, relay: Relay | None) -> None:
    """One round: each step with each number at once, one after the other."""
    programs, server = {}, {"AWS_ENDPOINT_URL_S3": relay.url} if relay else {}
    for at_once in arguments.at_once:
        folder = arguments.folder / f"round{number}-{at_once}"
        url = f"{arguments.s3}/{os.getpid()}/{folder.name}" if arguments.s3 else f"file://{folder}/repository"
        programs[at_once] = [BINARY, "--config", configure(folder, mount, url, at_once)]
        run([*programs[at_once], "init"], environment=server)
    for step, options in STEPS.items():
        if step == "some changed":
            for subvolume in range(SUBVOLUMES):
                change(mount / f"data{subvolume}", number)
            subprocess.run(["sync"], check=True)
        # Who goes first differs: the second one finds the files in memory.
        for at_once, program in sorted(programs.items(), reverse=number % 2 == 1):
            what = {"step": step, "at_once": at_once, "round_trip_ms": arguments.round_trip_ms if relay else None}
            measured = run([*program, "backup", "--json", *options], environment=server)
            record.add(what | measured | stored(program, server))


def stored(program: list[object], server: dict[str, str]) -> dict:
    words = [str(word) for word in [*program, "stats", "--json"]]
    said = subprocess.run(words, env=dict(os.environ) | server, capture_output=True, check=True).stdout
    return {"stored_mb": round(json.loads(said)["stored_bytes"] / 1e6, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mib", type=int, default=300, help="of each subvolume")
    parser.add_argument("--at-once", type=int, action="append", help="default: 1 and 3")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--s3", default="", help="URL below which repositories are made; default: local ones")
    parser.add_argument("--round-trip-ms", type=float, default=0)
    parser.add_argument("--results", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.at_once = arguments.at_once or [1, 3]
    record = Record(arguments.results, mib=arguments.mib, subvolumes=SUBVOLUMES)
    with contextlib.ExitStack() as stack:
        relay = None
        if arguments.s3:
            relay = stack.enter_context(Relay(os.environ["AWS_ENDPOINT_URL_S3"], arguments.round_trip_ms))
        mount = stack.enter_context(file_system(arguments.folder, arguments.mib))
        for number in range(arguments.rounds):
            measure(record, mount, number, arguments, relay)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Measures what the number of chunks costs: memory, CPU time and requests of the commands that look at all of a repository.

    cargo build --release
    benches/compare/scale.py --mib 256 --mib 2560 --results benches/compare/results/scale.json
    integration_tests/garage.sh start /tmp/garage; . /tmp/garage/environment
    benches/compare/scale.py --mib 256 --s3 s3://test-bucket/scale --results …
    benches/compare/scale.py --mib 29440 --parts 2 --holes --work /var/tmp --results …

Chunks are some 310 bytes long here, so that 256 MiB make 0.9 million of them. With --s3, requests are counted by a relay. One repository
for each length: it is filled, 6 bytes are stored, 16 and 256 MiB that it has, and 16 MiB that are new; all is looked at; the last of these
is forgotten and pruned, with all rewriting that a prune does by default; and the state is thrown away, so that the next backup reads the
whole index. Where it is filled in several parts, 6 bytes are stored after each. With --holes, what it is filled with does not take its
space: the frames of data packs are punched out as the packs come, but those of the first ones, which are restored. Nothing else reads them.
"""

import argparse
import contextlib
import os
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from measuring import BINARY, MIB, Record, noise, run, write_config
from relay import Relay

CHUNKING = '[chunking]\nminimum = "64 B"\naverage = "256 B"\nmaximum = "1 KiB"'
SIX = ["printf", "sixsix"]
# With chunks that short, a tenth of a pack is its footer, which has to stay.
FRAMES_OF_PACK = 0.85
# Smaller ones a prune puts together.
PUNCHED_LEAST = 16 * MIB
# So many are not punched: those of the first 16 MiB, and what may be stored before them.
WHOLE_PACKS = 6

Step = tuple[str, list[object], object]


class Holes:
    """Punches out the frames of data packs, as they come."""

    def __init__(self, packs: Path):
        self.packs, self.punched, self.done = packs, set(), threading.Event()
        self.thread = threading.Thread(target=self.follow)

    def __enter__(self) -> "Holes":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()

    def follow(self) -> None:
        while not self.done.wait(1):
            # A pack has its name when it is whole.
            packs = sorted((pack for pack in self.packs.rglob("*") if pack.is_file()), key=lambda pack: pack.stat().st_mtime)
            for pack in set(packs[WHOLE_PACKS:]) - self.punched:
                self.punched.add(pack)
                size = pack.stat().st_size
                if size < PUNCHED_LEAST:
                    continue
                length = int(size * FRAMES_OF_PACK) // 4096 * 4096
                subprocess.run(["fallocate", "--punch-hole", "--offset", "4096", "--length", str(length), pack], check=True)


def backup(program: list[object], name: str) -> list[object]:
    return [*program, "backup", "--stdin", "--opaque", "--name", name]


def fill(program: list[object], mib: int, number: int) -> list[Step]:
    """Fills in the part of so many MiB that has this number."""
    return [
        ("fill", backup(program, f"all-{number}"), noise(mib, number * mib)),
        ("6 bytes", backup(program, "six"), ["printf", f"six{number:03}"]),
    ]


def use(program: list[object], mib: int) -> list[Step]:
    other = ["sh", "-c", f"head -c {16 * MIB} /dev/zero | openssl enc -aes-128-ctr -nosalt -K {'7' * 32} -iv {'0' * 32}"]
    return [
        ("16 MiB, known", backup(program, "known"), noise(16)),
        ("256 MiB, known", backup(program, "known-256"), noise(min(mib, 256))),
        ("16 MiB, new", backup(program, "other"), other),
        ("stats", [*program, "stats"], None),
        ("check", [*program, "check"], None),
        ("restore 16 MiB", [*program, "restore", "latest", "--subvolume", "known", "--stream", "-"], None),
        ("6 bytes instead", backup(program, "other"), SIX),
        ("forget", [*program, "forget", "--keep-last", "1", "--subvolume", "other"], None),
        ("prune", [*program, "prune", "--grace", "0s"], None),
        ("prune again", [*program, "prune", "--grace", "0s"], None),
        ("6 bytes, without state", backup(program, "six"), SIX),
    ]


def bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measure(record: Record, folder: Path, mib: int, relay: Relay | None, arguments: argparse.Namespace) -> None:
    repository, state = folder / "repository", folder / "state"
    url = f"{arguments.s3}/{os.getpid()}/{mib}" if arguments.s3 else f"file://{repository}"
    program = [BINARY, "--config", write_config(folder, url, f'[global]\nstate_dir = "{state}"\n{CHUNKING}')]
    server = {"AWS_ENDPOINT_URL_S3": relay.url} if relay else {}
    run([*program, "init"], environment=server)

    filled_mib, ends = 0, time.monotonic() + arguments.fill_minutes * 60

    def step(name: str, command: list[object], stdin: object) -> None:
        if name == "6 bytes, without state":
            shutil.rmtree(state)
        requests = relay.requests if relay else 0
        measured = run(command, stdin, server)
        counted = {"requests": relay.requests - requests} if relay else {"index_bytes": bytes_below(repository / "index")}
        counted["local_index_bytes"] = sum(bytes_below(index) for index in state.rglob("index"))
        record.add({"mib": filled_mib, "store": "s3" if relay else "local", "step": name} | measured | counted)

    with Holes(repository / "data") if arguments.holes else contextlib.nullcontext():
        for number in range(arguments.parts):
            if number > 0 and time.monotonic() > ends:
                break
            filled_mib += mib // arguments.parts
            for each in fill(program, mib // arguments.parts, number):
                step(*each)
    for each in use(program, filled_mib):
        step(*each)
    shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, action="append", required=True)
    parser.add_argument("--parts", type=int, default=1, help="by so many backups a repository is filled")
    parser.add_argument("--fill-minutes", type=float, default=float("inf"), help="after that, no further part is begun")
    parser.add_argument("--holes", action="store_true", help="local: what it is filled with does not take its space")
    parser.add_argument("--s3", default="", help="URL below which repositories are made; default: local ones")
    parser.add_argument("--work", type=Path, help="folder for the repositories; default: that for temporary files")
    parser.add_argument("--results", type=Path, required=True)
    arguments = parser.parse_args()
    record = Record(arguments.results)
    with contextlib.ExitStack() as stack:
        work = stack.enter_context(tempfile.TemporaryDirectory(dir=arguments.work, prefix="scale-"))
        relay = stack.enter_context(Relay(os.environ["AWS_ENDPOINT_URL_S3"])) if arguments.s3 else None
        for mib in arguments.mib:
            measure(record, Path(work) / str(mib), mib, relay, arguments)


if __name__ == "__main__":
    main()

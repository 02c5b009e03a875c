#!/usr/bin/env python3
"""Measures what the number of chunks costs: memory, CPU time and requests of the commands that look at all of a repository.

    cargo build --release
    benches/compare/scale.py --mib 256 --mib 2560 --results benches/compare/results/scale.json
    integration_tests/garage.sh start /tmp/garage; . /tmp/garage/environment
    benches/compare/scale.py --mib 256 --s3 s3://test-bucket/scale --results …

Chunks are some 310 bytes long here, so that 256 MiB make 0.9 million of them. With --s3, requests are counted by a relay. One repository
for each length: it is filled, 6 bytes are stored, 16 MiB that it has, and 16 MiB that are new; all is looked at; the last of these is
forgotten and pruned, with all rewriting that a prune does by default; and the state is thrown away, so that the next backup reads the
whole index.
"""

import argparse
import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from measuring import BINARY, MIB, Record, noise, run, write_config
from relay import Relay

CHUNKING = '[chunking]\nminimum = "64 B"\naverage = "256 B"\nmaximum = "1 KiB"'


def steps(program: list[object], mib: int) -> list[tuple[str, list[object], object]]:
    def backup(name: str) -> list[object]:
        return [*program, "backup", "--stdin", "--opaque", "--name", name]

    other = ["sh", "-c", f"head -c {16 * MIB} /dev/zero | openssl enc -aes-128-ctr -nosalt -K {'7' * 32} -iv {'0' * 32}"]
    six = ["printf", "sixsix"]
    return [
        ("fill", backup("all"), noise(mib)),
        ("6 bytes", backup("six"), six),
        ("16 MiB, known", backup("known"), noise(16)),
        ("16 MiB, new", backup("other"), other),
        ("stats", [*program, "stats"], None),
        ("check", [*program, "check"], None),
        ("restore 16 MiB", [*program, "restore", "latest", "--subvolume", "known", "--stream", "-"], None),
        ("6 bytes instead", backup("other"), six),
        ("forget", [*program, "forget", "--keep-last", "1", "--subvolume", "other"], None),
        ("prune", [*program, "prune", "--grace", "0s"], None),
        ("prune again", [*program, "prune", "--grace", "0s"], None),
    ]


def measure(record: Record, folder: Path, mib: int, s3: str, relay: Relay | None) -> None:
    url = f"{s3}/{os.getpid()}/{mib}" if s3 else f"file://{folder}/repository"
    text = f'[global]\nstate_dir = "{folder}/state"\n{CHUNKING}'
    program = [BINARY, "--config", write_config(folder, url, text)]
    server = {"AWS_ENDPOINT_URL_S3": relay.url} if relay else {}
    run([*program, "init"], environment=server)
    of_index = [("6 bytes, without state", [*program, "backup", "--stdin", "--name", "six"], ["printf", "sixsix"])]
    for step, command, stdin in steps(program, mib) + of_index:
        if step == "6 bytes, without state":
            shutil.rmtree(folder / "state")
        requests = relay.requests if relay else 0
        measured = run(command, stdin, server)
        counted = {"requests": relay.requests - requests} if relay else {}
        record.add({"mib": mib, "store": "s3" if s3 else "local", "step": step} | measured | counted)
    shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, action="append", required=True)
    parser.add_argument("--s3", default="", help="URL below which repositories are made; default: local ones")
    parser.add_argument("--work", type=Path, help="folder for the repositories; default: that for temporary files")
    parser.add_argument("--results", type=Path, required=True)
    arguments = parser.parse_args()
    record = Record(arguments.results)
    with contextlib.ExitStack() as stack:
        work = stack.enter_context(tempfile.TemporaryDirectory(dir=arguments.work, prefix="scale-"))
        relay = stack.enter_context(Relay(os.environ["AWS_ENDPOINT_URL_S3"])) if arguments.s3 else None
        for mib in arguments.mib:
            measure(record, Path(work) / str(mib), mib, arguments.s3, relay)


if __name__ == "__main__":
    main()

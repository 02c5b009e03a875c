#!/usr/bin/env python3
"""Measures backups and restores with a server that is some way off: all new, all known, and back.

    cargo build --release
    integration_tests/garage.sh start /tmp/garage; . /tmp/garage/environment
    benches/compare/distance.py s3://test-bucket/distance --results benches/compare/results/distance.json

The server, at AWS_ENDPOINT_URL_S3 and without TLS, is reached through a relay (relay.py) with each of the round-trip times
in turn, in several rounds. The stream cannot be compressed, and is another one in each run, as servers may deduplicate. What is
stored is left there. --broken-after-mib has connections broken after so many MiB on average, in a run of its own.
"""

import argparse
import os
import shutil
import tempfile
from pathlib import Path

from measuring import BINARY, MIB, Record, run, write_config
from relay import Relay


def noise_of_run(mib: int, number: int) -> list[str]:
    zeros, key = f"head -c {mib * MIB} /dev/zero", f"{os.getpid():016x}{number:016x}"
    return ["sh", "-c", f"{zeros} | openssl enc -aes-128-ctr -nosalt -K {key} -iv {'0' * 32}"]


def measure(record: Record, relay: Relay, folder: Path, url: str, arguments: argparse.Namespace, number: int) -> None:
    text = f'[global]\nstate_dir = "{folder}/state"\n{arguments.config}'
    program = [BINARY, "--config", write_config(folder, url, text)]
    server = {"AWS_ENDPOINT_URL_S3": relay.url}
    run([*program, "init"], environment=server)
    source = noise_of_run(arguments.mib, number)
    backup = [*program, "backup", "--stdin", "--opaque", "--name", "data"]
    restore = [*program, "restore", "latest", "--subvolume", "data", "--stream", "-"]
    for step, command, stdin in (("new", backup, source), ("unchanged", backup, source), ("restore", restore, None)):
        requests, broken = relay.requests, relay.broken
        measured = run(command, stdin, server)
        what = {"round_trip_ms": relay.round_trip_ms, "broken_after_mib": relay.broken_after_mib, "step": step}
        counts = {"requests": relay.requests - requests, "broken": relay.broken - broken}
        record.add(what | measured | counts | {"mb_per_s": round(arguments.mib * MIB / 1e6 / measured["wall_s"], 1)})
    shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="below which repositories are made")
    parser.add_argument("--mib", type=int, default=2048, help="length of the stream")
    parser.add_argument("--round-trip-ms", type=float, action="append", help="default: 0, 50, 100")
    parser.add_argument("--broken-after-mib", type=float, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--config", default="", help="more lines of the configuration")
    parser.add_argument("--results", type=Path, required=True)
    arguments = parser.parse_args()
    record, number = Record(arguments.results, mib=arguments.mib, config=arguments.config), 0
    with (
        tempfile.TemporaryDirectory(prefix="distance-") as work,
        Relay(os.environ["AWS_ENDPOINT_URL_S3"], 0, arguments.broken_after_mib) as relay,
    ):
        for _ in range(arguments.rounds):
            for relay.round_trip_ms in arguments.round_trip_ms or (0, 50, 100):
                number += 1
                url = f"{arguments.url}/{os.getpid()}/{number}"
                measure(record, relay, Path(work) / "run", url, arguments, number)


if __name__ == "__main__":
    main()

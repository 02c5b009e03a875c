#!/usr/bin/env python3
"""Measures backups and restores with a server that lets only so many requests a second through (busy.py).

    cargo build --release
    integration_tests/garage.sh start /tmp/garage; . /tmp/garage/environment
    benches/compare/slow_down.py s3://test-bucket/slow --results benches/compare/results/slow_down.json

The stream cannot be compressed; packs are small, so that there are many requests. For each step: how many requests were let
through and refused, and the share of what the server allows that was used, while requests came.
"""

import argparse
import os
import shutil
import tempfile
from pathlib import Path

from busy import BusyServer
from distance import noise_of_run
from measuring import BINARY, Record, run, write_config


def measure(record: Record, server: BusyServer, folder: Path, url: str, arguments: argparse.Namespace, number: int) -> None:
    text = f'[global]\nstate_dir = "{folder}/state"\n[packing]\npack_target = "4 MiB"\n{arguments.config}'
    program = [BINARY, "--config", write_config(folder, url, text)]
    environment, allowed = {"AWS_ENDPOINT_URL_S3": server.url}, server.per_second
    server.per_second = 0
    run([*program, "init"], environment=environment)
    server.per_second = allowed
    source = noise_of_run(arguments.mib, number)
    backup = [*program, "backup", "--stdin", "--opaque", "--name", "data"]
    restore = [*program, "restore", "latest", "--subvolume", "data", "--stream", "-"]
    for step, command, stdin in (("new", backup, source), ("restore", restore, None)):
        server.let_through, server.refused = [], []
        measured = run(command, stdin, environment)
        seconds = max(server.let_through) - min(server.let_through)
        counts = {"let_through": len(server.let_through), "refused": len(server.refused)}
        used = {"share_used": round((len(server.let_through) - 1) / seconds / allowed, 2)} if allowed else {}
        record.add({"allowed_per_second": allowed, "step": step} | measured | counts | used)
    shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="below which repositories are made")
    parser.add_argument("--mib", type=int, default=256, help="length of the stream")
    parser.add_argument("--per-second", type=float, action="append", help="requests; default: 0 (no limit), 20, 5, 2")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--config", default="", help="more lines of the configuration")
    parser.add_argument("--results", type=Path, required=True)
    arguments = parser.parse_args()
    record, number = Record(arguments.results, mib=arguments.mib, config=arguments.config), 0
    with (
        tempfile.TemporaryDirectory(prefix="slow-down-") as work,
        BusyServer(os.environ["AWS_ENDPOINT_URL_S3"]) as server,
    ):
        for _ in range(arguments.rounds):
            for server.per_second in arguments.per_second or (0, 20, 5, 2):
                number += 1
                measure(record, server, Path(work) / "run", f"{arguments.url}/{os.getpid()}/{number}", arguments, number)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Measures the peak of memory of a first backup, one of which all is known, and a restore: with the usual settings, with
[global] low_memory = true, and with smaller packs besides, in turn, of streams of several lengths that cannot be compressed and of send streams.

    cargo build --release
    benches/compare/memory.py --mib 512 --mib 5120 --results benches/compare/results/memory.json
    integration_tests/garage.sh start /tmp/garage; . /tmp/garage/environment
    benches/compare/memory.py --mib 512 --s3 s3://test-bucket/memory --results …

--stream FILE adds a send stream, such as one that nights.py has built. Repositories are below --work, or at --s3 (which is
not emptied afterwards).
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from measuring import BINARY, Record, noise, run, write_config

SETTINGS = {
    "default": "",
    "low": "low_memory = true",
    "low, packs of 16 MiB": 'low_memory = true\n[packing]\npack_target = "16 MiB"',
}


def measure(record: Record, work: Path, store: str, setting: str, stream: tuple[str, object], options: list[str]) -> None:
    """One repository: a stream goes in twice and comes out once."""
    name, source = stream
    folder = work / f"{setting}-{name}".replace(" ", "-").replace(",", "")
    url = f"{store}/{folder.name}" if store else f"file://{folder}/repository"
    text = f'[global]\nstate_dir = "{folder}/state"\n{SETTINGS[setting]}'
    program = [BINARY, "--config", write_config(folder, url, text)]
    run([*program, "init"])
    backup = [*program, "backup", "--stdin", "--name", "data", *options]
    steps = {
        "new": (backup, source),
        "unchanged": (backup, source),
        "restore": ([*program, "restore", "latest", "--subvolume", "data", "--stream", "-"], None),
    }
    for step, (command, stdin) in steps.items():
        what = {"setting": setting, "stream": name, "store": "s3" if store else "local", "step": step}
        record.add(what | run(command, stdin))
    shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, action="append", default=[], help="length of a stream that is made up")
    parser.add_argument("--stream", type=Path, action="append", default=[], help="a send stream")
    parser.add_argument("--setting", action="append", choices=list(SETTINGS), help="default: all")
    parser.add_argument("--s3", default="", help="URL below which repositories are made; default: local ones")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--work", type=Path, help="folder for the repositories; default: that for temporary files")
    parser.add_argument("--results", type=Path, required=True)
    arguments = parser.parse_args()
    record = Record(arguments.results)
    streams = [((f"{mib} MiB", noise(mib)), ["--opaque"]) for mib in arguments.mib]
    streams += [((path.name, path.resolve()), []) for path in arguments.stream]
    with tempfile.TemporaryDirectory(dir=arguments.work, prefix="memory-") as work:
        for number in range(arguments.rounds):
            for stream, options in streams:
                for setting in arguments.setting or SETTINGS:
                    store = f"{arguments.s3}/{number}" if arguments.s3 else ""
                    measure(record, Path(work), store, setting, stream, options)


if __name__ == "__main__":
    main()

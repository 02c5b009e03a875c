#!/usr/bin/env python3
"""Stores nights one after another with several archivers, and writes down what each night took.

    sudo benches/compare/nights.py OUT
    cargo build --release
    sudo benches/compare/storage.py OUT --results benches/compare/results/storage.json
    benches/compare/plot.py benches/compare/results/storage.json docs/plots

Each of restic, borg, rustic and bupstash that is on PATH stores the nights in two ways: their snapshots as files, and the
send streams of all of them in full, from standard input. btrfs_to_s3 stores the streams in full, and the first in full and
then what has changed. Every way has a repository of its own, below --work, which is removed at the end. Night by night, all
programs in turn. The results are JSON: of each way and night the bytes of all files of the repository, wall and CPU
seconds, and the peak memory of the largest process. --ways picks some.
"""

import argparse
import json
import os
import platform
import subprocess
import tempfile
from pathlib import Path

import compare
from compare import Bupstash, Borg, Ours, Program, Restic, Rustic


class Way:
    """One program that stores nights in one way."""

    def __init__(self, name: str, program: Program, nights: Path):
        self.name, self.program, self.nights = name, program, nights

    def store(self, night: int) -> compare.Figures:
        raise NotImplementedError


class Streams(Way):
    """Send streams from standard input: all of them in full, or only the first."""

    def __init__(self, name: str, program: Program, nights: Path, incremental: bool):
        super().__init__(name, program, nights)
        self.incremental = incremental

    def store(self, night: int) -> compare.Figures:
        kind = "inc" if self.incremental and night > 0 else "full"
        return self.program.measure(self.program.store("data"), self.nights / f"streams/{kind}.{night}")


class Files(Way):
    """The files of the snapshots, by the program's own walk through directories."""

    def store(self, night: int) -> compare.Figures:
        folder = self.nights / f"mount/snapshots/{night}"
        program = self.program
        if isinstance(program, Restic):
            command = [program.binary, "backup", "--quiet", str(folder)]
        elif isinstance(program, Rustic):
            command = program.command("backup", str(folder))
        elif isinstance(program, Borg):
            command = [program.binary, "create", "--compression", "zstd,3", f"{program.repository}::{night}", str(folder)]
        else:
            command = [program.binary, "put", "--quiet", f"name=night{night}", str(folder)]
        return program.measure(command, None)


def find_ways(work: Path, nights: Path, ours: str, wanted: list[str] | None) -> list[Way]:
    ways: list[Way] = []

    def add(name: str, make) -> None:
        if wanted is None or name in wanted:
            ways.append(make(name))

    for kind, binary in compare.find_programs(ours).items():
        def program(name: str, kind=kind, binary=binary) -> Program:
            return kind(work / name.replace(" ", "-"), binary)

        add(f"{kind.name} full", lambda name: Streams(name, program(name), nights, incremental=False))
        if kind is Ours:
            add(f"{kind.name} incremental", lambda name: Streams(name, program(name), nights, incremental=True))
        else:
            add(f"{kind.name} files", lambda name: Files(name, program(name), nights))
    return ways


def describe(nights: Path, count: int) -> dict:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=compare.ROOT, capture_output=True, text=True)
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "")
    sizes = {path.name: path.stat().st_size for path in sorted((nights / "streams").iterdir())}
    return {
        "commit": commit.stdout.strip(),
        "kernel": platform.release(),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "nights": count,
        "streams": sizes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nights", type=Path, help="what nights.py has built")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="folder for the repositories; default: that for temporary files")
    parser.add_argument("--ways", action="append", help="such as 'borg files'; default: all")
    parser.add_argument("--binary", default=str(compare.ROOT / "target/release/btrfs_to_s3"))
    arguments = parser.parse_args()
    nights = arguments.nights.resolve()
    count = len(list((nights / "streams").glob("full.*")))
    results = {"about": describe(nights, count), "ways": {}}
    with tempfile.TemporaryDirectory(dir=arguments.work, prefix="storage-") as work:
        ways = find_ways(Path(work), nights, os.path.abspath(arguments.binary), arguments.ways)
        for way in ways:
            way.program.prepare()
            version = [way.program.binary, way.program.version_option]
            said = subprocess.run(version, capture_output=True, text=True, check=True).stdout
            results["ways"][way.name] = {"version": said.strip().splitlines()[0], "nights": []}
        for night in range(count):
            for way in ways:
                figures = way.store(night)
                stored_mb = round(way.program.stored_mb(), 1)
                measured = {"stored_mb": stored_mb} | {key: round(value, 2) for key, value in figures._asdict().items()}
                results["ways"][way.name]["nights"].append(measured)
                print(f"night {night} {way.name:26} {measured}", flush=True)
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    arguments.results.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()

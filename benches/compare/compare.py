#!/usr/bin/env python3
"""Compares btrfs_to_s3 with other archivers on the same streams, and prints one Markdown table.

    cargo build --release
    benches/compare/compare.py STREAMS --work /var/tmp/compare --rounds 3

STREAMS is a folder with three files: full.0, the send stream of a snapshot; full.1, that of a later one of the same
subvolume; inc.1, the incremental one between them. Without them:

    btrfs subvolume snapshot -r DATA SNAPSHOTS/0     # then change something, and SNAPSHOTS/1
    btrfs send SNAPSHOTS/0 > full.0
    btrfs send SNAPSHOTS/1 > full.1
    btrfs send -p SNAPSHOTS/0 SNAPSHOTS/1 > inc.1

It takes whichever of restic, borg, rustic and bupstash are on PATH (apt-get install restic borgbackup; cargo install
--locked rustic-rs bupstash), and installs nothing. Each step is run by all programs, one after the other, before the
next step, and all of that several times: load from elsewhere meets all of them. Figures are medians. CPU time and
memory are the kernel's (wait4); memory is the largest of one process. Repositories are local folders, one for each
program and round, and are removed at the end. zstd has its default level of 3 in all of them but bupstash, which has its
own. restic, rustic and bupstash encrypt and cannot be told not to.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]


class Figures(NamedTuple):
    wall_s: float
    cpu_s: float
    memory_mb: float


class Program:
    """One archiver with a repository of its own in `folder`. What `stream` is called differs by program."""

    name = ""
    version_option = "--version"

    def __init__(self, folder: Path, binary: str):
        self.folder, self.binary = folder, binary
        self.repository = folder / "repository"
        folder.mkdir(parents=True)

    def environment(self) -> dict[str, str]:
        home = str(self.folder)
        return {"HOME": home, "XDG_CACHE_HOME": f"{home}/cache", "XDG_STATE_HOME": f"{home}/state"}

    def prepare(self) -> None:
        self.check(self.init())

    def init(self) -> list[str]:
        raise NotImplementedError

    def store(self, stream: str) -> list[str]:
        raise NotImplementedError

    def restore(self, stream: str) -> list[str]:
        raise NotImplementedError

    def check(self, command: list[str]) -> None:
        subprocess.run(command, env=self.environment() | path(), stdout=subprocess.DEVNULL, check=True)

    def measure(self, command: list[str], source: Path | None) -> Figures:
        """Runs a command to its end, its standard output to nowhere."""
        with open(source or os.devnull, "rb") as stdin, tempfile.TemporaryFile() as messages:
            started = time.monotonic()
            child = subprocess.Popen(
                command, env=self.environment() | path(), stdin=stdin, stdout=subprocess.DEVNULL, stderr=messages
            )
            _, status, usage = os.wait4(child.pid, 0)
            wall_s = time.monotonic() - started
            child.returncode = os.waitstatus_to_exitcode(status)
            if child.returncode != 0:
                messages.seek(0)
                sys.exit(f"{' '.join(command)}\n{messages.read().decode(errors='replace')}")
        return Figures(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6)

    def stored_mb(self) -> float:
        files = (file for file in self.repository.rglob("*") if file.is_file() and not file.is_symlink())
        return sum(file.stat().st_size for file in files) / 1e6


class Ours(Program):
    name = "btrfs_to_s3"

    def prepare(self) -> None:
        text = f'repository = "file://{self.repository}"\n'
        text += f'[global]\nstate_dir = "{self.folder}/state"\nlock_path = "{self.folder}/lock"\n'
        (self.folder / "config.toml").write_text(text)
        super().prepare()

    def command(self, *arguments: str) -> list[str]:
        return [self.binary, "--config", str(self.folder / "config.toml"), *arguments]

    def init(self) -> list[str]:
        return self.command("init")

    def store(self, stream: str) -> list[str]:
        return self.command("backup", "--stdin", "--name", stream)

    def restore(self, stream: str) -> list[str]:
        return self.command("restore", "latest", "--subvolume", stream, "--stream", "-")


class Restic(Program):
    name = "restic"
    version_option = "version"

    def environment(self) -> dict[str, str]:
        return super().environment() | {"RESTIC_REPOSITORY": str(self.repository), "RESTIC_PASSWORD": "x"}

    def init(self) -> list[str]:
        return [self.binary, "init"]

    def store(self, stream: str) -> list[str]:
        return [self.binary, "backup", "--quiet", "--stdin", "--stdin-filename", stream]

    def restore(self, stream: str) -> list[str]:
        return [self.binary, "dump", "--path", f"/{stream}", "latest", f"/{stream}"]


class Borg(Program):
    name = "borg"

    def __init__(self, folder: Path, binary: str):
        super().__init__(folder, binary)
        self.count = 0

    def environment(self) -> dict[str, str]:
        unencrypted = {"BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"}
        return super().environment() | unencrypted | {"BORG_BASE_DIR": str(self.folder / "base")}

    def init(self) -> list[str]:
        return [self.binary, "init", "--encryption", "none", str(self.repository)]

    def store(self, stream: str) -> list[str]:
        # An archive's name is used once only.
        self.count += 1
        archive = f"{self.repository}::{stream}-{self.count}"
        return [self.binary, "create", "--compression", "zstd,3", archive, "-"]

    def restore(self, stream: str) -> list[str]:
        return [self.binary, "extract", "--stdout", f"{self.repository}::{stream}-1"]


class Rustic(Program):
    name = "rustic"

    def command(self, *arguments: str) -> list[str]:
        return [self.binary, "--repository", str(self.repository), "--password", "x", "--no-progress", *arguments]

    def init(self) -> list[str]:
        return self.command("init")

    def store(self, stream: str) -> list[str]:
        # Without --force it does not read the stream again.
        return self.command("backup", "--force", "--stdin-filename", stream, "-")

    def restore(self, stream: str) -> list[str]:
        return self.command("dump", f"latest:{stream}")


class Bupstash(Program):
    name = "bupstash"

    def environment(self) -> dict[str, str]:
        key = str(self.folder / "key")
        return super().environment() | {"BUPSTASH_REPOSITORY": str(self.repository), "BUPSTASH_KEY": key}

    def prepare(self) -> None:
        super().prepare()
        self.check([self.binary, "new-key", "-o", str(self.folder / "key")])

    def init(self) -> list[str]:
        return [self.binary, "init"]

    def store(self, stream: str) -> list[str]:
        return [self.binary, "put", "--quiet", f"name={stream}", "-"]

    def restore(self, stream: str) -> list[str]:
        return [self.binary, "get", "--quiet", f"name={stream}"]


class Step(NamedTuple):
    title: str
    stream: str
    restores: bool = False


STEPS = [
    Step("first", "full.0"),
    Step("restored", "full.0", restores=True),
    Step("unchanged", "full.0"),
    Step("next night, incremental", "inc.1"),
    Step("next night, full", "full.1"),
]


def path() -> dict[str, str]:
    return {"PATH": os.environ["PATH"]}


def find_programs(ours: str) -> dict[type[Program], str]:
    found: dict[type[Program], str] = {Ours: ours}
    for kind in (Restic, Borg, Rustic, Bupstash):
        binary = shutil.which(kind.name)
        if binary:
            found[kind] = binary
        else:
            print(f"left out: {kind.name} is not on PATH", file=sys.stderr)
    return found


def run_round(programs: list[Program], streams: Path) -> dict[tuple[str, str], tuple[Figures, float]]:
    results = {}
    for program in programs:
        program.prepare()
    for step in STEPS:
        for program in programs:
            name = step.stream.replace(".", "-")
            if step.restores:
                figures = program.measure(program.restore(name), None)
            else:
                figures = program.measure(program.store(name), streams / step.stream)
            results[program.name, step.title] = figures, program.stored_mb()
            print(f"{program.name:12} {step.title:24} {figures.wall_s:7.2f} s", file=sys.stderr)
    return results


def median(rounds: list[dict[tuple[str, str], tuple[Figures, float]]], program: str, step: str) -> str:
    figures = [results[program, step][0] for results in rounds]
    wall_s, cpu_s, memory_mb = (statistics.median(column) for column in zip(*figures))
    return f"{wall_s:.1f} / {cpu_s:.1f} / {memory_mb:.0f}"


def print_table(kinds: dict[type[Program], str], rounds: list[dict[tuple[str, str], tuple[Figures, float]]]) -> None:
    stored = [step for step in STEPS if not step.restores and step.title != "unchanged"]
    titles = [f"{step.title}: wall s / CPU s / MB" for step in STEPS]
    titles += [f"MB stored after {step.title}" for step in stored]
    print("| | " + " | ".join(titles) + " |")
    print("|---" * (len(titles) + 1) + "|")
    for kind, binary in kinds.items():
        version = subprocess.run([binary, kind.version_option], capture_output=True, text=True, check=True).stdout
        cells = [median(rounds, kind.name, step.title) for step in STEPS]
        sizes = ([results[kind.name, step.title][1] for results in rounds] for step in stored)
        cells += [f"{statistics.median(size):.0f}" for size in sizes]
        number = next((word for word in version.replace("-", " ").split() if word[0].isdigit()), "")
        print(f"| {kind.name} {number} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("streams", type=Path, help="folder with full.0, full.1 and inc.1")
    parser.add_argument("--work", type=Path, help="folder for the repositories; default: that for temporary files")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--binary", default=str(ROOT / "target/release/btrfs_to_s3"), help="the btrfs_to_s3 to measure")
    arguments = parser.parse_args()
    missing = [step.stream for step in STEPS if not (arguments.streams / step.stream).is_file()]
    if missing:
        parser.error(f"{arguments.streams} lacks {', '.join(sorted(set(missing)))}: see --help")
    if not os.access(arguments.binary, os.X_OK):
        parser.error(f"{arguments.binary} cannot be run: `cargo build --release`, or --binary")
    kinds = find_programs(os.path.abspath(arguments.binary))
    rounds = []
    for number in range(arguments.rounds):
        with tempfile.TemporaryDirectory(dir=arguments.work, prefix="compare-") as work:
            programs = [kind(Path(work) / kind.name, binary) for kind, binary in kinds.items()]
            # Who goes first differs: the file system is still busy with what the one before has written.
            first = number % len(programs)
            rounds.append(run_round(programs[first:] + programs[:first], arguments.streams))
    print_table(kinds, rounds)


if __name__ == "__main__":
    main()

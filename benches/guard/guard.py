#!/usr/bin/env python3
"""Guards against regressions: counts instructions and bytes of fixed small cases, which no load of the machine changes,
and compares them with baseline.txt.

    benches/guard/guard.py            # builds, and fails where a count is further off than its kind may be
    benches/guard/guard.py --update   # writes the counts down: in a commit of its own, which says why they have changed

The program is built as for tests, so that dependencies are compiled once for both, and itself optimised.

Instructions are those of the whole program under `valgrind --tool=callgrind`, with one thread that computes. They hang on
the processor, for which libraries choose their code, and on the compiler: where one of both is not that of the baseline,
they may be further off, and without AVX2 they are not compared. Bytes are those of all objects in the repository. Requests
are asserted by tests (integration_tests/operations/requests.rs).
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BASELINE = Path(__file__).with_name("baseline.txt")
HEAD = """\
# What fixed small cases cost, for guard.py, which wrote this. A change of it is a commit of its own, with a reason.
"""
# How far a count may be off, of the baseline's. The same program gives the same within a hundredth of a percent.
TOLERANCES = {"instructions": 0.02, "bytes": 0.002}
# On another processor, or by another compiler.
TOLERANCE_ELSEWHERE = 0.1
MIB = 1 << 20


class Guard:
    """A repository in a folder, and what has been counted so far."""

    def __init__(self, folder: Path, binary: Path, generator: Path):
        self.folder, self.binary, self.generator = folder, binary, generator
        self.counts: dict[str, int] = {}
        config = f'repository = "file://{folder}/repository"\n[global]\nstate_dir = "{folder}/state"\n'
        (folder / "config.toml").write_text(config)
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "RAYON_NUM_THREADS": "1",
        }

    def stream(self, name: str, mib: int) -> Path:
        path = self.folder / name
        with open(path, "wb") as file:
            subprocess.run([self.generator, str(mib * MIB)], stdout=file, check=True)
        return path

    def run(self, arguments: list[str], stdin: Path | None = None, case: str | None = None) -> None:
        """Runs the program; under callgrind, where `case` is what its instructions are counted for."""
        command = [str(self.binary), "--config", str(self.folder / "config.toml"), *arguments]
        report = self.folder / "callgrind.out"
        if case:
            command = ["valgrind", "--quiet", "--tool=callgrind", f"--callgrind-out-file={report}", *command]
        with open(stdin or os.devnull, "rb") as source:
            done = subprocess.run(command, stdin=source, capture_output=True, env=self.environment, check=False)
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr.decode(errors='replace')}")
        if case:
            self.counts[f"{case} instructions"] = int(re.search(r"^summary: (\d+)", report.read_text(), re.M)[1])

    def weigh(self, case: str) -> None:
        files = [path for path in (self.folder / "repository").rglob("*") if path.is_file()]
        self.counts[f"{case} bytes"] = sum(path.stat().st_size for path in files)


def count(folder: Path, binary: Path, generator: Path) -> dict[str, int]:
    guard = Guard(folder, binary, generator)
    first, next_night = guard.stream("first", 24), guard.stream("next", 25)
    backup = ["backup", "--stdin", "--name", "data"]
    guard.run(["init"])
    for case, stream in (("new", first), ("unchanged", first), ("changed", next_night)):
        guard.run(backup, stream, case)
        guard.weigh(case)
    guard.run(["restore", "latest", "--subvolume", "data", "--stream", str(folder / "restored")], case="restore")
    if (folder / "restored").read_bytes() != next_night.read_bytes():
        sys.exit("what was restored is not what was backed up")
    guard.run(["check"], case="check")
    guard.run(["list"], case="list")
    return guard.counts


def surroundings() -> str:
    """The processor and the compiler."""
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    compiler = subprocess.run(["rustc", "--version"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return f"# {cpu.partition(':')[2].strip()}, {compiler.strip()}"


def compare(counts: dict[str, int], baseline: dict[str, int], tolerances: dict[str, float]) -> bool:
    """Prints a table; whether all counts are near the baseline's."""
    good = True
    for name, value in counts.items():
        kind = name.split()[-1]
        if kind not in tolerances:
            continue
        known = baseline.get(name)
        ratio = value / known if known else float("inf")
        is_near = abs(ratio - 1) <= tolerances[kind]
        good &= is_near
        print(f"{name:24} {value:>14,} {known or 0:>14,} {ratio:8.4f} {'' if is_near else 'FAILED'}")
    for name in sorted(set(baseline) - set(counts)):
        print(f"{name}: in {BASELINE.name}, and not counted", file=sys.stderr)
        good = False
    return good


def read_baseline() -> dict[str, int]:
    lines = [line.split() for line in BASELINE.read_text().splitlines() if line and not line.startswith("#")]
    return {f"{case} {kind}": int(value) for case, kind, value in lines}


def build() -> Path:
    """Builds the program and the generator; gives the folder that has them."""
    optimised = {
        "CARGO_PROFILE_DEV_OPT_LEVEL": "3",
        "CARGO_PROFILE_DEV_DEBUG_ASSERTIONS": "false",
        "CARGO_PROFILE_DEV_OVERFLOW_CHECKS": "false",
    }
    # With the examples, as then the dependencies are those that the tests were built with.
    subprocess.run(["cargo", "build", "--bins", "--examples"], cwd=ROOT, env=os.environ | optimised, check=True)
    return target_directory() / "debug"


def target_directory() -> Path:
    command = ["cargo", "metadata", "--no-deps", "--format-version", "1"]
    return Path(json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)["target_directory"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true", help="writes what was counted to baseline.txt")
    arguments = parser.parse_args()
    built = build()
    here, tolerances = surroundings(), dict(TOLERANCES)
    if "avx2" not in Path("/proc/cpuinfo").read_text().split():
        print("LEFT OUT: instructions; the baseline is that of a processor with AVX2", file=sys.stderr)
        del tolerances["instructions"]
    elif not arguments.update and here not in BASELINE.read_text().splitlines():
        print(f"Instructions may be {TOLERANCE_ELSEWHERE:.0%} off: the baseline is not that of {here[2:]}", file=sys.stderr)
        tolerances["instructions"] = TOLERANCE_ELSEWHERE
    with tempfile.TemporaryDirectory(prefix="guard-") as folder:
        counts = count(Path(folder), built / "btrfs_to_s3", built / "examples/made_up_stream")
    if arguments.update:
        lines = (f"{name} {value}\n" for name, value in counts.items())
        BASELINE.write_text(f"{HEAD}{here}\n" + "".join(lines))
    if not compare(counts, read_baseline(), tolerances):
        sys.exit("A count is off. If that is meant, write the new ones down with --update, in a commit of its own.")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Starts runs beside a running one: exactly one works, the others end with the lock's exit code."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import argparse
import os
import subprocess
import time
from collections import Counter

from harness import dataset, steps
from harness.errors import check
from harness.script import Context, run_script
from harness.tool import Tool

LOCKED = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--times", type=int, default=20)


def work(context: Context) -> None:
    steps.current_run(context)
    tool = steps.current_tool(context)
    for number in range(context.options.times):
        second_run_is_locked_out(tool, number)
    context.log.info(f"{context.options.times} times of {context.options.times}, the second run was locked out")
    runs_at_once(tool, context.options.times)


def second_run_is_locked_out(tool: Tool, number: int) -> None:
    """The first run holds the lock for as long as its standard input stays open."""
    reader, writer = os.pipe()
    first = tool.start("backup", "--stdin", "--name", "contention", stdin=reader)
    os.close(reader)
    try:
        wait_until_locked(tool.config.paths.lock / f"{tool.state}.lock", first)
        second = tool.call("backup")
        check(second.code == LOCKED, f"time {number}: a run beside another ended with {second.code}, not {LOCKED}")
        check(first.poll() is None, f"time {number}: the first run had ended before the second")
        os.write(writer, f"contention {number}".encode())
    finally:
        os.close(writer)
        ended = tool.wait(first)
    check(ended.code == 0, f"time {number}: the first run ended with {ended.code}: {ended.last_line}")


def wait_until_locked(file: Path, holder: subprocess.Popen) -> None:
    deadline = time.monotonic() + 30
    while not is_locked(file):
        check(holder.poll() is None, "the first run ended before it had locked anything")
        check(time.monotonic() < deadline, f"{file} was not locked within 30 s")
        time.sleep(0.02)


def is_locked(file: Path) -> bool:
    """Whether any process holds a lock on it, of whatever kind."""
    if not file.exists():
        return False
    inode = f":{file.stat().st_ino} "
    return any(inode in line for line in Path("/proc/locks").read_text(encoding="ascii").splitlines())


def runs_at_once(tool: Tool, runs: int) -> None:
    before = {backup["id"] for backup in tool.backups()}
    ended = [tool.wait(process) for process in [tool.start("backup") for _ in range(runs)]]
    codes = Counter(run.code for run in ended)
    check(set(codes) <= {0, LOCKED}, f"runs at once ended with {dict(codes)}")
    check(codes[0] >= 1, "of runs at once, none has worked")
    made = [backup for backup in tool.backups() if backup["id"] not in before]
    expected = codes[0] * len(tool.config.subvolumes)
    check(len(made) == expected, f"{codes[0]} runs that worked have made {len(made)} backups, not {expected}")
    for backup in made:
        dataset.keep_record(tool.config, backup["subvolume"], backup["id"])
    tool.context.log.info(f"of {runs} runs at once, {codes[0]} worked and {codes[LOCKED]} were locked out")


if __name__ == "__main__":
    run_script(work, __doc__, add_arguments)

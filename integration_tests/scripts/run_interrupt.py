#!/usr/bin/env python3
"""Interrupts running backups and restores, by SIGTERM and SIGKILL, and runs them again. Needs root."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import argparse
import random
import signal

from harness import interruption, steps
from harness.script import Context, run_script
from harness.stores import open_store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--times", type=int, default=3, help="kills of each kind")
    parser.add_argument("--seed", type=int, default=1, help="of the moments at which runs are killed")


def work(context: Context) -> None:
    steps.current_run(context)
    tool = steps.current_tool(context)
    store = open_store(context.config, tool.run)
    rng = random.Random(context.options.seed)
    interruption.check_interrupted_backup(tool, store, signal.SIGTERM, 0)
    for number in range(context.options.times):
        delay = rng.random() if number else 0
        interruption.check_interrupted_backup(tool, store, signal.SIGKILL, delay)
    delays = [0.05] + [rng.random() / 2 for _ in range(context.options.times - 1)]
    interruption.check_interrupted_restore(tool, delays)


if __name__ == "__main__":
    run_script(work, __doc__, add_arguments)

#!/usr/bin/env python3
"""Compares what was restored with what was written down at seeding."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import argparse

from harness import steps
from harness.errors import check
from harness.script import Context, run_script


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--mode", choices=["full", "sample"], default="full", help="sample: one of each subvolume")


def work(context: Context) -> None:
    restored = sorted(context.config.paths.restore_mount.glob("*"))
    check(bool(restored), "nothing was restored: run run_restore.py first")
    if context.options.mode == "sample":
        restored = list({path.name.split(".")[0]: path for path in restored}.values())
    for path in restored:
        name, backup = path.name.rsplit(".", 1)
        steps.compare(context, name, backup)


if __name__ == "__main__":
    run_script(work, __doc__, add_arguments)

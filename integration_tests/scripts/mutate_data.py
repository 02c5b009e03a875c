#!/usr/bin/env python3
"""Changes the subvolumes as a night of use does, and writes down what is in them then."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import argparse

from harness import steps
from harness.script import Context, run_script


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset-size-mib", type=int, help="accepted for symmetry; changes follow what is there")


def work(context: Context) -> None:
    steps.mutate(context, steps.current_run(context))


if __name__ == "__main__":
    run_script(work, __doc__, add_arguments)

#!/usr/bin/env python3
"""Fills the subvolumes and writes down what is in them. Works without root, with fewer kinds of files."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import argparse

from harness import steps
from harness.errors import check
from harness.script import Context, run_script


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset-size-mib", type=int, help="all subvolumes together; default: [dataset] size_mib")
    parser.add_argument("--seed", type=int, help="other numbers give other data")


def work(context: Context) -> None:
    run = steps.current_run(context)
    size = context.options.dataset_size_mib
    size = context.config.dataset_mib if size is None else size
    check(size > 0, "--dataset-size-mib must be positive")
    if context.options.seed is not None:
        run.seed = context.options.seed
        run.save()
    steps.seed(context, run, size)


if __name__ == "__main__":
    run_script(work, __doc__, add_arguments)

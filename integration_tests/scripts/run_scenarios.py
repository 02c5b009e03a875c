#!/usr/bin/env python3
"""Faults of server, disk, snapshots and processes; after each a restore must be right. Needs root."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import argparse

from harness import scenarios, steps
from harness.errors import HarnessError, check
from harness.script import Context, run_script

NAMES = {scenario.__name__: scenario for scenario in scenarios.ALL}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", choices=NAMES, action="append", help="this scenario; may be given several times")
    parser.add_argument("--slow", action="store_true", help="also those that take minutes")


def work(context: Context) -> None:
    steps.current_run(context)
    tool = steps.current_tool(context)
    failed, done = [], 0
    for name, scenario in NAMES.items():
        if context.options.only and name not in context.options.only:
            continue
        if scenario in scenarios.SLOW and not context.options.slow and not context.options.only:
            context.log.left_out(f"{name} takes minutes: --slow")
            continue
        if not scenarios.is_possible(scenario, tool):
            context.log.left_out(f"{name} needs a server at an endpoint_url with http://")
            continue
        context.log.info(f"-- {name}")
        try:
            scenario(tool)
            done += 1
        except HarnessError as error:
            context.log.info(f"FAILED {name}: {error}")
            failed.append(name)
    check(not failed, f"failed: {', '.join(failed)}")
    check(done > 0, "no scenario could run")


if __name__ == "__main__":
    run_script(work, __doc__, add_arguments)

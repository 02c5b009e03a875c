#!/usr/bin/env python3
"""Everything: all scripts in order, torn down whatever happens."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import argparse

from harness.environment import HARNESS_ROOT
from harness.script import Context, run_script
from harness.sequence import Sequence
from harness.stores import open_bucket


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--include-large", action="store_true", help="the scenario of several packs as well")
    parser.add_argument("--scenarios", action="store_true", help="faults of server, disk and snapshots as well")


def work(context: Context) -> None:
    if not context.local:
        open_bucket(context.config, context.config.aws.prefix)
    sequence = Sequence(context, context.options.config)
    try:
        run_steps(sequence, context.options.scenarios)
    finally:
        sequence.clean_up()
    if context.options.include_large:
        large = Sequence(context, HARNESS_ROOT / "config" / "test_large.toml")
        large.step("run_large")
        sequence.outcomes.extend(large.outcomes)
    if context.local:
        context.log.left_out("everything that needs a bucket (--skip-s3): the repository was a local directory")
    context.log.left_out("archival storage classes: run_restore_archive.py")
    sequence.report()


def run_steps(sequence: Sequence, scenarios: bool) -> None:
    sequence.step("setup_btrfs")
    sequence.step("seed_data")
    sequence.step("run_full")
    sequence.step("verify_manifest")
    sequence.step("mutate_data")
    sequence.step("run_incremental")
    sequence.step("verify_manifest")
    sequence.step("mutate_data")
    sequence.step("run_incremental")
    sequence.step("verify_retention")
    sequence.step("run_restore", "--every-point")
    sequence.step("verify_restore")
    sequence.step("run_cli_flags")
    sequence.step("run_schedule")
    sequence.step("run_lock_contention")
    sequence.step("run_interrupt")
    sequence.step("verify_manifest")
    sequence.step("verify_s3")
    sequence.step("verify_retention")
    if scenarios:
        # They lose objects and bring them back, so there are duplicates from here on.
        sequence.step("run_scenarios")
        sequence.step("verify_manifest")
    sequence.step("run_rehearse")
    sequence.step("run_prune")
    sequence.step("verify_manifest")
    sequence.step("run_copy")
    sequence.step("run_restore", "--subvolume", "all")
    sequence.step("verify_restore", "--mode", "full")


if __name__ == "__main__":
    run_script(work, __doc__, add_arguments)

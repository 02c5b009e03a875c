#!/usr/bin/env python3
"""Breaks the tool on purpose: each mutant must be caught by the script that is there for it. Needs root."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import argparse
import json
import os

from harness.errors import HarnessError, check
from harness.script import Context, run_script
from harness.sequence import Sequence

# Each mutant of mutant.py, and the script that must be the first to fail.
MUTANTS = {
    "drops_a_pack": "verify_manifest",
    "flips_a_stored_bit": "verify_manifest",
    "always_sends_full": "run_incremental",
    "keeps_all_snapshots": "verify_retention",
    "restores_an_older_manifest": "verify_restore --mode full",
    "loses_an_xattr": "verify_restore --mode full",
    "flips_a_restored_byte": "verify_restore --mode full",
    "loses_a_mode": "verify_restore --mode full",
    "loses_a_time": "verify_restore --mode full",
    "breaks_a_hard_link": "verify_restore --mode full",
    "backs_up_on_a_dry_run": "run_cli_flags",
    "ignores_the_schedule": "run_schedule",
    "prunes_too_much": "run_prune",
    "ignores_the_lock": "run_lock_contention --times 1",
    "publishes_before_the_upload": "run_interrupt --times 1",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", choices=MUTANTS, action="append", help="this mutant; may be given several times")


def work(context: Context) -> None:
    context.options.skip_s3 = True
    real = json.dumps(context.command)
    check(first_failure(context, "unchanged", real) is None, "the tool fails without a mutation")
    missed = []
    for name in context.options.only or MUTANTS:
        found = first_failure(context, name, real)
        context.log.info(f"MUTANT {name}: caught by {found}")
        if found != MUTANTS[name]:
            missed.append(f"{name} (by {found} in place of {MUTANTS[name]})")
    if missed:
        raise HarnessError(f"not caught where they should be: {', '.join(missed)}")


def first_failure(context: Context, name: str, real: str) -> str | None:
    """The script that fails first with this mutant; None where all pass."""
    mutant = os.path.join(os.path.dirname(os.path.abspath(__file__)), "mutant.py")
    os.environ["BTRFS_TO_S3_MUTATED_CMD"] = real
    os.environ["BTRFS_TO_S3_CMD"] = json.dumps([sys.executable, mutant, name])
    sequence = Sequence(context, context.options.config)
    try:
        run_steps(sequence)
    finally:
        os.environ["BTRFS_TO_S3_CMD"] = real
        sequence.clean_up()
    failed = [step for step, code, _ in sequence.outcomes if code not in (0, None)]
    return failed[0] if failed else None


def run_steps(sequence: Sequence) -> None:
    sequence.step("setup_btrfs")
    sequence.step("run_full")
    sequence.step("verify_manifest")
    sequence.step("mutate_data")
    sequence.step("run_incremental")
    sequence.step("mutate_data")
    sequence.step("run_incremental")
    sequence.step("verify_manifest")
    sequence.step("verify_retention")
    sequence.step("run_restore", "--subvolume", "all")
    sequence.step("verify_restore", "--mode", "full")
    sequence.step("run_cli_flags")
    sequence.step("run_schedule")
    sequence.step("run_lock_contention", "--times", "1")
    sequence.step("run_interrupt", "--times", "1")
    sequence.step("verify_s3")
    sequence.step("run_rehearse")
    sequence.step("run_prune")


if __name__ == "__main__":
    run_script(work, __doc__, add_arguments)

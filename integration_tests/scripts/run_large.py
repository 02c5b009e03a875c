#!/usr/bin/env python3
"""The scenario of several packs: set up, seed, full, mutate, incremental, verify, restore, tear down."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.errors import check
from harness.script import Context, run_script
from harness.sequence import Sequence


def work(context: Context) -> None:
    smallest = 4 * context.config.pack_mib
    size = context.config.dataset_mib
    check(size >= smallest, f"[dataset] size_mib is {size}; several packs need at least {smallest}")
    sequence = Sequence(context, context.options.config)
    try:
        sequence.step("setup_btrfs")
        sequence.step("seed_data")
        sequence.step("run_full")
        sequence.step("verify_manifest", "--several-packs")
        sequence.step("mutate_data")
        sequence.step("run_incremental")
        sequence.step("verify_manifest")
        sequence.step("verify_s3")
        sequence.step("run_restore", "--every-point")
        sequence.step("verify_restore")
    finally:
        sequence.clean_up()
    sequence.report()


if __name__ == "__main__":
    run_script(work, __doc__)

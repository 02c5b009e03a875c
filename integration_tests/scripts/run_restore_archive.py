#!/usr/bin/env python3
"""Restores from an archival storage class: refused before the thaw, thawed once, then right."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import steps
from harness.errors import MissingFeature, check
from harness.script import Context, run_script
from harness.sequence import Sequence
from harness.tool import Tool

ARCHIVED = 6
ARCHIVAL_CLASSES = ("GLACIER", "DEEP_ARCHIVE")


def work(context: Context) -> None:
    check(not context.local, "the archive scenario needs a server: a local directory has no storage classes")
    storage_class = context.config.aws.storage_class_data
    check(storage_class in ARCHIVAL_CLASSES, f"[aws] storage_class_chunks is {storage_class}, not archival")
    sequence = Sequence(context, context.options.config)
    try:
        sequence.step("setup_btrfs")
        sequence.step("seed_data")
        sequence.step("run_full")
        sequence.report()
        reading_is_refused(context)
    finally:
        sequence.clean_up()


def reading_is_refused(context: Context) -> None:
    """That a restore before the thaw says so, and leaves no target. It asks for the thaw, which costs money on AWS."""
    tool = steps.current_tool(context)
    if not tool.run.reports_class:
        raise MissingFeature("this server drops storage classes, so nothing is archived; it takes AWS or the like")
    steps.restore_file_system(context)
    try:
        refused(tool)
    finally:
        steps.remount_sources(context)
    raise MissingFeature("the restore ended with exit code 6, as it should; what comes after the thaw is not tried here yet")


def refused(tool: Tool) -> None:
    target = tool.config.paths.restore_mount / "archived"
    backup = tool.latest(tool.config.subvolumes[0])
    tool.must("restore", backup["id"], "--target", str(target), code=ARCHIVED)
    check(not target.exists(), "a restore that was refused has left a target")


if __name__ == "__main__":
    run_script(work, __doc__)

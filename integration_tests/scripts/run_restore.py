#!/usr/bin/env python3
"""Restores onto a second, fresh Btrfs, with the sources unmounted. Needs root."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import argparse

from harness import steps
from harness.errors import check
from harness.loopback import need_root
from harness.script import Context, run_script


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--subvolume", default="all", help="NAME or all (default)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--manifest-id", help="this backup, in place of the latest")
    which.add_argument("--every-point", action="store_true", help="every backup there is, in place of the latest")


def work(context: Context) -> None:
    need_root("restoring")
    tool = steps.current_tool(context)
    wanted = chosen(context, tool.backups())
    steps.restore_file_system(context)
    try:
        for backup in wanted:
            steps.restore(tool, backup)
    finally:
        steps.remount_sources(context)


def chosen(context: Context, backups: list[dict]) -> list[dict]:
    options = context.options
    names = context.config.subvolumes if options.subvolume == "all" else [options.subvolume]
    check(set(names) <= set(context.config.subvolumes), f"there is no subvolume {options.subvolume}")
    if options.manifest_id:
        found = [backup for backup in backups if backup["id"].startswith(options.manifest_id)]
        check(len(found) == 1, f"{options.manifest_id} names {len(found)} backups")
        return found
    ours = [backup for backup in backups if backup["subvolume"] in names]
    if not options.every_point:
        ours = list({backup["subvolume"]: backup for backup in ours}.values())
    check(bool(ours), "there is nothing to restore")
    return ours


if __name__ == "__main__":
    run_script(work, __doc__, add_arguments)

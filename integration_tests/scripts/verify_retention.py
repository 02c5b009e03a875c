#!/usr/bin/env python3
"""Checks how many snapshots are left, and that the parent needed next is among them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import steps
from harness.errors import check
from harness.processes import run as run_command
from harness.script import Context, run_script


def work(context: Context) -> None:
    tool = steps.current_tool(context)
    backups = tool.backups()
    for name in context.config.subvolumes:
        snapshots = sorted(context.config.paths.snapshots.glob(f"{name}.*"))
        made = len([backup for backup in backups if backup["subvolume"] == name])
        expected = min(made, context.config.retain)
        check(len(snapshots) == expected, f"{name}: {len(snapshots)} snapshots are left, not {expected}")
        shown = run_command("btrfs", "subvolume", "show", snapshots[-1])
        uuid = tool.latest(name)["snapshot_uuid"]
        is_latest = uuid.replace("-", "") in shown.replace("-", "")
        check(is_latest, f"{name}: the newest snapshot is not the latest backup's")
        check("readonly" in shown, f"{name}: the newest snapshot can be written to")
        context.log.info(f"{name}: {len(snapshots)} snapshots, the latest backup's among them")


if __name__ == "__main__":
    run_script(work, __doc__)

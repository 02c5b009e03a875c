#!/usr/bin/env python3
"""Makes an incremental backup of each subvolume, which must be one."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import steps
from harness.errors import check
from harness.script import Context, run_script


def work(context: Context) -> None:
    steps.current_run(context)
    tool = steps.current_tool(context)
    before = {backup["id"]: backup for backup in tool.backups()}
    for backup in steps.back_up(tool, "incremental"):
        check_increment(before, backup)


def check_increment(before: dict[str, dict], backup: dict) -> None:
    """The stream must be far below that of the full backup it builds on."""
    name = backup["subvolume"]
    check(backup["parent"] in before, f"{name}: the parent {backup['parent']} is not in the repository")
    full = [earlier for earlier in before.values() if earlier["subvolume"] == name and earlier["kind"] == "full"]
    check(bool(full), f"{name}: there is no full backup below it")
    limit = full[-1]["stream_bytes"] * 3 // 4
    check(backup["stream_bytes"] < limit, f"{name}: {backup['stream_bytes']} bytes were sent, the limit is {limit}")


if __name__ == "__main__":
    run_script(work, __doc__)

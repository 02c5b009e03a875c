#!/usr/bin/env python3
"""Makes a full backup of each subvolume; sets up and seeds what is not there."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import steps
from harness.errors import check
from harness.script import Context, run_script


def work(context: Context) -> None:
    first = not (context.config.paths.run / "run.json").exists()
    for backup in steps.back_up(steps.ready_tool(context), "full"):
        check(not first or backup["new_bytes"] > 0, f"{backup['subvolume']}: a first backup stored nothing")


if __name__ == "__main__":
    run_script(work, __doc__)

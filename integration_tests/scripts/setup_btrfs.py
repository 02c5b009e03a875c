#!/usr/bin/env python3
"""Makes the loopback Btrfs and its subvolumes. Needs root."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.script import Context, run_script
from harness.steps import set_up


def work(context: Context) -> None:
    set_up(context)


if __name__ == "__main__":
    run_script(work, __doc__)

#!/usr/bin/env python3
"""Unmounts and removes all that a run has made on this machine, except its logs. Needs root."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.script import Context, run_script
from harness.steps import tear_down


def work(context: Context) -> None:
    tear_down(context)


if __name__ == "__main__":
    run_script(work, __doc__)

#!/usr/bin/env python3
"""Nights by a schedule: what is due is backed up, a subvolume that fails holds up no other, nothing is done twice."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import steps
from harness.errors import check
from harness.processes import run as run_command
from harness.script import Context, run_script
from harness.stores import Store, open_store
from harness.tool import Tool

SCHEDULE = {"incremental_every": "1d", "full_every": "30d"}
# The tool's exit codes.
FAILED, PROBLEMS = 1, 3


def work(context: Context) -> None:
    steps.current_run(context)
    with nightly_tool(context) as tool:
        tool.must("init")
        a_failure_holds_up_no_other(tool)
        nothing_is_due(tool)
        what_is_unchanged_is_recorded(tool)


@contextmanager
def nightly_tool(context: Context) -> Iterator[Tool]:
    """The tool with a schedule, and a repository and snapshots of its own, as nothing else may have been backed up."""
    run = steps.load_run(context.config.paths.run)
    # Below the run's own prefix, so that whatever is left is deleted with it.
    run = replace(run, id=f"{run.id}/nightly")
    folder = context.config.paths.snapshots / "nightly"
    settings = {"schedule": SCHEDULE, "snapshots": {"base_dir": str(folder)}}
    if run.local:
        settings[""] = {"repository": f"file://{context.config.paths.scratch}/nightly"}
    folder.mkdir()
    tool = Tool(context, run, "nightly", settings=settings)
    try:
        yield tool
    finally:
        for snapshot in folder.iterdir():
            run_command("btrfs", "subvolume", "delete", snapshot)
        folder.rmdir()
        if not run.local:
            empty(open_store(context.config, run))


def empty(store: Store) -> None:
    for key in store.listing():
        store.delete(key)


def outcomes(tool: Tool, code: int = 0) -> dict[str, str]:
    """Runs what a timer runs; gives what became of each subvolume."""
    report = json.loads(tool.must("backup", "--json", code=code).output)
    return {subvolume["name"]: subvolume["outcome"] for subvolume in report["subvolumes"]}


def a_failure_holds_up_no_other(tool: Tool) -> None:
    names = tool.config.subvolumes
    tool.must("status", code=PROBLEMS)
    failing = tool.config.subvolume(names[0])
    away = failing.with_name("away")
    failing.rename(away)
    try:
        found = outcomes(tool, code=FAILED)
    finally:
        away.rename(failing)
    check(found == {name: "failed" if name == names[0] else "full" for name in names}, f"outcomes: {found}")
    status = tool.must("status", code=PROBLEMS)
    check(names[0] in status.output, f"status says nothing of {names[0]}: {status.output}")
    found = outcomes(tool)
    check(found == {name: "full" if name == names[0] else "not_due" for name in names}, f"outcomes: {found}")
    tool.must("status")
    tool.context.log.info(f"{names[0]} failed, the others were backed up; the next run backed up {names[0]} only")


def nothing_is_due(tool: Tool) -> None:
    before, snapshots = tool.backups(), list(tool.config.paths.snapshots.glob("nightly/*"))
    found = outcomes(tool)
    check(set(found.values()) == {"not_due"}, f"right after a backup: {found}")
    check(tool.backups() == before, "a run with nothing due has made a backup")
    check(list(tool.config.paths.snapshots.glob("nightly/*")) == snapshots, "it has made or deleted snapshots")
    tool.context.log.info("nothing due: nothing done, exit code 0")


def what_is_unchanged_is_recorded(tool: Tool) -> None:
    made = tool.back_up()
    kinds = {backup["subvolume"]: backup["kind"] for backup in made}
    check(kinds == dict.fromkeys(tool.config.subvolumes, "unchanged"), f"--once, and nothing has changed: {kinds}")
    check(sum(backup["stream_bytes"] for backup in made) == 0, "an unchanged subvolume was sent")
    tool.context.log.info("--once: unchanged subvolumes are recorded as such, without a stream")


if __name__ == "__main__":
    run_script(work, __doc__)

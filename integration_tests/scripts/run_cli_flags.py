#!/usr/bin/env python3
"""Checks what the tool's options promise: what changes nothing, what picks one subvolume, what is refused."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import dataset, steps
from harness.errors import check
from harness.processes import run as run_command
from harness.script import Context, run_script
from harness.stores import Store, open_store
from harness.tool import Tool


def work(context: Context) -> None:
    steps.current_run(context)
    tool = steps.current_tool(context)
    store = open_store(context.config, tool.run)
    dry_run_changes_nothing(tool, store)
    no_s3_takes_snapshots_only(tool, store)
    one_subvolume_is_picked(tool)
    what_is_wrong_is_refused(tool, store)


def snapshots(tool: Tool) -> set[str]:
    return {path.name for path in tool.config.paths.snapshots.iterdir()}


def state_of(tool: Tool) -> dict[str, bytes]:
    folder = tool.config.paths.scratch / tool.state
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def dry_run_changes_nothing(tool: Tool, store: Store) -> None:
    before = (set(store.listing()), snapshots(tool), state_of(tool))
    ended = tool.must("backup", "--dry-run")
    for what, old, new in zip(
        ("the repository", "the snapshots", "the state"),
        before,
        (set(store.listing()), snapshots(tool), state_of(tool)),
        strict=True,
    ):
        check(old == new, f"--dry-run has changed {what}")
    for name in tool.config.subvolumes:
        check(name in ended.output + ended.errors, f"--dry-run says nothing of {name}")
    tool.context.log.info("--dry-run changes nothing")


def no_s3_takes_snapshots_only(tool: Tool, store: Store) -> None:
    objects, before = set(store.listing()), snapshots(tool)
    tool.must("backup", "--no-s3")
    check(set(store.listing()) == objects, "--no-s3 has changed the repository")
    made = snapshots(tool) - before
    check(len(made) == len(tool.config.subvolumes), f"--no-s3 has made {len(made)} snapshots")
    check(before <= snapshots(tool), "--no-s3 has deleted snapshots")
    for name in made:
        run_command("btrfs", "subvolume", "delete", tool.config.paths.snapshots / name)
    tool.context.log.info("--no-s3 takes a snapshot of each subvolume, and sends nothing")


def one_subvolume_is_picked(tool: Tool) -> None:
    name = tool.config.subvolumes[0]
    made = tool.back_up("--subvolume", name)
    check([backup["subvolume"] for backup in made] == [name], f"--subvolume {name} has made {made}")
    dataset.keep_record(tool.config, name, made[0]["id"])
    tool.context.log.info("--once --subvolume NAME backs up that one, now")


def what_is_wrong_is_refused(tool: Tool, store: Store) -> None:
    objects = set(store.listing())
    tool.must("backup", "--subvolume", "no-such-subvolume", code=2)
    tool.must("backup", "--no-such-option", code=2)
    Tool(tool.context, tool.run, "unknown-key", settings={"global": {"no_such_key": 1}}).must("backup", code=2)
    tool.must("init", code=1)
    check(set(store.listing()) == objects, "a command that was refused has changed the repository")
    tool.context.log.info("unknown subvolumes, options and keys, and a second init, are refused and change nothing")


if __name__ == "__main__":
    run_script(work, __doc__)

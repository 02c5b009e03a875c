#!/usr/bin/env python3
"""Backups are copied into a directory, once each, and restore from there by a configuration that names nothing else."""

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import dataset, interruption, steps
from harness.errors import check
from harness.scenarios import back_up_first, restore_and_compare
from harness.script import Context, run_script
from harness.tool import Tool


def work(context: Context) -> None:
    steps.current_run(context)
    tool = steps.current_tool(context)
    copies = repository_of_copies(tool)
    planned = copy(tool, copies, "--init")
    made = tool.backups()
    check(len(planned["copied"]) == len(made), f"{len(planned['copied'])} of {len(made)} backups were copied")
    copied_again = copy(tool, copies)["copied"]
    check(not copied_again, f"{len(copied_again)} backups were copied a second time")
    # What comes later is copied onto what is there.
    interruption.write_fresh_data(tool, time.monotonic_ns())
    later = back_up_first(tool)
    report = copy(tool, copies)
    check([one["id"] for one in report["copied"]] == [later["id"]], f"not just the new backup: {report['copied']}")
    copies.must("check", "--read-data")
    for name in tool.config.subvolumes:
        restore_the_copy_of(tool, copies, tool.latest(name))


def repository_of_copies(tool: Tool) -> Tool:
    """The tool with another repository and a state of its own, as another provider's would have."""
    url = f"file://{tool.config.paths.run}/copies-{time.monotonic_ns()}"
    return Tool(tool.context, tool.run, "copies", settings={"": {"repository": url}})


def copy(tool: Tool, copies: Tool, *options: str) -> dict:
    return json.loads(tool.must("copy", "--to-config", str(copies.write_config()), "--json", *options).output)


def restore_the_copy_of(tool: Tool, copies: Tool, backup: dict) -> None:
    found = [copy for copy in copies.backups() if copy["copied_from"] == backup["id"]]
    check(len(found) == 1, f"{len(found)} copies of backup {backup['id']}")
    check(found[0]["kind"] == backup["kind"], f"the copy of a backup of kind {backup['kind']} is {found[0]['kind']}")
    dataset.take_record_over(tool.config, backup["subvolume"], backup["id"], found[0]["id"])
    restore_and_compare(copies, found[0])
    tool.context.log.info(f"the copy of {backup['id']} restores by a configuration that names nothing else")


if __name__ == "__main__":
    run_script(work, __doc__)

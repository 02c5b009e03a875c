#!/usr/bin/env python3
"""Backups that are forgotten come back as long as they are there; a prune gives their room back, and the others stay."""

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import interruption, steps
from harness.errors import check
from harness.scenarios import back_up_first, first, restore_and_compare
from harness.script import Context, run_script
from harness.stores import Store, open_store
from harness.tool import Tool

FAILED = 1
# Fresh data cannot be compressed, and is in no other backup.
FRESH_BYTES = interruption.FRESH_MIB << 20


def work(context: Context) -> None:
    steps.current_run(context)
    tool = steps.current_tool(context)
    store = open_store(context.config, tool.run)
    # What killed runs have left before must not be taken for what this scenario gives back.
    prune(tool, "--grace", "0s")
    kept = tool.latest(first(tool))
    interruption.write_fresh_data(tool, time.monotonic_ns())
    doomed = back_up_first(tool)
    interruption.fresh_file(tool).unlink()
    doomed = a_grace_period_keeps_it(tool, store, doomed["id"])
    room_is_given_back(tool, store, doomed)
    # The chain of the backup before is whole, and the next one builds on what is there.
    restore_and_compare(tool, kept)
    interruption.write_fresh_data(tool, time.monotonic_ns())
    restore_and_compare(tool, back_up_first(tool))
    tool.must("check", "--read-data")


def prune(tool: Tool, *options: str) -> dict:
    report = json.loads(tool.must("prune", "--json", *options).output)
    check(report["complete"], f"the prune waits for {report['waits_for']}, and nothing else is running")
    return report


def bytes_in(store: Store) -> int:
    return sum(listed.size for listed in store.listing().values())


def a_grace_period_keeps_it(tool: Tool, store: Store, backup: str) -> str:
    """Forgotten and pruned, it is brought back; then forgotten again. Gives the id that it has by then."""
    tool.must("forget", backup)
    check(backup not in ids(tool), f"backup {backup} is listed although it is forgotten")
    prune(tool)
    check(f"manifests/{backup}" in store.listing(), f"a prune within the grace period has deleted backup {backup}")
    tool.must("unforget", backup)
    copies = [copy["id"] for copy in tool.backups() if copy["copied_from"] == backup]
    check(len(copies) == 1, f"{len(copies)} copies of backup {backup} have come of one unforget")
    tool.must("forget", copies[0])
    tool.context.log.info("a forgotten backup is kept for its grace period, and can be brought back")
    return copies[0]


def ids(tool: Tool) -> set[str]:
    return {backup["id"] for backup in tool.backups()}


def room_is_given_back(tool: Tool, store: Store, backup: str) -> None:
    objects, before = set(store.listing()), bytes_in(store)
    planned = json.loads(tool.must("prune", "--json", "--dry-run", "--grace", "0s").output)
    check(set(store.listing()) == objects, "a prune's dry run has changed the repository")
    report = prune(tool, "--grace", "0s")
    given_back = before - bytes_in(store)
    check(given_back > FRESH_BYTES, f"a prune has given {given_back} bytes back, of {FRESH_BYTES} that nothing needs")
    check(planned["pack_bytes"] == report["pack_bytes"], f"planned {planned}, done {report}")
    check(f"manifests/{backup}" not in store.listing(), f"backup {backup} is still there")
    tool.must("unforget", backup, code=FAILED)
    again = prune(tool, "--grace", "0s")
    check(again["packs"] == 0, f"a prune right after another deletes {again['packs']} packs")
    tool.context.log.info(f"a prune has given {given_back} bytes back, as its dry run has said")


if __name__ == "__main__":
    run_script(work, __doc__)

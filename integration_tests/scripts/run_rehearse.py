#!/usr/bin/env python3
"""Rehearsals of restores find what a restore would fail at, are written down, and leave nothing on the host."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import steps
from harness.errors import check
from harness.processes import run as run_command
from harness.script import Context, run_script
from harness.stores import open_store
from harness.tool import Tool

DAMAGED = 5


def work(context: Context) -> None:
    steps.current_run(context)
    tool = steps.current_tool(context)
    for option in ("--whole", "--receive", "--sample=50%"):
        rehearse(tool, option, "good")
    status = json.loads(tool.must("status", "--json").output)
    rehearsed = [one["name"] for one in status if one["last_rehearsal_at"]]
    check(sorted(rehearsed) == sorted(tool.config.subvolumes), f"status knows of rehearsals of {rehearsed} only")
    damage_is_found(tool)


def rehearse(tool: Tool, option: str, outcome: str, code: int = 0) -> None:
    report = json.loads(tool.must("rehearse", option, "--json", code=code).output)
    found = {one["subvolume"]: one["outcome"] for one in report["rehearsals"]}
    check(found == dict.fromkeys(tool.config.subvolumes, outcome), f"{option}: {found}, all should be {outcome}")
    left = loop_devices(tool.config.paths.scratch)
    check(not left, f"{option} has left loop devices: {left}")
    read = sum(one["bytes"] for one in report["rehearsals"])
    tool.context.log.info(f"rehearse {option}: {outcome}, {read} bytes")


def loop_devices(folder: Path) -> list[str]:
    """Those of files in a folder, gone or not: others on this machine may come and go."""
    listed = run_command("losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE").splitlines()
    return [line for line in listed if line.split(maxsplit=1)[1].startswith(f"{folder}/")]


def damage_is_found(tool: Tool) -> None:
    """Data packs changed where they are stored; put back afterwards."""
    store = open_store(tool.config, tool.run)
    kept = {key: store.get(key) for key in store.listing() if key.startswith("data/")}
    try:
        for key, body in kept.items():
            store.delete(key)
            store.put(key, flipped(body))
        rehearse(tool, "--whole", "damaged", code=DAMAGED)
    finally:
        for key, body in kept.items():
            store.delete(key)
            store.put(key, body)
    rehearse(tool, "--whole", "good")


def flipped(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]


if __name__ == "__main__":
    run_script(work, __doc__)

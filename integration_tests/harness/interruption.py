"""Kills runs of the tool, and checks what they leave."""

import random
import signal
import subprocess
import time
from pathlib import Path

from harness import dataset, steps
from harness.checks import check_manifest
from harness.errors import HarnessError, check
from harness.loopback import make_btrfs, remove_btrfs
from harness.processes import run
from harness.repository import Repository
from harness.stores import Store
from harness.tool import Ended, Tool, kill_group

FRESH_MIB = 24
TRIES = 6


def slow_tool(tool: Tool) -> Tool:
    """Small packs, and little of the network, so that there is time to interrupt an upload."""
    settings: dict[str, dict[str, object]] = {"packing": {"pack_target": "4 MiB"}}
    if not tool.run.local:
        settings["s3"] = {"upload_per_second": "12 MiB", "concurrency": 2}
    return Tool(tool.context, tool.run, tool.state, settings=settings)


def fresh_file(tool: Tool) -> Path:
    return tool.config.subvolume(tool.config.subvolumes[0]) / "interrupted"


def write_fresh_data(tool: Tool, number: int) -> None:
    """Gives the first subvolume data that the repository does not have."""
    name = tool.config.subvolumes[0]
    file = fresh_file(tool)
    file.write_bytes(random.Random(f"{tool.run.id} {number}").randbytes(FRESH_MIB << 20))
    dataset.write_record(tool.config, name)


def interrupt_backup(tool: Tool, store: Store, number: signal.Signals, delay: float) -> Ended:
    """Interrupts a backup `delay` seconds after its first object has appeared; it must not be done before."""
    for attempt in range(TRIES):
        write_fresh_data(tool, random.getrandbits(64))
        before = {key for key in store.listing()}
        listed = [backup["id"] for backup in tool.backups()]
        process = tool.start("backup", "--subvolume", tool.config.subvolumes[0])
        wait_for_new_pack(process, store, before)
        # A fast machine is done before long: each try waits less.
        time.sleep(delay / 4**attempt)
        kill_group(process, number)
        ended = tool.wait(process)
        if ended.code == 0:
            keep_new_records(tool, set(listed))
            continue
        expected = 130 if number == signal.SIGTERM else -number
        check(ended.code == expected, f"a run ended with {ended.code} after {number.name}: {ended.last_line}")
        return ended
    raise HarnessError(f"none of {TRIES} runs could be interrupted: they were done before")


def wait_for_new_pack(process: subprocess.Popen, store: Store, before: set[str]) -> None:
    while process.poll() is None:
        if any(key.startswith("data/") for key in store.listing().keys() - before):
            return
        time.sleep(0.01)


def keep_new_records(tool: Tool, listed: set[str]) -> None:
    """A run that was killed after it had published has made a backup like any other."""
    for backup in tool.backups():
        if backup["id"] not in listed and backup["subvolume"] in tool.config.subvolumes:
            dataset.keep_record(tool.config, backup["subvolume"], backup["id"])


def check_interrupted_backup(tool: Tool, store: Store, number: signal.Signals, delay: float) -> None:
    """What an interrupted backup leaves is sound, and the rerun sends only what the repository does not know of."""
    listed = {backup["id"] for backup in tool.backups()}
    interrupt_backup(slow_tool(tool), store, number, delay)
    check_all_manifests(store)
    keep_new_records(tool, listed)
    repository = Repository(store)
    known = {name for segment in repository.segments.values() for pack in segment["packs"] for name in chunk_ids(pack)}
    published = {backup["id"] for backup in tool.backups()}
    tool.must("backup", "--subvolume", tool.config.subvolumes[0])
    keep_new_records(tool, published)
    after = Repository(store)
    again = [
        name
        for pack_id, pack in after.packs.items()
        if pack_id not in repository.packs and pack.footer["class"] == "data"
        for name in pack.chunks
        if name in known
    ]
    check(not again, f"the rerun stored {len(again)} chunks again that the index knew of")
    new = sum(pack.stored_bytes for pack_id, pack in after.packs.items() if pack_id not in repository.packs)
    tool.context.log.info(f"{number.name} after {delay:.2f} s: sound; the rerun stored {new} bytes in packs")


def chunk_ids(pack: dict) -> list[bytes]:
    ids = pack["footer"]["chunk_ids"]
    return [ids[start : start + 32] for start in range(0, len(ids), 32)]


def check_all_manifests(store: Store) -> None:
    """Every backup that counts has all that it needs."""
    repository = Repository(store)
    manifests = repository.manifests()
    by_id = {manifest.record["session"]: manifest for manifest in manifests}
    for manifest in manifests:
        check_manifest(repository, manifest, by_id)


def check_interrupted_restore(tool: Tool, delays: list[float]) -> None:
    """A restore that is killed leaves no target, or a whole one; and the next one is right."""
    name = tool.config.subvolumes[0]
    backup = tool.latest(name)
    steps.restore_file_system(tool.context)
    try:
        killed = sum(kill_restore(tool, backup, delay) for delay in delays)
        check(killed > 0, "no restore could be interrupted: they were done before")
        remove_btrfs(tool.config.paths.restore_image, tool.config.paths.restore_mount)
        make_btrfs(tool.config.paths.restore_image, tool.config.paths.restore_mount,
                   tool.config.loopback_size_gib, "noatime")  # fmt: skip
        steps.restore(tool, backup)
        steps.compare(tool.context, name, backup["id"])
    finally:
        steps.remount_sources(tool.context)
    tool.context.log.info(f"{killed} of {len(delays)} restores were killed in time, and left nothing half-done")


def kill_restore(tool: Tool, backup: dict, delay: float) -> bool:
    target = tool.config.paths.restore_mount / f"{backup['subvolume']}.{backup['id']}"
    process = tool.start("restore", backup["id"], "--target", str(target))
    time.sleep(delay)
    kill_group(process, signal.SIGKILL)
    ended = tool.wait(process)
    if target.exists():
        steps.compare(tool.context, backup["subvolume"], backup["id"])
        remove_restored(target)
    # The same target again: what the killed run has left must not be in the way.
    tool.must("restore", backup["id"], "--target", str(target))
    steps.compare(tool.context, backup["subvolume"], backup["id"])
    remove_restored(target)
    return ended.code != 0


def remove_restored(target: Path) -> None:
    for path in (target, target.with_name(target.name + ".received")):
        if path.exists():
            run("btrfs", "subvolume", "delete", path)

"""What may happen to a host, its snapshots, its disk and its server; after each, a restore must be right."""

import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

from harness import dataset, interruption, steps
from harness.errors import check
from harness.fault_proxy import FaultProxy
from harness.processes import run as run_command
from harness.stores import open_store
from harness.tool import Tool

CHAIN_LENGTH = 10


def first(tool: Tool) -> str:
    return tool.config.subvolumes[0]


def back_up_first(tool: Tool, code: int = 0) -> dict:
    """Backs the first subvolume up and gives its new backup."""
    before = {backup["id"] for backup in tool.backups()}
    tool.must("backup", "--subvolume", first(tool), code=code)
    made = [backup for backup in tool.backups() if backup["id"] not in before]
    check(len(made) == 1, f"{len(made)} backups have come of one run")
    dataset.keep_record(tool.config, first(tool), made[0]["id"])
    return made[0]


def restore_and_compare(tool: Tool, *backups: dict) -> None:
    """Restores with the sources unmounted, and compares."""
    steps.restore_file_system(tool.context)
    try:
        for backup in backups:
            steps.restore(tool, backup)
            steps.compare(tool.context, backup["subvolume"], backup["id"])
    finally:
        steps.remount_sources(tool.context)


def newest_snapshot(tool: Tool) -> Path:
    return sorted(tool.config.paths.snapshots.glob(f"{first(tool)}.*"))[-1]


def through(tool: Tool, proxy: FaultProxy) -> Tool:
    return Tool(tool.context, tool.run, "state", endpoint_url=proxy.url)


def with_faults(tool: Tool, change: Callable[[FaultProxy], None]) -> None:
    """A backup and a restore through a proxy that has these faults."""
    endpoint = tool.config.aws.endpoint_url
    with FaultProxy(endpoint) as proxy:
        change(proxy)
        interruption.write_fresh_data(tool, time.monotonic_ns())
        started = time.monotonic()
        proxied = through(tool, proxy)
        backup = back_up_first(proxied)
        restore_and_compare(proxied, backup)
        seconds = time.monotonic() - started
        check(proxy.requests > 10, "the requests did not go through the proxy")
        tool.context.log.info(f"{proxy.requests} requests, {proxy.refused} of them refused, {seconds:.1f} s")


def busy_server(tool: Tool) -> None:
    """503 for a third of the requests."""
    with_faults(tool, lambda proxy: setattr(proxy, "refuse_every", 3))


def latency_50_ms(tool: Tool) -> None:
    with_faults(tool, lambda proxy: setattr(proxy, "latency", 0.05))


def latency_100_ms(tool: Tool) -> None:
    with_faults(tool, lambda proxy: setattr(proxy, "latency", 0.1))


def server_gone_20_s(tool: Tool) -> None:
    with_faults(tool, lambda proxy: outage(proxy, 20))


def server_gone_90_s(tool: Tool) -> None:
    with_faults(tool, lambda proxy: outage(proxy, 90))


def outage(proxy: FaultProxy, seconds: float) -> None:
    """Takes the server away after some requests, and gives it back."""
    def play() -> None:
        while proxy.requests < 8:
            time.sleep(0.005)
        proxy.down = True
        time.sleep(seconds)
        proxy.down = False

    threading.Thread(target=play, daemon=True).start()


def parent_deleted(tool: Tool) -> None:
    run_command("btrfs", "subvolume", "delete", newest_snapshot(tool))
    backup = back_up_first(tool)
    restore_and_compare(tool, backup)
    tool.context.log.info(f"the newest snapshot deleted: {backup['kind']} backup")


def parent_replaced(tool: Tool) -> None:
    """Another subvolume under the name of the parent: sending against it would be wrong."""
    snapshot = newest_snapshot(tool)
    run_command("btrfs", "subvolume", "delete", snapshot)
    empty = tool.config.paths.data / "replacement"
    run_command("btrfs", "subvolume", "create", empty)
    try:
        run_command("btrfs", "subvolume", "snapshot", "-r", empty, snapshot)
    finally:
        run_command("btrfs", "subvolume", "delete", empty)
    backup = back_up_first(tool)
    restore_and_compare(tool, backup)
    tool.context.log.info(f"the newest snapshot replaced: {backup['kind']} backup")


def parent_edited(tool: Tool) -> None:
    """The parent made writable, changed, and made read-only again."""
    snapshot = newest_snapshot(tool)
    run_command("btrfs", "property", "set", "-f", "-ts", snapshot, "ro", "false")
    (snapshot / "edited").write_bytes(b"not in the backup")
    run_command("btrfs", "property", "set", "-f", "-ts", snapshot, "ro", "true")
    backup = back_up_first(tool)
    restore_and_compare(tool, backup)
    tool.context.log.info(f"the newest snapshot edited: {backup['kind']} backup")


def bucket_emptied(tool: Tool) -> None:
    """All objects gone behind the local cache: the next run must not report a backup."""
    store = open_store(tool.config, tool.run)
    contents = {key: store.get(key) for key in store.listing()}
    for key in contents:
        store.delete(key)
    ended = tool.call("backup", "--subvolume", first(tool))
    left = store.listing()
    for key in left:
        store.delete(key)
    for key, body in contents.items():
        store.put(key, body)
    check(ended.code not in (0, 3), f"a backup into an emptied repository ended with {ended.code}")
    restore_and_compare(tool, back_up_first(tool))
    tool.context.log.info(f"an emptied repository: exit code {ended.code}, {ended.last_line}")


def data_packs_lost(tool: Tool) -> None:
    """All packs of file data gone behind the local cache: the next run says so, and sends everything again."""
    store = open_store(tool.config, tool.run)
    contents = {key: store.get(key) for key in store.listing() if key.startswith("data/")}
    for key in contents:
        store.delete(key)
    try:
        backup = back_up_first(tool, code=3)
        check(backup["kind"] == "full", f"the packs of the parent are lost, and the backup is {backup['kind']}")
        restore_and_compare(tool, backup)
    finally:
        for key, body in contents.items():
            store.put(key, body)


def full_disk(tool: Tool) -> None:
    """A restore onto a full disk fails, leaves no target, and succeeds when there is room."""
    interruption.write_fresh_data(tool, time.monotonic_ns())
    backup = back_up_first(tool)
    mount = tool.config.paths.restore_mount
    steps.restore_file_system(tool.context)
    try:
        fill(mount / "filler")
        target = mount / f"{first(tool)}.{backup['id']}"
        ended = tool.call("restore", backup["id"], "--target", str(target))
        check(ended.code == 1, f"a restore onto a full disk ended with {ended.code}")
        check(not target.exists(), "a restore onto a full disk has left a target")
        (mount / "filler").unlink()
        run_command("btrfs", "filesystem", "sync", mount)
        steps.restore(tool, backup)
        steps.compare(tool.context, first(tool), backup["id"])
        tool.context.log.info(f"a full disk: {ended.last_line}")
    finally:
        steps.remount_sources(tool.context)


def fill(file: Path) -> None:
    """Leaves less room than a restore needs."""
    room = shutil.disk_usage(file.parent).free
    run_command("fallocate", "-l", max(1, room - (8 << 20)), file)


def beside_an_edited_restore(tool: Tool) -> None:
    """An older restore that was edited must not find its way into a new one."""
    backup = tool.latest(first(tool))
    mount = tool.config.paths.restore_mount
    steps.restore_file_system(tool.context)
    try:
        older = mount / "older"
        tool.must("restore", backup["id"], "--target", str(older))
        (older / "edited").write_bytes(b"after the restore")
        received = mount / "older.received"
        run_command("btrfs", "property", "set", "-f", "-ts", received, "ro", "false")
        (received / "edited too").write_bytes(b"after the restore")
        run_command("btrfs", "property", "set", "-f", "-ts", received, "ro", "true")
        steps.restore(tool, backup)
        steps.compare(tool.context, first(tool), backup["id"])
    finally:
        steps.remount_sources(tool.context)


def chain_of_ten(tool: Tool) -> None:
    """One full and nine incremental backups, each of which comes back."""
    tool.must("backup", "--subvolume", first(tool), "--full")
    chain = [tool.latest(first(tool))]
    dataset.keep_record(tool.config, first(tool), chain[0]["id"])
    for _ in range(CHAIN_LENGTH - 1):
        steps.mutate(tool.context, tool.run)
        chain.append(back_up_first(tool))
        check(chain[-1]["parent"] == chain[-2]["id"], "a backup does not build on the one before")
    restore_and_compare(tool, *chain)


def killed_often(tool: Tool) -> None:
    """SIGKILL at ten moments of a backup."""
    store = open_store(tool.config, tool.run)
    for number in range(10):
        interruption.check_interrupted_backup(tool, store, signal.SIGKILL, number / 5)


# Those that need a server on the loopback device to put a proxy before, and the slow ones.
THROUGH_PROXY = (busy_server, latency_50_ms, latency_100_ms, server_gone_20_s, server_gone_90_s)
SLOW = (server_gone_90_s, killed_often)
ALL = (
    parent_deleted, parent_replaced, parent_edited, bucket_emptied, data_packs_lost, full_disk,
    beside_an_edited_restore, chain_of_ten, *THROUGH_PROXY, killed_often,
)  # fmt: skip


def is_possible(scenario: Callable[[Tool], None], tool: Tool) -> bool:
    """Whether there is a server that a proxy can be put before."""
    is_http = tool.config.aws.endpoint_url.startswith("http://")
    return scenario not in THROUGH_PROXY or (not tool.run.local and is_http)

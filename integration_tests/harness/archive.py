"""A restore from an archival storage class, step by step: refused, asked for once, waited for, right."""

import os
from pathlib import Path

from harness import steps
from harness.errors import HarnessError, check
from harness.stores import S3Store
from harness.tool import Tool

ARCHIVAL_CLASSES = ("GLACIER", "DEEP_ARCHIVE")
# The tool's exit code where what it needs is not thawed yet.
NOT_THAWED = 6


class Thaws:
    """What the server has written down of reads it refused and of thaws, if it writes at all; AWS does not."""

    def __init__(self) -> None:
        name = os.environ.get("BTRFS_TO_S3_ARCHIVE_LOG")
        self.file = Path(name) if name else None

    def requests(self, operation: str, outcome: str) -> list[str]:
        """The keys of such requests, in order."""
        if self.file is None:
            return []
        lines = [line.split(" ") for line in self.file.read_text(encoding="utf-8").splitlines()]
        return [key for name, key, word in lines if (name, word) == (operation, outcome)]


def archived_keys(store: S3Store) -> list[str]:
    return [key for key, listed in store.listing().items() if listed.storage_class in ARCHIVAL_CLASSES]


def check_reading_is_refused(store: S3Store, keys: list[str]) -> None:
    """By an S3 client that knows nothing of the tool: else nothing is archived, and nothing would be shown."""
    from botocore.exceptions import ClientError

    for key in keys:
        try:
            store.get(key)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            check(code == "InvalidObjectState", f"{key}: reading it before the thaw fails with {code}")
        else:
            raise HarnessError(f"{key}: it can be read before the thaw")


def check_metadata_needs_no_thaw(tool: Tool) -> None:
    for backup in tool.backups():
        tool.must("show", backup["id"])
    tool.must("check")


def targets(tool: Tool) -> list[tuple[dict, Path]]:
    """The latest backup of each subvolume, and where it is to be."""
    latest = [tool.latest(name) for name in tool.config.subvolumes]
    mount = tool.config.paths.restore_mount
    return [(backup, mount / f"{backup['subvolume']}.{backup['id']}") for backup in latest]


def check_all_is_asked_for(tool: Tool, store: S3Store) -> None:
    """Each restore ends at once, has left no target, and has asked for all that its chain has in the archive."""
    for backup, target in targets(tool):
        tool.must("restore", backup["id"], "--target", str(target), code=NOT_THAWED)
        check(not target.exists(), f"a restore that had to be thawed first has left {target}")
    for key in archived_keys(store):
        check("Restore" in store.head(key), f"{key}: nobody has asked for its thaw")


def check_a_timeout_ends_the_waiting(tool: Tool) -> None:
    backup, target = targets(tool)[0]
    options = ("--wait-for-thaw", "--thaw-timeout", "1s")
    tool.must("restore", backup["id"], "--target", str(target), *options, code=NOT_THAWED)
    check(not target.exists(), f"a restore that waited in vain has left {target}")


def check_what_is_thawed_is_right(tool: Tool) -> None:
    timeout = f"{tool.config.restore_timeout_seconds}s"
    for backup, target in targets(tool):
        options = ("--wait-for-thaw", "--thaw-timeout", timeout, "--discard-received")
        tool.must("restore", backup["id"], "--target", str(target), *options)
        steps.compare(tool.context, backup["subvolume"], backup["id"])


def check_one_wave(thaws: Thaws, keys: list[str]) -> str:
    """Each archived object was asked for once, by the first restore that needs it; says what was counted."""
    refused = len(thaws.requests("GetObject", "refused"))
    asked = thaws.requests("RestoreObject", "accepted")
    check(refused > 0, "the server has refused no read")
    check(sorted(asked) == sorted(keys), f"{len(asked)} thaws were asked for, of {len(keys)} archived objects")
    again = len(thaws.requests("RestoreObject", "refused"))
    check(again == 0, f"{again} thaws were asked for again while they were in progress")
    return f"{refused} reads refused before the thaw; {len(asked)} objects thawed in one wave"

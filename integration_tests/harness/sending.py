"""Compares the stream of a backup with what `btrfs send` says of its snapshot."""

import os
import subprocess
from collections.abc import Iterable, Iterator

from harness.errors import check
from harness.repository import Manifest
from harness.tool import Tool


def check_stream(tool: Tool, manifest: Manifest, by_id: dict[bytes, Manifest]) -> bool:
    """Whether the stream could be compared; raises where it is another.

    Sent later, when the subvolume has changed, a snapshot's clones may come from elsewhere: the kernel takes what it
    finds first. So only the latest backup can be compared; and where only sources of clones differ, that is the cause.
    """
    command = send_command(tool, manifest, by_id)
    if command is None:
        return False
    with subprocess.Popen(command, stdout=subprocess.PIPE) as sender:
        digest = digest_of(iter(lambda: sender.stdout.read(1 << 20), b""))
    check(sender.returncode == 0, f"`{' '.join(command)}` failed")
    if digest != manifest.record["stream"]["digest"]:
        stored = commands_of([*tool.context.command, tool.config.config_flag, str(tool.write_config()),
                              "restore", manifest.id, "--stream", "-"])  # fmt: skip
        check(stored == commands_of(command), f"manifest {manifest.id}: the stream is not that of `btrfs send`")
    return True


def send_command(tool: Tool, manifest: Manifest, by_id: dict[bytes, Manifest]) -> list[str] | None:
    """None where the snapshot cannot be sent again, or not with the same result."""
    record, snapshots = manifest.record, tool.config.paths.snapshots
    if record["snapshot"] is None or os.geteuid() != 0 or not is_unchanged(tool, record["subvolume"], manifest.id):
        return None
    if record["kind"] == "unchanged":
        # There is no stream: it is its parent's.
        return None
    command = ["btrfs", "send", "--quiet", "--proto", str(record["stream"]["version"])]
    paths = [record["snapshot"]["path"]]
    if record["parent"]:
        paths.insert(0, by_id[record["parent"]["manifest"]].record["snapshot"]["path"])
        command.append("-p")
    command += [str(snapshots / os.fsdecode(path)) for path in paths]
    return command if all(os.path.isdir(path) for path in command[5:] if path != "-p") else None


def is_unchanged(tool: Tool, name: str, backup: str) -> bool:
    """Whether the subvolume is still what was written down of it before this backup."""
    kept, now = (tool.config.paths.records / name / f"{file}.json" for file in (backup, "now"))
    return kept.is_file() and kept.read_bytes() == now.read_bytes()


def digest_of(pieces: Iterable[bytes]) -> bytes:
    import xxhash

    hasher = xxhash.xxh3_128()
    for piece in pieces:
        hasher.update(piece)
    return hasher.digest()


def commands_of(command: list[str]) -> list[str]:
    """The commands of the stream that `command` writes, without where its clones come from."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as writer:
        dump = subprocess.run(["btrfs", "receive", "--dump"], stdin=writer.stdout, capture_output=True, check=True)
    return list(without_sources(dump.stdout.decode(errors="surrogateescape").splitlines()))


def without_sources(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        yield line.split(" from=", 1)[0] if line.startswith("clone ") else line

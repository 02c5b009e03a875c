#!/usr/bin/env python3
"""Prints what `btrfs_to_s3 list --json` says, read from standard input, as a table."""

import json
import sys


def size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1_000_000 else f"{count / 1e3:,.1f} kB"


def row(number: object, name: str, kind: str, logical: int, new: str, stored: int) -> str:
    ratio = logical / max(stored, 1)
    return f"{number:>6}  {name:16} {kind:11} {size(logical):>11} {new:>11} {size(stored):>11} {ratio:7.1f}"


def main() -> None:
    backups = json.load(sys.stdin)
    print(f"{'backup':>6}  {'subvolume':16} {'kind':11} {'logical':>11} {'new':>11} {'stored':>11} {'ratio':>7}")
    for number, backup in enumerate(backups, start=1):
        logical, stored = backup["stream_bytes"], backup["stored_bytes"]
        print(row(number, backup["subvolume"], backup["kind"], logical, size(backup["new_bytes"]), stored))
    logical, stored = (sum(backup[field] for backup in backups) for field in ("stream_bytes", "stored_bytes"))
    print(row("all", "", "", logical, "", stored))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Fills, changes, records and compares directory trees for the tests of backup and restore.

    tree.py seed DIR --seed N [--size-mib M]     every kind of inode, name and attribute; M MiB of file contents on top
    tree.py mutate DIR --seed N --night K        the changes of one night, the same for the same tree, N and K
    tree.py record DIR > list.json               everything that a restore must bring back
    tree.py compare DIR list.json                exit code 1 and one line for each difference

seed and mutate need root and a Btrfs subvolume: they make device nodes, trusted xattrs and reflinks. What plain
`btrfs send` and `btrfs receive` lose themselves is never made; tree_seed.py lists it.
"""

import argparse
import json
import sys
from pathlib import Path

from tree_mutate import mutate
from tree_record import differences, record
from tree_seed import seed


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)

    seeding = commands.add_parser("seed")
    seeding.add_argument("directory", type=Path)
    seeding.add_argument("--seed", type=int, required=True)
    seeding.add_argument("--size-mib", type=int, default=32)

    mutating = commands.add_parser("mutate")
    mutating.add_argument("directory", type=Path)
    mutating.add_argument("--seed", type=int, required=True)
    mutating.add_argument("--night", type=int, required=True)

    recording = commands.add_parser("record")
    recording.add_argument("directory", type=Path)

    comparing = commands.add_parser("compare")
    comparing.add_argument("directory", type=Path)
    comparing.add_argument("list", type=Path)
    return parser.parse_args()


def compare(directory: Path, list_path: Path) -> int:
    expected = json.loads(list_path.read_text(encoding="ascii"))
    found = differences(expected, record(directory))
    for difference in found:
        print(difference)
    if found:
        print(f"{directory}: {len(found)} differences from {list_path}")
        return 1
    print(f"{directory}: equal, {len(expected['entries'])} entries")
    return 0


def main() -> int:
    options = arguments()
    if not options.directory.is_dir():
        print(f"tree.py: {options.directory} is not a directory", file=sys.stderr)
        return 2
    match options.command:
        case "seed":
            seed(options.directory, options.seed, options.size_mib)
        case "mutate":
            mutate(options.directory, options.seed, options.night)
        case "record":
            json.dump(record(options.directory), sys.stdout, indent=1, sort_keys=True)
            print()
        case "compare":
            return compare(options.directory, options.list)
    return 0


if __name__ == "__main__":
    sys.exit(main())

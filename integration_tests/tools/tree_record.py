"""Writes down everything about a tree that a restore must bring back, and finds where two such records differ.

Recorded: type, mode, owner, group, mtime to the nanosecond, size, text of symlinks, device numbers, which names are
hard links of one inode, every xattr (ACLs are the xattrs system.posix_acl_*), and the SHA-256 of the contents; for the
tree's own directory as well. Not recorded: where holes are (contents are), atime, ctime, inode numbers, sizes of
directories: none of them is a promise of `btrfs receive`.
"""

import hashlib
import os
import stat
from pathlib import Path

FORMAT = 1

TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}


def record(root: Path) -> dict:
    """The record of the tree below `root`, ready for JSON; names that are not UTF-8 are surrogate-escaped."""
    entries: dict[str, dict] = {}
    names_of_inode: dict[int, list[str]] = {}
    root_device = root.lstat().st_dev
    pending = ["."]
    while pending:
        name = pending.pop()
        path = os.path.join(root, name)
        status = os.lstat(path)
        entries[name] = entry(path, status)
        if not stat.S_ISDIR(status.st_mode):
            names_of_inode.setdefault(status.st_ino, []).append(name)
        elif status.st_dev != root_device:
            entries[name]["type"] = "directory of another file system or subvolume"
        else:
            pending.extend(os.path.normpath(os.path.join(name, child)) for child in os.listdir(path))

    for names in names_of_inode.values():
        for name in names:
            entries[name]["hard_link_of"] = min(names)
    return {"format": FORMAT, "entries": entries}


def entry(path: str, status: os.stat_result) -> dict:
    """What is recorded of one inode; the group of its hard links is added when all names are known."""
    kind = stat.S_IFMT(status.st_mode)
    fields = {
        "type": TYPES[kind],
        "mode": f"{stat.S_IMODE(status.st_mode):04o}",
        "uid": status.st_uid,
        "gid": status.st_gid,
        "mtime_ns": status.st_mtime_ns,
        "xattrs": {
            name: os.getxattr(path, name, follow_symlinks=False).hex()
            for name in os.listxattr(path, follow_symlinks=False)
        },
    }
    if kind != stat.S_IFDIR:
        fields["links"] = status.st_nlink
    if kind == stat.S_IFREG:
        fields["size"] = status.st_size
        fields["sha256"] = sha256(path)
    elif kind == stat.S_IFLNK:
        fields["target"] = os.readlink(path)
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        fields["device"] = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    return fields


def sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def differences(expected: dict, found: dict) -> list[str]:
    """One readable line for each difference, sorted by path; empty when the trees are equal."""
    for side in (expected, found):
        if side.get("format") != FORMAT or "." not in side.get("entries", {}):
            raise ValueError("not a record of a tree")
    lines = []
    for name in sorted(expected["entries"].keys() | found["entries"].keys()):
        before, after = expected["entries"].get(name), found["entries"].get(name)
        if after is None:
            lines.append(f"{name!r}: missing ({before['type']})")
        elif before is None:
            lines.append(f"{name!r}: not expected ({after['type']})")
        else:
            lines.extend(f"{name!r}: {line}" for line in field_differences(before, after))
    return lines


def field_differences(before: dict, after: dict) -> list[str]:
    lines = []
    for field in sorted(before.keys() | after.keys()):
        old, new = before.get(field), after.get(field)
        if field == "xattrs":
            lines.extend(f"xattr {line}" for line in field_differences(old, new))
        elif old != new:
            lines.append(f"{field} is {shown(new)} instead of {shown(old)}")
    return lines


def shown(value: object) -> str:
    if value is None:
        return "missing"
    text = value if isinstance(value, str) and value.isprintable() and value else repr(value)
    return text if len(text) <= 100 else f"{text[:100]}… ({len(text)} characters)"

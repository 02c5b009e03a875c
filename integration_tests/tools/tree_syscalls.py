"""What the standard library lacks: reflinks, hole punching, POSIX ACLs as xattr values."""

import ctypes
import fcntl
import os
import struct
from pathlib import Path

# linux/fs.h
FICLONE = 0x40049409
FICLONERANGE = 0x4020940D
# linux/falloc.h
FALLOC_FL_KEEP_SIZE = 0x01
FALLOC_FL_PUNCH_HOLE = 0x02
# linux/posix_acl.h, linux/posix_acl_xattr.h
ACL_VERSION = 2
ACL_USER_OBJ, ACL_USER, ACL_GROUP_OBJ, ACL_GROUP, ACL_MASK, ACL_OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
ACL_NO_ID = 0xFFFFFFFF

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def reflink(source: Path, target: Path) -> None:
    """Makes or replaces the contents of `target` with all extents of `source`, shared."""
    with open(source, "rb") as source_file, open(target, "wb") as target_file:
        fcntl.ioctl(target_file, FICLONE, source_file.fileno())


def reflink_range(source: Path, source_offset: int, length: int, target: Path, target_offset: int) -> None:
    """Shares a range of `source` with an existing `target`; offsets and length are multiples of 4096."""
    with open(source, "rb") as source_file, open(target, "r+b") as target_file:
        request = struct.pack("=qQQQ", source_file.fileno(), source_offset, length, target_offset)
        fcntl.ioctl(target_file, FICLONERANGE, request)


def punch_hole(path: Path, offset: int, length: int) -> None:
    with open(path, "r+b") as file:
        if _libc.fallocate(file.fileno(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(path))


def acl(owner: int, named_users: dict[int, int], group: int, named_groups: dict[int, int], other: int) -> bytes:
    """The value of system.posix_acl_access or system.posix_acl_default; permissions are 0 to 7."""
    mask = group
    for permission in [*named_users.values(), *named_groups.values()]:
        mask |= permission
    entries = [
        (ACL_USER_OBJ, owner, ACL_NO_ID),
        *((ACL_USER, permission, user) for user, permission in sorted(named_users.items())),
        (ACL_GROUP_OBJ, group, ACL_NO_ID),
        *((ACL_GROUP, permission, named) for named, permission in sorted(named_groups.items())),
        (ACL_MASK, mask, ACL_NO_ID),
        (ACL_OTHER, other, ACL_NO_ID),
    ]
    return struct.pack("<I", ACL_VERSION) + b"".join(struct.pack("<HHI", *entry) for entry in entries)

#!/bin/bash
# Tells whether Btrfs file systems can be made and mounted here: exit code 0, or 1 and one line that says why not.

set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"

work=
trap 'rm -rf --one-file-system "$work"' EXIT

unavailable() {
    echo "$*"
    exit 1
}

[ "$(id -u)" = 0 ] || unavailable "not root"
command -v mkfs.btrfs >/dev/null || unavailable "there is no mkfs.btrfs (package btrfs-progs)"
work=$(mktemp -d)
truncate -s 128M "$work/image"
mkfs.btrfs --quiet "$work/image" >"$work/errors" 2>&1 || unavailable "$(tail -n 1 "$work/errors")"
# The mount, and with it the loop device, ends with its namespace.
unshare --mount --propagation private mount -t btrfs -o loop "$work/image" /mnt 2>"$work/errors" ||
    unavailable "$(head -n 1 "$work/errors")"

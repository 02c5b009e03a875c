#!/bin/bash
# The demo where no Btrfs can be had: captured send streams go in and come out again. Started by demo.sh.
#
# usage: on_streams.sh PROGRAM FOLDER

set -euo pipefail

program=$1
work=$2
here=$(dirname "$(realpath "$0")")

btrfs_to_s3() {
    "$program" --config "$work/demo.toml" "$@"
}

cat >"$work/demo.toml" <<TOML
repository = "file://$work/repository"

[global]
state_dir = "$work/state"
TOML

btrfs_to_s3 init
for stream in "$here"/../fixtures/streams/*.stream; do
    name=$(basename "$stream" .stream)
    btrfs_to_s3 backup --stdin --name "$name" <"$stream"
    btrfs_to_s3 restore latest --subvolume "$name" --stream - | cmp - "$stream"
    echo "$name: the restored stream has the same bytes"
done

echo
btrfs_to_s3 list --json | "$here/../tools/table.py"

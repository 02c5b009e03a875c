#!/bin/bash
# The demo on real Btrfs. Started by demo.sh in a mount namespace of its own.
#
# usage: on_btrfs.sh PROGRAM FOLDER

set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"

program=$1
work=$2
tools=$(dirname "$(realpath "$0")")/../tools

make_btrfs() {
    truncate -s 3G "$work/$1.image"
    mkfs.btrfs --quiet "$work/$1.image" >/dev/null
    mkdir "$work/$1"
    mount -t btrfs -o loop,noatime "$work/$1.image" "$work/$1"
}

btrfs_to_s3() {
    "$program" --config "$work/demo.toml" "$@"
}

make_btrfs source
btrfs --quiet subvolume create "$work/source/data"
mkdir "$work/source/snapshots"
cat >"$work/demo.toml" <<TOML
repository = "file://$work/repository"

[global]
state_dir = "$work/state"
lock_path = "$work/lock"

[snapshots]
base_dir = "$work/source/snapshots"
retain = 2

[[subvolumes]]
path = "$work/source/data"
TOML

echo "A Btrfs with one subvolume, filled with every kind of file:"
"$tools/tree.py" seed "$work/source/data" --seed 1 --size-mib 250
btrfs filesystem sync "$work/source"
btrfs filesystem du --summarize "$work/source/data"

btrfs_to_s3 init
# The third night is a full backup again, to show what it costs when nearly everything is there already.
for night in 1 2 3; do
    echo
    echo "Night $night"
    [ $night = 1 ] || "$tools/tree.py" mutate "$work/source/data" --seed 1 --night $night
    "$tools/tree.py" record "$work/source/data" >"$work/night-$night.json"
    full=()
    [ $night != 3 ] || full=(--full)
    btrfs_to_s3 backup "${full[@]}"
done

echo
echo "The source is unmounted, and night 2 restored by its id onto another Btrfs:"
umount "$work/source"
make_btrfs restored
id=$(btrfs_to_s3 list --json | python3 -c 'import json, sys; print(json.load(sys.stdin)[1]["id"])')
btrfs_to_s3 restore "$id" --target "$work/restored/data"
"$tools/tree.py" compare "$work/restored/data" "$work/night-2.json"

echo
btrfs_to_s3 list --json | "$tools/table.py"

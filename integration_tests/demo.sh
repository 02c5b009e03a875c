#!/bin/bash
# Shows the program at work: three nights of a Btrfs subvolume into a local repository, one of them restored onto a
# second Btrfs and compared. Where no Btrfs can be had, a round trip of captured send streams instead.
#
# Needs root for Btrfs; everything it makes is in a temporary folder and gone afterwards.

set -euo pipefail
cd "$(dirname "$0")/.."

needed=()
[ "$(id -u)" = 0 ] || needed=(cc python3)
integration_tests/install_prerequisites.sh "${needed[@]}"

tool=${BTRFS_TO_S3_TEST_BINARY-}
if [ -z "$tool" ]; then
    cargo build --release
    tool=$(cargo metadata --no-deps --format-version 1 |
        python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')/release/btrfs_to_s3
fi

work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT
export HOME="$work" PYTHONDONTWRITEBYTECODE=1

SECONDS=0
if reason=$(integration_tests/btrfs_available.sh); then
    # In a mount namespace of its own: its mounts and loop devices end with it, however it ends.
    unshare --mount --propagation private integration_tests/demo/on_btrfs.sh "$tool" "$work"
else
    echo "No Btrfs can be had here ($reason): this shows a round trip of captured send streams instead."
    integration_tests/demo/on_streams.sh "$tool" "$work"
fi
echo
echo "The demo took $SECONDS seconds."

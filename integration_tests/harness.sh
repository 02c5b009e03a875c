#!/bin/bash
# Runs the end-to-end harness with the smallest data set on Garage. Needs root, Btrfs and pip's packages.
#
# usage: harness.sh [ARGUMENTS OF run_all.py…]

set -euo pipefail
cd "$(dirname "$0")/.."

venv=integration_tests/.venv
[ -x $venv/bin/pip ] || python3 -m venv $venv
$venv/bin/pip install --quiet --disable-pip-version-check -r integration_tests/requirements.txt
if [ -z "${BTRFS_TO_S3_CMD-}" ]; then
    cargo build --quiet
    export BTRFS_TO_S3_CMD="[\"${CARGO_TARGET_DIR:-target}/debug/btrfs_to_s3\"]"
fi

integration_tests/scripts/local_s3.py start
trap 'integration_tests/scripts/local_s3.py stop' EXIT
# shellcheck source=/dev/null
. integration_tests/run/local_s3/environment
$venv/bin/python integration_tests/scripts/run_all.py --config integration_tests/config/test_small.toml "$@"

#!/bin/bash
# Runs the end-to-end harness on Garage, and its archive scenario on a server of the tests' own. Needs root, Btrfs and
# pip's packages.
#
# usage: harness.sh [--all]     (the smallest data set; --all: every scenario, several packs, and the mutation tests)

set -euo pipefail
cd "$(dirname "$0")/.."

venv=integration_tests/.venv
[ -x $venv/bin/pip ] || python3 -m venv $venv
$venv/bin/pip install --quiet --disable-pip-version-check -r integration_tests/requirements.txt
integration_tests/tools/test_read_repository.sh "$PWD/$venv/bin/python"
if [ -z "${BTRFS_TO_S3_CMD-}" ]; then
    # With the examples, as then the dependencies are those that the tests were built with.
    cargo build --quiet --bins --examples
    export BTRFS_TO_S3_CMD="[\"${CARGO_TARGET_DIR:-target}/debug/btrfs_to_s3\"]"
fi

run() {
    local script=$1 config=$2
    shift 2
    $venv/bin/python "integration_tests/scripts/$script.py" --config "integration_tests/config/$config.toml" "$@"
}

integration_tests/scripts/local_s3.py start
trap 'integration_tests/scripts/local_s3.py stop' EXIT
# shellcheck source=/dev/null
. integration_tests/run/local_s3/environment
case ${1-} in
    '') run run_all test_small ;;
    --all)
        run run_all test --include-large --scenarios
        run run_all test_small --skip-s3
        run mutation_tests test_small
        ;;
    *) echo "usage: $0 [--all]" >&2; exit 2 ;;
esac

integration_tests/scripts/local_s3.py start --archive
trap 'integration_tests/scripts/local_s3.py stop; integration_tests/scripts/local_s3.py stop --archive' EXIT
# shellcheck source=/dev/null
. integration_tests/run/archive_s3/environment
run run_restore_archive test_archive

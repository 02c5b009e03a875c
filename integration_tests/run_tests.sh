#!/bin/bash
# Runs the tests: those that need nothing, those that need an S3 server, and those that need root and Btrfs.
#
# usage: run_tests.sh [--all]     (--all: the slow ones as well)
#
# A test that needs root is marked #[ignore = "needs root …"], one that needs Garage #[ignore = "needs Garage …"]. Where
# they cannot run, this fails and says so, unless BTRFS_TO_S3_SKIP_BTRFS_TESTS=1 or BTRFS_TO_S3_SKIP_GARAGE_TESTS=1 is set;
# then it says what it leaves out. It also fails where fewer tests have run than least_tests.txt says: tests that are lost
# by mistake are not missed by anybody else.

set -euo pipefail
cd "$(dirname "$0")/.."

case ${1-} in
    '') which=needs-root ;;
    --all) which=all ;;
    *) echo "usage: $0 [--all]" >&2; exit 2 ;;
esac

# The names of all tests that are ignored because they need this before all.
tests_that_need() {
    find src integration_tests -name '*.rs' -exec awk -v mark="#[ignore = \"needs $1" '
        FNR == 1 { ignored = 0 }
        index($0, mark) { ignored = 1 }
        ignored && match($0, /fn [a-z0-9_]+/) { print substr($0, RSTART + 3, RLENGTH - 3); ignored = 0 }' {} +
}

# Runs a command that runs tests of some kinds, and sees that enough of them have run.
run_tests_of() {
    local kinds=$1 log=$TMPDIR/log kind passed number least=0
    shift
    # nohup, and shells in the background, have signals ignored, of which some tests want to see that they work.
    env --default-signal=INT,HUP,QUIT "$@" | tee "$log"
    passed=$(awk '/^test result: ok\./ { passed += $4 } END { print passed + 0 }' "$log")
    for kind in $kinds; do
        number=$(awk -v kind="$kind" '$1 == kind { print $2 }' integration_tests/least_tests.txt)
        least=$((least + ${number:?no number of $kind in least_tests.txt}))
    done
    if [ "$passed" -lt "$least" ]; then
        echo "== FAILED: only $passed tests of the kinds ($kinds) have run, least_tests.txt has $least" >&2
        exit 1
    fi
    echo "== $passed tests of the kinds ($kinds) have passed, at least $least had to"
}

integration_tests/install_prerequisites.sh

# Most of what takes long here waits: for file systems, servers, and programs that sleep.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$((2 * $(nproc)))}

# Images of file systems and all else that tests make; gone even if a test is killed.
TMPDIR=$(mktemp -d)
export TMPDIR
# Some tests run the program as another user.
chmod 755 "$TMPDIR"
trap 'rm -rf --one-file-system "$TMPDIR"' EXIT

echo "== tests of the tree comparison"
PYTHONDONTWRITEBYTECODE=1 python3 -m unittest discover -q -s integration_tests/tools
echo "== tests that need nothing"
run_tests_of needs-nothing cargo test
if [ "$which" = all ]; then
    echo "== fuzz targets"
    integration_tests/fuzz.sh --if-possible
fi

kinds=()
names=()
skipped=()
# What Garage cannot show is left to those who have another server: see docs/testing.md.
echo "== LEFT OUT: the store's contract on a server that knows If-None-Match (cargo test --lib over_real_s3::)"
mapfile -t of_garage < <(tests_that_need Garage)
mapfile -t of_both < <(tests_that_need 'root, Btrfs and Garage')
if [ "${BTRFS_TO_S3_SKIP_GARAGE_TESTS-}" = 1 ]; then
    echo "== LEFT OUT, as BTRFS_TO_S3_SKIP_GARAGE_TESTS=1: the store's contract on Garage, and these tests"
    printf '   %s\n' "${of_garage[@]}" "${of_both[@]}"
    mapfile -t skipped < <(printf -- '--skip\n%s\n' "${of_garage[@]}" "${of_both[@]}")
else
    garage=$(integration_tests/garage.sh path)
    PATH=$(dirname "$garage"):$PATH
    echo "== the store's contract on Garage"
    integration_tests/garage.sh start "$TMPDIR/garage"
    # shellcheck source=/dev/null
    (. "$TMPDIR/garage/environment" && run_tests_of needs-server cargo test --lib over_real_s3_without -- --ignored) ||
        { integration_tests/garage.sh stop "$TMPDIR/garage"; exit 1; }
    integration_tests/garage.sh stop "$TMPDIR/garage"
    kinds+=(needs-garage)
    names+=("${of_garage[@]}")
fi

mapfile -t of_root < <(tests_that_need root)
if [ "${BTRFS_TO_S3_SKIP_BTRFS_TESTS-}" = 1 ]; then
    echo "== LEFT OUT, as BTRFS_TO_S3_SKIP_BTRFS_TESTS=1: ${#of_root[@]} tests that need root and Btrfs"
    printf '   %s\n' "${of_root[@]}"
    which=without-root
elif ! reason=$(integration_tests/btrfs_available.sh); then
    echo "== FAILED: ${#of_root[@]} tests need root and Btrfs, which cannot be had here: $reason" >&2
    echo "   Run as root where the kernel has Btrfs, or leave them out with BTRFS_TO_S3_SKIP_BTRFS_TESTS=1." >&2
    exit 1
else
    kinds+=(needs-root)
    [ ${#skipped[@]} -gt 0 ] || kinds+=(needs-root-and-garage)
    names+=("${of_root[@]}")
fi

# In a mount namespace of their own: whatever they mount, and its loop devices, end with it.
in_namespace=(unshare --mount --propagation private)
if [ "$which" = all ]; then
    echo "== all ignored tests"
    run_tests_of "${kinds[*]} slow" "${in_namespace[@]}" cargo test -- --ignored --skip over_real_s3 "${skipped[@]}"
elif [ ${#names[@]} -gt 0 ]; then
    echo "== tests that need something: ${kinds[*]}"
    run_tests_of "${kinds[*]}" "${in_namespace[@]}" cargo test --lib --tests -- --ignored "${names[@]}" "${skipped[@]}"
fi

#!/bin/bash
# Runs the fuzz targets for SECONDS each (60, unless given): all, or those that are named.
#
# usage: fuzz.sh [--if-possible] [SECONDS [TARGET…]]
#
# It needs a nightly toolchain and cargo-fuzz. Where one of them is missing it fails, or, with --if-possible, says what it
# leaves out. Inputs that reach something new are kept in fuzz/corpus and tried first the next time; an input that breaks
# a target is put into fuzz/artifacts, and how to run it again is printed.

set -euo pipefail
cd "$(dirname "$0")/.."

if_possible=
if [ "${1-}" = --if-possible ]; then
    if_possible=1
    shift
fi
seconds=${1:-60}
[[ $seconds =~ ^[1-9][0-9]*$ ]] || { echo "usage: $0 [--if-possible] [SECONDS [TARGET…]]" >&2; exit 2; }
shift || true

# Fails, or says what is left out, for the reason given.
cannot() {
    if [ -n "$if_possible" ]; then
        echo "== LEFT OUT: the fuzz targets: $1"
        exit 0
    fi
    echo "== FAILED: the fuzz targets cannot be run: $1" >&2
    exit 1
}
cargo +nightly --version >/dev/null 2>&1 || cannot "there is no nightly toolchain (rustup toolchain install nightly)"
cargo +nightly fuzz --version >/dev/null 2>&1 ||
    cannot "cargo-fuzz is not installed (cargo install cargo-fuzz --locked)"

seeds=$(mktemp -d)
trap 'rm -rf "$seeds"' EXIT
BTRFS_TO_S3_FUZZ_SEEDS=$seeds cargo test --quiet --test hostile no_two_seeds

# Freed memory that the sanitizer holds back counts as memory of the target.
export ASAN_OPTIONS=quarantine_size_mb=16:${ASAN_OPTIONS-}
limits=(-rss_limit_mb=512 -malloc_limit_mb=256 -timeout=10 -max_len=32768)

targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(cargo +nightly fuzz list)
for target in "${targets[@]}"; do
    echo "== $target, for $seconds seconds"
    mkdir -p "fuzz/corpus/$target"
    # libFuzzer prints each new input; what it says at its end is enough, unless something is found.
    log=$seeds/$target.log
    if ! cargo +nightly fuzz run "$target" "fuzz/corpus/$target" "$seeds/$target" -- \
        -max_total_time="$seconds" -print_final_stats=1 "${limits[@]}" >"$log" 2>&1; then
        tail -n 60 "$log" >&2
        echo "== FAILED: $target. Run it again: cargo +nightly fuzz run $target FILE -- ${limits[*]}" >&2
        echo "   FILE is named above; then write it down as a test of its own (docs/testing.md, 'Hostile input')." >&2
        exit 1
    fi
    grep -E '^#[0-9]+[[:space:]]+(INITED|DONE)' "$log"
done

#!/bin/bash
# Breaks the program on purpose, in one way after another, and checks that the schedules of the model find each; or another
# test, where the first line of the patch names one ("test: …"), as what it takes would hardly ever happen by chance.
#
# usage: mutations.sh [PATCH…]     (without: all in integration_tests/mutations)
#
# The changes are made in a copy; what is not committed is not in it. Takes about a minute for each.

set -uo pipefail
cd "$(dirname "$0")/.." || exit

export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}/mutations
patches=("$@")
[ ${#patches[@]} -gt 0 ] || patches=(integration_tests/mutations/*.patch)
copy=$(mktemp -d)
trap 'git worktree remove --force "$copy"' EXIT
git worktree add --quiet --detach "$copy" HEAD || exit

missed=0
for patch in "${patches[@]}"; do
    name=$(basename "$patch" .patch)
    test=$(sed -n '1s/^test: //p' "$patch")
    git -C "$copy" apply "$(realpath "$patch")" || exit
    if ! (cd "$copy" && cargo test --quiet --test operations --no-run) >/dev/null 2>&1; then
        echo "DOES NOT BUILD  $name"
        missed=$((missed + 1))
    else
        begun=$SECONDS
        if output=$(cd "$copy" && cargo test --quiet --test operations "${test:-no_schedule_breaks}" 2>&1); then
            echo "NOT FOUND       $name"
            missed=$((missed + 1))
        else
            found=$(grep -oE 'schedule [0-9]+ breaks [A-Za-z]+' <<<"$output" | head -1)
            echo "found in $((SECONDS - begun)) s  $name: ${found:-$(grep -m1 panicked -A1 <<<"$output" | tail -1)}"
        fi
    fi
    git -C "$copy" checkout --quiet -- src
done
[ "$missed" -eq 0 ]

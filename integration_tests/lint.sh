#!/bin/bash
# Checks formatting, lints, scripts and dependencies, and says what it left out.

set -euo pipefail
cd "$(dirname "$0")/.."

cargo fmt --check
cargo fmt --check --manifest-path fuzz/Cargo.toml
cargo clippy --all-targets -- -D warnings

# Changes that break the program on purpose have to fit it: see mutations.sh.
if command -v git >/dev/null; then
    for patch in integration_tests/mutations/*.patch; do
        git apply --check "$patch"
    done
else
    echo "LEFT OUT: whether the mutations fit; git is not installed"
fi

if command -v shellcheck >/dev/null; then
    find integration_tests packaging \( -name '*.sh' -o -path '*/debian/p*' \) -exec shellcheck .ci/run {} +
else
    echo "LEFT OUT: shellcheck is not installed (apt-get install shellcheck)"
fi

if command -v systemd-analyze >/dev/null; then
    units=$(mktemp -d)
    trap 'rm -r "$units"' EXIT
    for unit in packaging/systemd/*; do
        # Neither the program nor its manual page is installed here.
        sed 's#^ExecStart=[^ ]*#ExecStart=/bin/true#; /^Documentation=/d' "$unit" > "$units/$(basename "$unit")"
    done
    said=$(systemd-analyze verify "$units"/* 2>&1) || true
    [ -z "$said" ] || { echo "packaging/systemd: $said" >&2; exit 1; }
else
    echo "LEFT OUT: units of systemd; systemd-analyze is not installed"
fi

if command -v cargo-deny >/dev/null; then
    cargo deny check
    cargo deny --manifest-path fuzz/Cargo.toml check --config deny.toml advisories licenses sources
else
    echo "LEFT OUT: licences and advisories of dependencies; cargo-deny is not installed (cargo install cargo-deny)"
fi

#!/bin/bash
# Checks formatting, lints, scripts and dependencies, and says what it left out.

set -euo pipefail
cd "$(dirname "$0")/.."

cargo fmt --check
cargo fmt --check --manifest-path fuzz/Cargo.toml
cargo clippy --all-targets -- -D warnings

# What only a clone can tell. Changes that break the program on purpose have to fit it: see mutations.sh.
if command -v git >/dev/null; then
    for patch in integration_tests/mutations/*.patch; do
        git apply --check "$patch"
    done
    # Notes of somebody's work do not belong to the project.
    known=" .ci .gitignore CHANGELOG.md Cargo.lock Cargo.toml LICENSE Makefile README.md benches clippy.toml deny.toml docs fuzz
        integration_tests packaging rustfmt.toml src "
    for name in $(git ls-files | cut -d/ -f1 | sort -u); do
        case $known in
            *[[:space:]]"$name"[[:space:]]*) ;;
            *) echo "$name: does not belong at the top of the project; if it does, name it in lint.sh" >&2; exit 1 ;;
        esac
    done
else
    echo "LEFT OUT: whether the mutations fit and what is at the top of the project; git is not installed"
fi

if command -v shellcheck >/dev/null; then
    find integration_tests packaging \( -name '*.sh' -o -path '*/debian/p*' \) -exec shellcheck .ci/run {} +
else
    echo "LEFT OUT: shellcheck is not installed (apt-get install shellcheck)"
fi

if command -v systemd-analyze >/dev/null; then
    units=$(mktemp -d)
    trap 'rm -r "$units"' EXIT
    mkdir "$units/btrfs_to_s3-rehearse.service.d"
    cp packaging/systemd/* "$units"
    cp packaging/rehearse-receive.conf "$units/btrfs_to_s3-rehearse.service.d"
    # Neither the program nor its manual pages are installed here.
    find "$units" -type f -exec sed -i 's#^ExecStart=/[^ ]*#ExecStart=/bin/true#; /^Documentation=/d' {} +
    said=$(systemd-analyze verify "$units"/*.{service,timer} 2>&1) || true
    [ -z "$said" ] || { echo "packaging: $said" >&2; exit 1; }
else
    echo "LEFT OUT: units of systemd; systemd-analyze is not installed"
fi

if command -v cargo-deny >/dev/null; then
    cargo deny check
    cargo deny --manifest-path fuzz/Cargo.toml check --config deny.toml advisories licenses sources
else
    echo "LEFT OUT: licences and advisories of dependencies; cargo-deny is not installed (cargo install cargo-deny)"
fi

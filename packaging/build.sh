#!/bin/bash
# Builds a static binary and a Debian package of it.
#
# usage: build.sh [FOLDER]     (default: target/package)
#
# Needs musl's C compiler (apt-get install musl-tools) and Rust's library for it (rustup target add TARGET). To package a
# binary that is built already: BTRFS_TO_S3_BINARY=/path/to/btrfs_to_s3 build.sh

set -euo pipefail
cd "$(dirname "$0")/.."

folder=${1:-${CARGO_TARGET_DIR:-target}/package}
machine=$(uname -m)
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
name=btrfs-to-s3_${version}_$(dpkg --print-architecture)

binary=${BTRFS_TO_S3_BINARY-}
if [ -z "$binary" ]; then
    target=$machine-unknown-linux-musl
    cargo build --release --target "$target"
    binary=${CARGO_TARGET_DIR:-target}/$target/release/btrfs_to_s3
fi

mkdir -p "$folder"
root=$(mktemp -d)
trap 'rm -r "$root"' EXIT
chmod 755 "$root"

install -D -s "$binary" "$root/usr/bin/btrfs_to_s3"
install -d "$root/usr/share/man/man1"
"$binary" man --directory "$root/usr/share/man/man1"
gzip -9 -n "$root"/usr/share/man/man1/*.1
for shell in bash:bash-completion/completions/btrfs_to_s3 zsh:zsh/vendor-completions/_btrfs_to_s3 \
    fish:fish/vendor_completions.d/btrfs_to_s3.fish; do
    install -d "$(dirname "$root/usr/share/${shell#*:}")"
    "$binary" completions "${shell%%:*}" > "$root/usr/share/${shell#*:}"
done
install -D -m 644 -t "$root/usr/lib/systemd/system" packaging/systemd/*
documents=$root/usr/share/doc/btrfs-to-s3
install -D -m 644 -t "$documents/examples" docs/config.example.toml packaging/rehearse-receive.conf
install -m 644 README.md "$documents/README.md"
install -m 644 LICENSE "$documents/copyright"
gzip -9 -n < CHANGELOG.md > "$documents/changelog.gz"
chmod -R u=rwX,go=rX "$root"

install -D -m 755 -t "$root/DEBIAN" packaging/debian/postinst packaging/debian/prerm packaging/debian/postrm
sed -e "s/@VERSION@/$version/" -e "s/@ARCHITECTURE@/$(dpkg --print-architecture)/" \
    -e "s/@SIZE@/$(du -sk --exclude=DEBIAN "$root" | cut -f 1)/" packaging/debian/control > "$root/DEBIAN/control"
dpkg-deb --root-owner-group --build "$root" "$folder/$name.deb" >/dev/null

install "$root/usr/bin/btrfs_to_s3" "$folder/btrfs_to_s3-$version-$machine"
(cd "$folder" && sha256sum "$name.deb" "btrfs_to_s3-$version-$machine" > SHA256SUMS)
printf '%s\n' "$folder/$name.deb" "$folder/btrfs_to_s3-$version-$machine" "$folder/SHA256SUMS"

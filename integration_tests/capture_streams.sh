#!/bin/bash
# Captures small send streams from a real Btrfs, with what `btrfs receive --dump` says of each.
#
# usage: capture_streams.sh [FOLDER]     (root; FOLDER is integration_tests/fixtures/streams if not given)
#
# The file system is made in an image in a temporary folder and is gone afterwards, whatever happens. UUIDs, transactions
# and time stamps differ from run to run, so new streams replace the old ones as a whole.

set -euo pipefail
export LC_ALL=C TZ=UTC PATH="$PATH:/usr/sbin:/sbin"

target=${1:-$(dirname "$(realpath "$0")")/fixtures/streams}
limit_bytes=95000

work=
loop=

clean_up() {
    local status=$?
    set +e
    cd /
    if [[ -n $work ]]; then
        mountpoint -q "$work/mount" && umount "$work/mount"
        [[ -n $loop ]] && losetup -d "$loop"
        # Never into a file system that could not be unmounted.
        rm -rf --one-file-system "$work"
    fi
    exit "$status"
}

make_file_system() {
    truncate -s 160M "$work/image"
    mkfs.btrfs -q "$work/image"
    loop=$(losetup -f --show "$work/image")
    mkdir "$work/mount"
    mount -o noatime "$loop" "$work/mount"
    cd "$work/mount"
}

# Bytes that do not compress and are the same each time: random_bytes LENGTH SEED.
random_bytes() {
    openssl enc -aes-128-ctr -nosalt -pass "pass:$2" -pbkdf2 -in /dev/zero 2>/dev/null | head -c "$1" || true
}

make_first_tree() {
    local name
    mkdir plain empty 'odd names' deep special
    : > plain/no-bytes
    printf x > plain/one-byte
    random_bytes 1500 inline > plain/inline
    random_bytes 9000 medium > plain/medium
    # More than one WRITE of version 1, which holds 48 KiB.
    seq 1 10300 > plain/text
    truncate -s 300000 plain/only-a-hole
    random_bytes 4096 head > plain/holes
    random_bytes 3000 middle | dd of=plain/holes bs=4096 seek=10 conv=notrunc status=none
    truncate -s 200000 plain/holes
    fallocate -l 65536 plain/reserved

    for name in $'new\nline' $'tab\tand \\ backslash' 'spaces  and "quotes"' $'\xff\xfe not UTF-8' 'ünïcödé ☃' '-rf' ' ' $'\x01\x7f'; do
        printf '%q' "$name" > "odd names/$name"
    done
    printf long > "odd names/$(printf 'n%.0s' {1..255})"
    mkdir -p "deep/$(printf 'd%.0s' {1..100})/$(printf 'e%.0s' {1..100})"
    printf deep > "deep/$(printf 'd%.0s' {1..100})/$(printf 'e%.0s' {1..100})/file"

    ln plain/medium plain/medium-hard-link
    ln plain/medium deep/medium-hard-link
    ln -s plain/medium link
    ln -s 'nowhere/at all' dangling
    ln -s /etc/passwd absolute
    cp --reflink=always plain/medium plain/medium-clone
    cp --reflink=always plain/text plain/text-clone
    printf 'changed in the middle' | dd of=plain/text-clone bs=1 seek=30000 conv=notrunc status=none

    mkfifo special/fifo
    mknod special/device b 7 200
    mknod special/character c 1 3
    python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("special/socket")'

    setfattr -n user.plain -v value plain/medium
    setfattr -n user.empty plain/medium
    setfattr -n user.bytes -v 0x00ff0a5c20 plain/one-byte
    setfattr -n user.long -v "$(printf 'v%.0s' {1..1000})" empty
    setfacl -m u:1234:rw,g:5678:r plain/inline
    setfacl -d -m u:1234:rwx plain
    chown 1000:1001 plain/inline
    chown -h 1000:1001 dangling
    chmod 6711 plain/one-byte
    chmod 1777 empty
    touch -h -d '1969-12-31 23:59:59.25 UTC' dangling
    touch -d '2038-01-19 03:14:08.123456789 UTC' plain/text
    chattr +C empty
}

change_tree() {
    printf y >> plain/one-byte
    random_bytes 4096 changed | dd of=plain/medium bs=4096 seek=1 conv=notrunc status=none
    truncate -s 1000 plain/text
    truncate -s 90000 plain/inline
    fallocate -p -o 0 -l 4096 plain/medium-clone
    mv plain/holes 'odd names/moved holes'
    mv plain renamed
    mv link swap; mv absolute link; mv swap absolute
    rm -r deep
    rm 'odd names/-rf'
    rmdir empty
    ln -sfn elsewhere dangling
    setfattr -x user.plain renamed/medium
    setfattr -n user.empty -v filled renamed/medium
    setfacl -b renamed/inline
    chmod 600 renamed/one-byte
    mkdir new
    random_bytes 3000 new > new/file
    cp --reflink=always renamed/text-clone new/clone
    touch -d '2001-02-03 04:05:06 UTC' renamed/no-bytes
}

snapshot() {
    btrfs -q subvolume snapshot -r "$1" "$2"
}

# capture NAME ARGUMENTS-OF-BTRFS-SEND...
capture() {
    local name=$1
    shift
    btrfs -q send -f "$work/out/$name.stream" "$@"
    btrfs receive --dump -f "$work/out/$name.stream" > "$work/out/$name.dump"
    if (($(stat -c %s "$work/out/$name.stream") > limit_bytes)); then
        echo "$name is larger than $limit_bytes bytes" >&2
        return 1
    fi
}

capture_plain() {
    btrfs -q subvolume create live
    (cd live && make_first_tree)
    snapshot live first
    (cd live && change_tree)
    snapshot live second
    snapshot live second-again

    btrfs -q subvolume create other
    cp --reflink=always second/new/file second/renamed/medium other/
    printf 'of its own' > other/own
    snapshot other other-1
    cp --reflink=always second/renamed/text-clone other/
    snapshot other other-2

    capture v1_full --proto 1 first
    capture v2_full --proto 2 first
    capture v1_incremental --proto 1 -p first second
    capture v2_incremental --proto 2 -p first second
    capture v1_clone_source --proto 1 -p other-1 -c second other-2
    capture v2_unchanged --proto 2 -p second second-again
    capture v1_no_data --proto 1 --no-data -p first second
}

capture_compressed() {
    mount -o remount,compress=zstd "$work/mount"
    btrfs -q subvolume create compressed
    # Three extents of at most 128 KiB.
    (yes 'a line that compresses well' || true) | head -c 300000 > compressed/text
    printf 'inline and compressible %.0s' {1..60} > compressed/inline
    random_bytes 9000 compressed > compressed/random
    sync
    snapshot compressed compressed-1
    capture v2_compressed --proto 2 --compressed-data compressed-1
}

main() {
    if ((EUID != 0)); then
        echo 'only root can make and mount a file system' >&2
        return 1
    fi
    trap clean_up EXIT
    trap 'exit 130' INT TERM HUP
    work=$(mktemp -d)
    mkdir "$work/out"
    make_file_system
    capture_plain
    capture_compressed
    mkdir -p "$target"
    rm -f "$target"/*.stream "$target"/*.dump
    install -m 644 "$work"/out/* "$target"
    stat -c '%s %n' "$target"/*.stream
}

main

#!/bin/bash
# Installs with apt-get what the tests and the demo need and is not there. Asks nothing; needs root only if something
# is missing.
#
# usage: install_prerequisites.sh [COMMAND…]     (all of the commands below if none is named)

set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin" DEBIAN_FRONTEND=noninteractive

declare -A package_of=(
    [make]=make [cc]=build-essential [python3]=python3 [b3sum]=b3sum
    [btrfs]=btrfs-progs [mkfs.btrfs]=btrfs-progs [setfacl]=acl [setfattr]=attr
    [mount]=mount [unshare]=util-linux [openssl]=openssl [xz]=xz-utils [strace]=strace [curl]=curl
    [valgrind]=valgrind
)

missing=()
for name in "${@:-${!package_of[@]}}"; do
    command -v "$name" >/dev/null || missing+=("${package_of[$name]}")
done
# The end-to-end harness has its Python packages in an environment of its own.
if [ $# = 0 ] && command -v python3 >/dev/null && ! python3 -c 'import ensurepip' 2>/dev/null; then
    missing+=(python3-venv)
fi
[ ${#missing[@]} -gt 0 ] || exit 0

mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
if [ "$(id -u)" != 0 ]; then
    echo "missing: ${missing[*]}; as root: apt-get install ${missing[*]}" >&2
    exit 1
fi
if ! command -v apt-get >/dev/null; then
    echo "missing: ${missing[*]}; there is no apt-get here, install them by hand" >&2
    exit 1
fi
echo "installing ${missing[*]}"
apt-get update -q >/dev/null
apt-get install -q -y --no-install-recommends "${missing[@]}" >/dev/null

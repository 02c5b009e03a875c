#!/bin/bash
# Unpacks the Debian package in a folder of its own, and tries what it brings: manual pages, units, and that the program
# runs there, in a chroot with nothing else than btrfs-progs, and with the capabilities of the service and none more.
# Needs root and Btrfs.
#
# usage: check.sh PACKAGE.deb

set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"
package=$(realpath "$1")

# What is mounted is gone with this process, whatever becomes of it.
if [ "${2-}" != "in a namespace" ]; then
    exec unshare --mount --propagation private "$0" "$package" "in a namespace"
fi
work=$(mktemp -d)
root=$work/root
trap 'umount -q "$root/mnt" "$root/proc" || true; rm -rf --one-file-system "$work"' EXIT
fail() { echo "FAILED: $*" >&2; exit 1; }

mkdir "$root"
dpkg-deb -x "$package" "$root"
unit=$root/usr/lib/systemd/system/btrfs_to_s3.service

echo "== manual pages and completions"
if command -v man >/dev/null; then
    for page in "$root"/usr/share/man/man1/*.1.gz; do
        warnings=$(LC_ALL=C.UTF-8 man --warnings -l "$page" 2>&1 >/dev/null)
        [ -z "$warnings" ] || fail "$page: $warnings"
    done
else
    echo "LEFT OUT: manual pages; man is not installed"
fi
bash -n "$root/usr/share/bash-completion/completions/btrfs_to_s3"

echo "== units"
if command -v systemd-analyze >/dev/null; then
    # The program and its manual pages are not where the units say, as the package is only unpacked.
    units=$work/units
    mkdir -p "$units/btrfs_to_s3-rehearse.service.d"
    cp "$root"/usr/lib/systemd/system/* "$units"
    cp "$root/usr/share/doc/btrfs-to-s3/examples/rehearse-receive.conf" "$units/btrfs_to_s3-rehearse.service.d"
    find "$units" -type f -exec sed -i "s#^ExecStart=/usr/bin/#ExecStart=$root/usr/bin/#; /^Documentation=/d" {} +
    said=$(systemd-analyze verify "$units"/*.{service,timer} 2>&1) || fail "$said"
    [ -z "$said" ] || fail "$said"
else
    echo "LEFT OUT: the units; systemd-analyze is not installed"
fi
echo "LEFT OUT: a run of the service; under_systemd.sh has one"

echo "== a backup in a chroot, with the capabilities of the service"
for needed in btrfs setpriv; do
    program=$(command -v $needed)
    for file in "$program" $(ldd "$program" | grep -o '/[^ ]*'); do
        install -D "$file" "$root$file"
    done
done
mkdir -p "$root"/{dev,mnt,proc,etc,var/lib}
mknod -m 666 "$root/dev/null" c 1 3
truncate -s 1G "$work/image"
mkfs.btrfs -q "$work/image" >/dev/null
mount -o loop "$work/image" "$root/mnt"
mount -t proc proc "$root/proc"
btrfs subvolume create "$root/mnt/home" >/dev/null
cp "$package" "$root/mnt/home/file"
# Somebody's own folder for snapshots, which root without DAC_OVERRIDE cannot enter.
install -d -o 1000 -m 700 "$root/mnt/snapshots"
install -d "$root/mnt/restored"
cat > "$root/etc/btrfs_to_s3.toml" <<'CONFIGURATION'
repository = "file:///mnt/repository"
[snapshots]
base_dir = "/mnt/snapshots"
[[subvolumes]]
path = "/mnt/home"
CONFIGURATION

# Runs the program in the chroot. To get there takes a capability, so they are dropped inside.
run_with() {
    local capabilities=$1
    shift
    chroot "$root" "$(command -v setpriv)" --bounding-set="$capabilities" --inh-caps="$capabilities" --no-new-privs \
        /usr/bin/btrfs_to_s3 --config /etc/btrfs_to_s3.toml "$@"
}
mapfile -t names < <(sed -n 's/^CapabilityBoundingSet=//p' "$unit" | tr ' ' '\n' | sed 's/^CAP_//' | tr '[:upper:]' '[:lower:]')
all=-all$(printf ',+%s' "${names[@]}")
run_with "$all" init
run_with "$all" backup
for name in "${names[@]}"; do
    run_with "${all/,+$name/}" backup 2> "$work/said" && fail "the service has the capability $name for nothing"
    grep -q '^error: ' "$work/said" || fail "without $name: $(cat "$work/said")"
done
echo more >> "$root/mnt/home/file"
run_with "$all" backup | tee "$work/said"
grep -q ' incremental backup ' "$work/said" || fail "the second backup is no incremental one"
chroot "$root" /usr/bin/btrfs_to_s3 --config /etc/btrfs_to_s3.toml restore latest --subvolume home --target /mnt/restored/home
cmp "$root/mnt/home/file" "$root/mnt/restored/home/file"
echo "== the package is fit"

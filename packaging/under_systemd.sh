#!/bin/bash
# Installs the Debian package in a Debian that boots in a container, and has systemd run the service there, hardened as it
# is, on a real Btrfs. Needs root, Btrfs, and systemd-nspawn and debootstrap (apt-get install systemd-container debootstrap).
#
# usage: under_systemd.sh PACKAGE.deb

set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"
package=$(realpath "$1")

# What is mounted is gone with this process, whatever becomes of it.
if [ "${2-}" != "in a namespace" ]; then
    exec unshare --mount --propagation private "$0" "$package" "in a namespace"
fi
for needed in systemd-nspawn debootstrap; do
    command -v $needed >/dev/null || { echo "$needed is not installed" >&2; exit 1; }
done
work=$(mktemp -d)
root=$work/root
trap 'umount -q "$work/mnt" "$root/proc" || true; rm -rf --one-file-system "$work"' EXIT

echo "== a Debian in $root"
# shellcheck source=/dev/null
codename=$(. /etc/os-release; echo "$VERSION_CODENAME")
debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,btrfs-progs "$codename" \
    "$root" > "$work/said" || { cat "$work/said" >&2; exit 1; }
mount -t proc proc "$root/proc"
cp "$package" "$root/package.deb"
chroot "$root" dpkg -i /package.deb
umount "$root/proc"

truncate -s 1G "$work/image"
mkfs.btrfs -q "$work/image" >/dev/null
mkdir "$work/mnt"
mount -o loop "$work/image" "$work/mnt"
btrfs subvolume create "$work/mnt/home" >/dev/null
cp "$package" "$work/mnt/home/file"
cat > "$root/etc/btrfs_to_s3.toml" <<'CONFIGURATION'
repository = "file:///mnt/repository"
[[subvolumes]]
path = "/mnt/home"
CONFIGURATION

# What is done in the container, and then it ends.
cat > "$root/trial" <<'TRIAL'
#!/bin/sh
set -e
btrfs_to_s3 --config /etc/btrfs_to_s3.toml init
systemctl start btrfs_to_s3.service
echo more >> /mnt/home/file
systemctl start btrfs_to_s3.service
systemctl enable --now btrfs_to_s3.timer
systemctl list-timers --no-pager btrfs_to_s3.timer
journalctl --no-pager -o cat -u btrfs_to_s3.service
btrfs_to_s3 --config /etc/btrfs_to_s3.toml list
echo "all of it was done"
TRIAL
chmod +x "$root/trial"
cat > "$root/etc/systemd/system/trial.service" <<'UNIT'
[Service]
Type=oneshot
StandardOutput=append:/said
StandardError=append:/said
ExecStart=/trial
ExecStopPost=/bin/systemctl --no-block exit 0
UNIT
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
ln -s ../trial.service "$root/etc/systemd/system/multi-user.target.wants/trial.service"

echo "== a boot"
# Hosts whose groups of processes are those of version 1 have no others for the container.
hierarchy=1
[ -e /sys/fs/cgroup/cgroup.controllers ] || hierarchy=0
SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=$hierarchy timeout 180 systemd-nspawn --quiet --register=no --keep-unit \
    -D "$root" --bind="$work/mnt:/mnt" --boot > "$work/console" 2>&1 || true
cat "$root/said" || { tail -n 20 "$work/console" >&2; exit 1; }
grep -q 'incremental backup' "$root/said" && grep -q '^all of it was done' "$root/said"
echo "== the service runs under systemd"

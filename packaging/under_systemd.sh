#!/bin/bash
# Installs the Debian package in a Debian that boots in a container, and has systemd run its services there, hardened as they
# are, on a real Btrfs: backups with hooks, health check and metrics, also with the stricter drop-in of docs/installing.md,
# the maintenance, and rehearsals. Needs root, Btrfs, and systemd-nspawn and debootstrap (apt-get install systemd-container
# debootstrap).
#
# usage: under_systemd.sh PACKAGE.deb

set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"
package=$(realpath "$1")

# What is mounted is gone with this process, whatever becomes of it.
if [ "${2-}" != "in a namespace" ]; then
    exec unshare --mount --propagation private "$0" "$package" "in a namespace"
fi
for needed in systemd-nspawn debootstrap setcap; do
    command -v $needed >/dev/null || { echo "$needed is not installed" >&2; exit 1; }
done
work=$(mktemp -d)
root=$work/root
trap 'umount -q "$work/mnt" "$root/proc" || true; rm -rf --one-file-system "$work"' EXIT

echo "== a Debian in $root"
# shellcheck source=/dev/null
codename=$(. /etc/os-release; echo "$VERSION_CODENAME")
debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,btrfs-progs,curl "$codename" \
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
# What a restore has to give to files by capabilities.
cp /bin/true "$work/mnt/home/tool"
chmod 4755 "$work/mnt/home/tool"
mknod "$work/mnt/home/device" c 1 3
setcap cap_net_raw+ep "$work/mnt/home/file"
chown 1234:1234 "$work/mnt/home/file" "$work/mnt/home/device"

# What others have on their hosts: a database, a health check, a folder of metrics that belongs to somebody else.
cat > "$root/etc/systemd/system/database.service" <<'UNIT'
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'echo started >> /var/lib/database'
ExecStop=/bin/sh -c 'echo stopped >> /var/lib/database'
UNIT
cat > "$root/etc/systemd/system/health.socket" <<'UNIT'
[Socket]
ListenStream=127.0.0.1:8765
Accept=yes
UNIT
cat > "$root/etc/systemd/system/health@.service" <<'UNIT'
[Service]
StandardInput=socket
ExecStart=/health
UNIT
cat > "$root/health" <<'SERVICE'
#!/bin/bash
read -r _ path _
while read -r line && [ "$line" != $'\r' ]; do
    [[ ${line,,} =~ ^content-length:\ ([0-9]+) ]] && length=${BASH_REMATCH[1]}
done
read -r -N "${length:-0}" body
echo "$path $body" >> /var/lib/health
printf 'HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n'
SERVICE
chmod +x "$root/health"
# A hook that becomes another user, and one of another group by the file's mode.
install -g mail -m 2755 "$root/usr/bin/id" "$root/id-of-mail"
cat > "$root/other_users" <<'HOOK'
#!/bin/sh
runuser -u nobody -- true && [ "$(/id-of-mail -gn)" = mail ]
HOOK
chmod +x "$root/other_users"
install -d -o 1000 "$root/var/lib/prometheus/node-exporter"
cat > "$root/etc/btrfs_to_s3.toml" <<'CONFIGURATION'
repository = "file:///mnt/repository"
[hooks]
before = ["systemctl", "stop", "database"]
after = ["systemctl", "start", "database"]
on_failure = ["sh", "-c", "echo \"$BTRFS_TO_S3_RESULT\" > /var/lib/failed"]
[monitoring]
healthcheck_url = "http://127.0.0.1:8765/ping"
metrics_textfile = "/var/lib/prometheus/node-exporter/btrfs_to_s3.prom"
[retention]
keep_last = 2
[[subvolumes]]
path = "/mnt/home"
CONFIGURATION

# What is done in the container, and then it ends.
cat > "$root/trial" <<'TRIAL'
#!/bin/bash
set -eE
trap 'echo "FAILED in line $LINENO"; journalctl --no-pager -o cat -n 60' ERR
btrfs_to_s3() { command btrfs_to_s3 --config /etc/btrfs_to_s3.toml "$@"; }
rehearsed() { btrfs_to_s3 status | grep "last rehearsal .*good ($1)"; }
drop_in() { install -D -m 644 /dev/stdin "/etc/systemd/system/$1.service.d/trial.conf"; systemctl daemon-reload; }

for number in {0..255}; do
    [ -e /dev/loop$number ] || mknod -m 660 /dev/loop$number b 7 $number
done
systemctl start health.socket database
btrfs_to_s3 init
systemctl start btrfs_to_s3
echo more >> /mnt/home/more
systemctl start btrfs_to_s3
[ "$(tr '\n' ' ' < /var/lib/database)" = "started stopped started stopped started " ]
[ "$(tr -d '\n' < /var/lib/health)" = "/ping/start /ping /ping/start /ping " ]
[ ! -e /var/lib/failed ]
setpriv --reuid=1000 --clear-groups grep -q '^btrfs_to_s3_last_run_exit_code 0$' \
    /var/lib/prometheus/node-exporter/btrfs_to_s3.prom
echo "hooks, health check and metrics work"

# As docs/installing.md says.
drop_in btrfs_to_s3 <<'CONF'
[Service]
ProtectSystem=strict
ReadWritePaths=/mnt/.btrfs_to_s3 /mnt/repository /var/lib/prometheus/node-exporter
CONF
echo again >> /mnt/home/more
systemctl start btrfs_to_s3
drop_in btrfs_to_s3 <<'CONF'
[Service]
ProtectSystem=strict
ReadWritePaths=/mnt/.btrfs_to_s3 /mnt/repository
CONF
if systemctl start btrfs_to_s3; then false; fi
systemctl is-failed btrfs_to_s3
grep -q '^/ping/fail the metrics in .*Read-only file system' /var/lib/health
journalctl -o cat -u btrfs_to_s3 | grep -q 'the hook .on_failure.: sh has failed'
echo "the stricter drop-in works, and what it does not allow is told"

sed 's/^after = .*/after = ["\/other_users"]/' -i /etc/btrfs_to_s3.toml
rm -r /etc/systemd/system/btrfs_to_s3.service.d
systemctl daemon-reload
if systemctl start btrfs_to_s3; then false; fi
journalctl -o cat -u btrfs_to_s3 | grep -q 'the hook .after.: /other_users has failed'
drop_in btrfs_to_s3 <<'CONF'
[Service]
NoNewPrivileges=no
RestrictSUIDSGID=no
CapabilityBoundingSet=CAP_SETUID CAP_SETGID
CONF
systemctl start btrfs_to_s3
echo "hooks may become other users where that is allowed, and nowhere else"
rm -r /etc/systemd/system/btrfs_to_s3.service.d
systemctl daemon-reload

systemctl start btrfs_to_s3-maintenance
journalctl -o cat -u btrfs_to_s3-maintenance | grep -q '^[0-9]* kept, [0-9]* forgotten'
journalctl -o cat -u btrfs_to_s3-maintenance | grep -q '^deleted '
systemctl start btrfs_to_s3-rehearse
rehearsed whole
drop_in btrfs_to_s3-rehearse < /usr/share/doc/btrfs-to-s3/examples/rehearse-receive.conf
systemctl start btrfs_to_s3-rehearse
rehearsed receive
[ -z "$(ls -A /var/lib/btrfs_to_s3/rehearsals)" ]
echo "maintenance and rehearsals work"

systemctl enable --now btrfs_to_s3.timer btrfs_to_s3-maintenance.timer btrfs_to_s3-rehearse.timer
systemctl list-timers --no-pager 'btrfs_to_s3*'
journalctl --no-pager -o cat -u 'btrfs_to_s3*'
btrfs_to_s3 list
# A package that goes takes its timers along.
dpkg -r btrfs-to-s3
[ -z "$(systemctl list-timers --no-legend 'btrfs_to_s3*')" ]
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
# Loop devices of any number may be the free one.
SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=$hierarchy timeout 180 systemd-nspawn --quiet --register=no --keep-unit --private-network \
    --capability=CAP_MKNOD -D "$root" --bind="$work/mnt:/mnt" --bind=/dev/loop-control --bind=/dev/btrfs-control --boot > "$work/console" 2>&1 || true
cat "$root/said" || { tail -n 20 "$work/console" >&2; exit 1; }
grep -q 'incremental backup' "$root/said"
grep -q '^all of it was done' "$root/said"
echo "== the services run under systemd"

#!/bin/bash
# Garage, an S3 server, on free ports of this machine: one node, or three that keep each object three times.
#
# usage: garage.sh path               prints where the program is; installs it if it is nowhere (this takes half an hour)
#        garage.sh start DIR [3]      starts it with its data below DIR, and writes DIR/environment, to be sourced
#        garage.sh signal DIR NODE SIGNAL     sends a node (1, 2, 3) a signal, such as KILL, STOP, CONT
#        garage.sh restart DIR NODE   starts a node that has been killed
#        garage.sh stop DIR           stops all nodes
#
# The program is taken from PATH, else from ~/.cache/btrfs_to_s3-tests, where it is installed.

set -euo pipefail

version=2.5.0
bucket=test-bucket
access_key=GK0123456789abcdef01234567
secret_key=$(printf 'ab%.0s' {1..32})

garage_path() {
    local cache=${XDG_CACHE_HOME:-$HOME/.cache}/btrfs_to_s3-tests
    if command -v garage; then
        return
    fi
    if ! [ -x "$cache/bin/garage" ]; then
        echo "installing Garage $version into $cache" >&2
        cargo install garage --version "$version" --locked --root "$cache" \
            --no-default-features --features bundled-libs,lmdb,sqlite,metrics >&2
    fi
    echo "$cache/bin/garage"
}

free_ports() {
    python3 - "$1" <<'PYTHON'
import socket, sys
sockets = [socket.socket() for _ in range(int(sys.argv[1]))]
for one in sockets:
    one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in sockets))
PYTHON
}

# configure NODE NODES S3-PORT RPC-PORT ADMIN-PORT
configure() {
    cat > "$directory/node$1.toml" <<TOML
metadata_dir = "$directory/node$1/meta"
data_dir = "$directory/node$1/data"
db_engine = "lmdb"
replication_factor = $2
rpc_bind_addr = "127.0.0.1:$4"
rpc_public_addr = "127.0.0.1:$4"
rpc_secret = "$(printf '17%.0s' {1..32})"
metadata_fsync = false
data_fsync = false
[s3_api]
s3_region = "garage"
api_bind_addr = "127.0.0.1:$3"
[admin]
api_bind_addr = "127.0.0.1:$5"
admin_token = "admin"
TOML
}

# launch NODE [ARGUMENTS…]
launch() {
    local node=$1
    shift
    RUST_LOG=warn setsid "$garage" -c "$directory/node$node.toml" server "$@" \
        < /dev/null >> "$directory/node$node.log" 2>&1 &
    echo $! > "$directory/node$node.pid"
}

of_node() {
    local node=$1
    shift
    "$garage" -c "$directory/node$node.toml" "$@"
}

# wait_for COMMAND…: until it succeeds, half a minute at most.
wait_for() {
    local tries
    for ((tries = 0; tries < 300; tries++)); do
        if "$@" > /dev/null 2>&1; then
            return
        fi
        sleep 0.1
    done
    echo "Garage does not get ready: $*; see the logs in $directory" >&2
    exit 1
}

is_up() {
    python3 -c 'import sys, urllib.request; urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/health")' "$1"
}

write_environment() {
    cat > "$directory/environment" <<ENVIRONMENT
export AWS_ENDPOINT_URL_S3=http://127.0.0.1:$1
export AWS_REGION=garage
export AWS_ACCESS_KEY_ID=$access_key
export AWS_SECRET_ACCESS_KEY=$secret_key
export BTRFS_TO_S3_TEST_BUCKET=$bucket
ENVIRONMENT
}

start_one() {
    local ports
    read -ra ports < <(free_ports 3)
    configure 1 1 "${ports[@]}"
    export GARAGE_DEFAULT_ACCESS_KEY=$access_key GARAGE_DEFAULT_SECRET_KEY=$secret_key GARAGE_DEFAULT_BUCKET=$bucket
    launch 1 --single-node --default-bucket
    wait_for is_up "${ports[2]}"
    write_environment "${ports[0]}"
}

start_three() {
    local ports node
    read -ra ports < <(free_ports 9)
    for node in 1 2 3; do
        configure "$node" 3 "${ports[@]:(node - 1) * 3:3}"
        launch "$node"
    done
    for node in 1 2 3; do
        wait_for of_node "$node" node id -q
    done
    for node in 2 3; do
        wait_for of_node 1 node connect "$(of_node "$node" node id -q)"
    done
    for node in 1 2 3; do
        of_node 1 layout assign -z "zone$node" -c 10G "$(of_node "$node" node id -q | cut -d@ -f1)" > /dev/null
    done
    of_node 1 layout apply --version 1 > /dev/null
    wait_for is_up "${ports[2]}"
    of_node 1 key import --yes "$access_key" "$secret_key" -n test > /dev/null
    wait_for of_node 1 bucket create "$bucket"
    of_node 1 bucket allow --read --write --owner "$bucket" --key "$access_key" > /dev/null
    write_environment "${ports[0]}"
    printf 'http://127.0.0.1:%s\n' "${ports[0]}" "${ports[3]}" "${ports[6]}" > "$directory/endpoints"
}

command=${1-}
if [ "$command" = path ]; then
    garage_path
    exit
fi
directory=$(realpath -m "${2:?a directory is needed}")
case $command in
    start | restart) garage=$(garage_path) ;;
esac
case $command in
    start)
        mkdir -p "$directory"
        if [ "${3-1}" = 3 ]; then start_three; else start_one; fi
        ;;
    signal) kill -s "${4:?a signal is needed}" "$(cat "$directory/node${3:?a node is needed}.pid")" ;;
    restart) launch "${3:?a node is needed}" ;;
    stop)
        for file in "$directory"/node?.pid; do
            kill -KILL "$(cat "$file")" 2> /dev/null || true
        done
        ;;
    *)
        sed -n '3,8s/^# //p' "$0" >&2
        exit 2
        ;;
esac

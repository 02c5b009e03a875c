#!/usr/bin/env python3
"""Installs, starts and stops an S3 server on this machine, for those who have no AWS.

local_s3.py start     Garage: takes it from PATH or the cache, or builds it, which takes half an hour; then starts it
local_s3.py stop      stops it and deletes its data

After `start`: set -a; . integration_tests/run/local_s3/environment; set +a

With --archive: a server of the tests' own, in memory, that has archival storage classes, for run_restore_archive.py. A thaw
takes --thaw-seconds. After `start`: set -a; . integration_tests/run/archive_s3/environment; set +a
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

HARNESS_ROOT = Path(__file__).resolve().parents[1]
READY_WITHIN_SECONDS = 30


def garage(*arguments: str) -> int:
    return subprocess.call([str(HARNESS_ROOT / "garage.sh"), *arguments])


def start_garage(folder: Path) -> int:
    return garage("start", str(folder))


def stop_garage(folder: Path) -> int:
    return garage("stop", str(folder))


def start_archive(folder: Path, thaw_seconds: int) -> int:
    """Builds the server and starts it in a session of its own; it is ready when its environment is there."""
    root = HARNESS_ROOT.parent
    code = subprocess.call(["cargo", "build", "--quiet", "--example", "archive_server"], cwd=root)
    if code != 0:
        return code
    program = root / os.environ.get("CARGO_TARGET_DIR", "target") / "debug/examples/archive_server"
    folder.mkdir(parents=True)
    with open(folder / "server.log", "wb") as log:
        server = subprocess.Popen(
            [program, folder, str(thaw_seconds)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    (folder / "pid").write_text(str(server.pid), encoding="ascii")
    until = time.monotonic() + READY_WITHIN_SECONDS
    while not (folder / "environment").exists():
        if server.poll() is not None or time.monotonic() > until:
            print(f"local_s3: the server does not get ready: {(folder / 'server.log').read_text()}", file=sys.stderr)
            return 1
        time.sleep(0.05)
    return 0


def stop_archive(folder: Path) -> int:
    try:
        os.kill(int((folder / "pid").read_text(encoding="ascii")), signal.SIGKILL)
    except (FileNotFoundError, ProcessLookupError):
        pass
    return 0


def start(folder: Path, options: argparse.Namespace) -> int:
    if folder.exists():
        print(f"local_s3: {folder} is there already: stop it first", file=sys.stderr)
        return 1
    code = start_archive(folder, options.thaw_seconds) if options.archive else start_garage(folder)
    if code != 0:
        stop(folder, options)
        return code
    print(f"The server is running. Now:\n    set -a; . {folder}/environment; set +a")
    return 0


def stop(folder: Path, options: argparse.Namespace) -> int:
    if not folder.exists():
        return 0
    code = stop_archive(folder) if options.archive else stop_garage(folder)
    shutil.rmtree(folder)
    return code


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["start", "stop"])
    parser.add_argument("--archive", action="store_true", help="the server with archival storage classes")
    parser.add_argument("--thaw-seconds", type=int, default=20, help="how long its thaws take")
    options = parser.parse_args()
    folder = HARNESS_ROOT / "run" / ("archive_s3" if options.archive else "local_s3")
    return start(folder, options) if options.command == "start" else stop(folder, options)


if __name__ == "__main__":
    sys.exit(main())

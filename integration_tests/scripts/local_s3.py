#!/usr/bin/env python3
"""Installs, starts and stops an S3 server on this machine (Garage), for those who have no AWS.

local_s3.py start     takes Garage from PATH or the cache, or builds it, which takes half an hour; then starts it
local_s3.py stop      stops it and deletes its data

After `start`: set -a; . integration_tests/run/local_s3/environment; set +a
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

HARNESS_ROOT = Path(__file__).resolve().parents[1]
FOLDER = HARNESS_ROOT / "run" / "local_s3"


def garage(*arguments: str) -> int:
    return subprocess.call([str(HARNESS_ROOT / "garage.sh"), *arguments])


def start() -> int:
    if FOLDER.exists():
        print(f"local_s3: {FOLDER} is there already: stop it first", file=sys.stderr)
        return 1
    code = garage("start", str(FOLDER))
    if code != 0:
        stop()
        return code
    print(f"Garage is running. Now:\n    set -a; . {FOLDER}/environment; set +a")
    return 0


def stop() -> int:
    if not FOLDER.exists():
        return 0
    code = garage("stop", str(FOLDER))
    shutil.rmtree(FOLDER)
    return code


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["start", "stop"])
    return start() if parser.parse_args().command == "start" else stop()


if __name__ == "__main__":
    sys.exit(main())

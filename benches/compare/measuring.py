"""Runs commands, takes what the kernel says of them, and writes it down with what it was measured on."""

import datetime
import json
import os
import platform
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("BTRFS_TO_S3_BINARY", ROOT / "target/release/btrfs_to_s3"))
MIB = 1 << 20


class Record:
    """What a script has measured, in the order it came; written anew after each run, so that nothing is lost."""

    def __init__(self, path: Path, **about: object):
        self.path, self.about, self.runs = path, surroundings() | about, []

    def add(self, run: dict) -> dict:
        self.runs.append(run)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        runs = ",\n".join("  " + json.dumps(run) for run in self.runs)
        about = json.dumps(self.about, indent=1)
        self.path.write_text(f'{{"about": {about},\n "runs": [\n{runs}\n ]}}\n')
        print(json.dumps(run), flush=True)
        return run


def surroundings() -> dict:
    def said(*command: str) -> str:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "")
    return {
        "commit": said("git", "describe", "--always", "--dirty"),
        "rustc": said("rustc", "--version"),
        "kernel": platform.release(),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "began": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def run(command: list[object], stdin: Path | list[str] | None = None, environment: dict[str, str] | None = None) -> dict:
    """Runs a command to its end, with a file or what another command writes as its input. CPU time is that of the command
    and what it waits for, the peak that of the largest process, the load that of the machine at the start."""
    words = [str(word) for word in command]
    load, started = os.getloadavg()[0], time.monotonic()
    producer = subprocess.Popen(stdin, stdout=subprocess.PIPE) if isinstance(stdin, list) else None
    with tempfile.TemporaryFile() as said, open(stdin if isinstance(stdin, Path) else os.devnull, "rb") as file:
        source = producer.stdout if producer else file
        child = subprocess.Popen(
            words, stdin=source, stdout=said if "--json" in words else subprocess.DEVNULL, stderr=subprocess.PIPE,
            env=dict(os.environ) | (environment or {}),
        )  # fmt: skip
        if producer:
            producer.stdout.close()
        errors = child.stderr.read().decode(errors="replace")
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        result = said.read()
    if producer:
        producer.wait()
    if child.returncode != 0:
        raise SystemExit(f"{' '.join(words)} ended with {child.returncode}:\n{errors}")
    measured = {
        "command": " ".join(words).replace(str(BINARY), "btrfs_to_s3"),
        "wall_s": round(time.monotonic() - started, 2),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_mib": round(usage.ru_maxrss / 1024, 1),
        "load": round(load, 1),
    }
    requests = requests_of(result)
    return measured | ({"requests": requests} if requests is not None else {})


def requests_of(result: bytes) -> int | None:
    """How many requests a backup says that it has made."""
    try:
        requests = json.loads(result).get("requests")
    except (ValueError, AttributeError):
        return None
    return sum(count for count in requests.values() if isinstance(count, int)) if requests else None


def noise(mib: int, from_mib: int = 0) -> list[str]:
    """A command that writes bytes which cannot be compressed, the same each time; they can begin within the same sequence."""
    zeros = f"head -c {mib * MIB} /dev/zero"
    key, start = "00112233445566778899aabbccddeeff", f"{from_mib * MIB // 16:032x}"
    return ["sh", "-c", f"{zeros} | openssl enc -aes-128-ctr -nosalt -K {key} -iv {start}"]


def write_config(folder: Path, repository: str, text: str = "") -> Path:
    """A configuration with its state below `folder`; `text` is its other sections."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.toml"
    path.write_text(f'repository = "{repository}"\n{text}\n')
    return path

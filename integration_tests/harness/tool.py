"""The tool under test, as a black box: its configuration, its commands, what it prints."""

import json
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from harness.config import Config
from harness.errors import HarnessError, check
from harness.run_state import RunState
from harness.script import Context

CALL_TIMEOUT = 3600


@dataclass(frozen=True)
class Ended:
    code: int
    output: str
    errors: str

    @property
    def last_line(self) -> str:
        lines = [line for line in self.errors.splitlines() if line.strip()]
        return lines[-1] if lines else "nothing on standard error"


@dataclass(frozen=True)
class Tool:
    """Calls the tool with a configuration made from ours; `state` tells one host's state from another's."""

    context: Context
    run: RunState
    state: str = "state"
    endpoint_url: str = ""
    settings: dict[str, dict[str, object]] = field(default_factory=dict)

    @property
    def config(self) -> Config:
        return self.context.config

    @property
    def repository(self) -> str:
        if self.run.local:
            return f"file://{self.config.paths.run}/repository"
        return f"s3://{self.config.aws.bucket}/{self.config.aws.prefix}/{self.run.id}"

    def write_config(self) -> Path:
        """Writes the tool's configuration file."""
        scratch = self.config.paths.scratch
        scratch.mkdir(parents=True, exist_ok=True)
        self.config.paths.lock.mkdir(parents=True, exist_ok=True)
        file = scratch / f"{self.state}.toml"
        # Another run may be reading it.
        new = scratch / f"{self.state}.toml.new"
        new.write_text(as_toml(self.sections(scratch)), encoding="utf-8")
        new.rename(file)
        return file

    def sections(self, scratch: Path) -> list[tuple[str, dict[str, object]]]:
        average = self.config.chunk_avg_kib
        sections: dict[str, dict[str, object]] = {
            "": {"repository": self.repository},
            "global": {
                "state_dir": str(scratch / self.state),
                "lock_path": str(self.config.paths.lock / f"{self.state}.lock"),
            },
            "chunking": {
                "minimum": f"{max(1, average // 4)} KiB",
                "average": f"{average} KiB",
                "maximum": f"{average * 4} KiB",
            },
            "packing": {"pack_target": f"{self.config.pack_mib} MiB"},
            "snapshots": {"base_dir": str(self.config.paths.snapshots), "retain": self.config.retain},
        }
        if not self.run.local:
            sections["s3"] = self.s3_section()
        for name, values in self.settings.items():
            sections.setdefault(name, {}).update(values)
        subvolumes = [
            ("[subvolumes]", {"path": str(self.config.subvolume(name)), "name": name})
            for name in self.config.subvolumes
        ]
        return list(sections.items()) + subvolumes

    def s3_section(self) -> dict[str, object]:
        aws = self.config.aws
        values: dict[str, object] = {
            "region": aws.region,
            "endpoint_url": self.endpoint_url or aws.endpoint_url,
            "storage_class_data": aws.storage_class_data,
            "storage_class_metadata": aws.storage_class_metadata,
            "sse": aws.sse,
        }
        set_values = {key: value for key, value in values.items() if value}
        return set_values | {"concurrency": self.config.concurrency, "conditional_put": self.run.conditional_put}

    def start(
        self, *arguments: str, stdin: int = subprocess.DEVNULL, stdout: int | None = subprocess.PIPE
    ) -> subprocess.Popen:
        """Starts the tool in a process group of its own, so that it can be killed with all it has started."""
        command = [*self.context.command, self.config.config_flag, str(self.write_config()), *arguments]
        self.context.log.write("INFO", f"runs: {' '.join(command)}")
        advice = "run `cargo build`, or set BTRFS_TO_S3_CMD or [tool] cmd"
        check(shutil.which(command[0]) is not None, f"there is no program {command[0]}: {advice}")
        environment = os.environ | {"BTRFS_TO_S3_HARNESS_RUN_DIR": str(self.config.paths.run)}
        return subprocess.Popen(
            command, env=environment, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, start_new_session=True
        )

    def wait(self, process: subprocess.Popen) -> Ended:
        try:
            output, errors = process.communicate(timeout=CALL_TIMEOUT)
        except BaseException as error:
            kill_group(process, signal.SIGKILL)
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise HarnessError(f"the tool was still running after {CALL_TIMEOUT} s") from error
            raise
        ended = Ended(process.returncode, (output or b"").decode(errors="replace"), errors.decode(errors="replace"))
        for line in ended.errors.splitlines():
            self.context.log.write("TOOL", line)
        self.context.log.write("INFO", f"exit code {ended.code}")
        return ended

    def call(self, *arguments: str) -> Ended:
        return self.wait(self.start(*arguments))

    def must(self, *arguments: str, code: int = 0) -> Ended:
        """Calls the tool, which must end with this exit code."""
        ended = self.call(*arguments)
        check(ended.code == code, f"`{' '.join(arguments)}` ended with {ended.code}, not {code}: {ended.last_line}")
        return ended

    def backups(self) -> list[dict]:
        """What the repository has, oldest first."""
        return json.loads(self.must("list", "--json").output)

    def back_up(self, *arguments: str) -> list[dict]:
        """Backs up, and gives the backups that have come."""
        before = {backup["id"] for backup in self.backups()}
        self.must("backup", "--once", *arguments)
        return [backup for backup in self.backups() if backup["id"] not in before]

    def latest(self, name: str) -> dict:
        found = [backup for backup in self.backups() if backup["subvolume"] == name]
        check(bool(found), f"there is no backup of {name}")
        return found[-1]


def kill_group(process: subprocess.Popen, number: int) -> None:
    """Signals the tool and all that it has started."""
    if process.poll() is None:
        os.killpg(process.pid, number)


def as_toml(sections: list[tuple[str, dict[str, object]]]) -> str:
    lines: list[str] = []
    for name, values in sections:
        lines.extend([f"\n[{name}]"] if name else [])
        # JSON's strings, numbers and booleans are TOML's.
        lines.extend(f"{key} = {json.dumps(value)}" for key, value in values.items())
    return "\n".join(lines) + "\n"

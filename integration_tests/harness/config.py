"""The configuration of a scenario, read from TOML."""

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.environment import PLACEHOLDER, REPOSITORY_ROOT
from harness.errors import HarnessError, check


@dataclass(frozen=True)
class Paths:
    """Where things are; all absolute."""

    run: Path
    logs: Path
    scratch: Path
    lock: Path
    image: Path
    mount: Path
    data: Path
    snapshots: Path

    @property
    def restore_image(self) -> Path:
        return self.run / "restore.img"

    @property
    def restore_mount(self) -> Path:
        return self.run / "restore"

    @property
    def records(self) -> Path:
        return self.run / "records"


@dataclass(frozen=True)
class Aws:
    region: str
    bucket: str
    prefix: str
    endpoint_url: str
    storage_class_data: str
    storage_class_metadata: str
    sse: str


@dataclass(frozen=True)
class Config:
    file: Path
    tool_cmd: list[str]
    config_flag: str
    paths: Paths
    loopback_size_gib: int
    mount_options: str
    subvolumes: list[str]
    aws: Aws
    pack_mib: int
    chunk_avg_kib: int
    concurrency: int
    retain: int
    dataset_mib: int
    wait_for_restore: bool
    restore_timeout_seconds: int
    restore_tier: str

    def subvolume(self, name: str) -> Path:
        return self.paths.data / name


def load_config(file: Path) -> Config:
    """Reads a configuration; a value that is missing or of another type is named."""
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise HarnessError(f"{file}: {error}") from error
    reader = Reader(file, values)
    return Config(
        file=file,
        tool_cmd=reader.get("tool", "cmd", list),
        config_flag=reader.get("tool", "config_flag", str, "--config"),
        paths=read_paths(reader),
        loopback_size_gib=reader.get("btrfs", "loopback_size_gib", int, 2),
        mount_options=reader.get("btrfs", "mount_options", str, "noatime"),
        subvolumes=reader.get("btrfs", "subvolumes", list),
        aws=read_aws(reader),
        pack_mib=reader.get("backup", "chunk_size_mib", int, 32),
        chunk_avg_kib=reader.get("backup", "chunk_avg_kib", int, 32),
        concurrency=reader.get("backup", "concurrency", int, 8),
        retain=reader.get("backup", "retention_snapshots", int, 2),
        dataset_mib=reader.get("dataset", "size_mib", int, 16),
        wait_for_restore=reader.get("restore", "wait_for_restore", bool, True),
        restore_timeout_seconds=reader.get("restore", "restore_timeout_seconds", int, 172800),
        restore_tier=reader.get("restore", "restore_tier", str, "Bulk"),
    )


class Reader:
    """Takes values out of a parsed file."""

    def __init__(self, file: Path, values: dict) -> None:
        self.file = file
        self.values = values

    def get(self, section: str, key: str, kind: type, default: object = None) -> Any:
        value = self.values.get(section, {}).get(key, default)
        check(value is not None, f"{self.file}: [{section}] {key} is missing")
        check(type(value) is kind, f"{self.file}: [{section}] {key} must be of type {kind.__name__}")
        return value

    def path(self, key: str, default: str | None = None) -> Path:
        return REPOSITORY_ROOT / self.get("paths", key, str, default)


def read_paths(reader: Reader) -> Paths:
    run = reader.path("run_dir")
    mount = reader.path("mount_dir", str(run / "mnt"))
    return Paths(
        run=run,
        logs=reader.path("logs_dir", str(run / "logs")),
        scratch=reader.path("scratch_dir", str(run / "scratch")),
        lock=reader.path("lock_dir", str(run / "lock")),
        image=reader.path("btrfs_image", str(run / "btrfs.img")),
        mount=mount,
        data=reader.path("data_dir", str(mount)),
        snapshots=reader.path("snapshots_dir", str(mount / ".snapshots")),
    )


def read_aws(reader: Reader) -> Aws:
    """What is to be changed in the file may also come from the environment, as a local server's script sets it."""
    def changeable(key: str, variable: str) -> str:
        value = reader.get("aws", key, str, PLACEHOLDER)
        return os.environ.get(variable, PLACEHOLDER) if value == PLACEHOLDER else value

    both = reader.get("aws", "storage_class", str, "")
    return Aws(
        region=changeable("region", "AWS_REGION"),
        bucket=changeable("bucket", "BTRFS_TO_S3_TEST_BUCKET"),
        prefix=reader.get("aws", "prefix", str, "btrfs-to-s3-test/").strip("/"),
        endpoint_url=reader.get("aws", "endpoint_url", str, "") or os.environ.get("AWS_ENDPOINT_URL_S3", ""),
        storage_class_data=reader.get("aws", "storage_class_chunks", str, both),
        storage_class_metadata=reader.get("aws", "storage_class_manifest", str, both),
        sse=reader.get("aws", "sse", str, "").removesuffix("none"),
    )


def missing_for_s3(aws: Aws, environment: dict[str, str]) -> list[str]:
    """What has to be set before a bucket can be used."""
    missing = [f"[aws] {key}" for key in ("region", "bucket") if getattr(aws, key) == PLACEHOLDER]
    if aws.prefix in ("", PLACEHOLDER):
        missing.append("[aws] prefix")
    keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    if "AWS_PROFILE" not in environment:
        missing.extend(key for key in keys if environment.get(key, PLACEHOLDER) == PLACEHOLDER)
    return missing

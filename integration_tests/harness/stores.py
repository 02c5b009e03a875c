"""Looks into the repository without the tool: a bucket through boto3, or a local directory."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from harness.config import Aws, Config, missing_for_s3
from harness.errors import check
from harness.run_state import RunState


@dataclass(frozen=True)
class Listed:
    size: int
    # None where it is not known.
    storage_class: str | None


class Store(Protocol):
    def listing(self) -> dict[str, Listed]: ...
    def get(self, key: str) -> bytes: ...
    def put(self, key: str, body: bytes) -> None: ...
    def delete(self, key: str) -> None: ...


class LocalStore:
    """A repository in a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def listing(self) -> dict[str, Listed]:
        found = {}
        for path in self.root.rglob("*"):
            key = str(path.relative_to(self.root))
            # Files on their way to a key come and go while a run is at work.
            if not key.startswith("tmp") and path.is_file():
                found[key] = Listed(path.stat().st_size, None)
        return found

    def get(self, key: str) -> bytes:
        return (self.root / key).read_bytes()

    def put(self, key: str, body: bytes) -> None:
        (self.root / key).parent.mkdir(parents=True, exist_ok=True)
        (self.root / key).write_bytes(body)

    def delete(self, key: str) -> None:
        (self.root / key).unlink()


class S3Store:
    """What is below a prefix of a bucket; keys without the prefix."""

    def __init__(self, aws: Aws, prefix: str) -> None:
        import boto3
        from botocore.config import Config as ClientConfig

        settings = ClientConfig(s3={"addressing_style": "path" if aws.endpoint_url else "auto"})
        endpoint = aws.endpoint_url or None
        self.client = boto3.client("s3", region_name=aws.region, endpoint_url=endpoint, config=settings)
        self.aws = aws
        self.prefix = prefix.rstrip("/") + "/"

    def listing(self) -> dict[str, Listed]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.aws.bucket, Prefix=self.prefix)
        objects = [found for page in pages for found in page.get("Contents", [])]
        return {
            found["Key"].removeprefix(self.prefix): Listed(found["Size"], found.get("StorageClass"))
            for found in objects
        }

    def get(self, key: str) -> bytes:
        return self.client.get_object(Bucket=self.aws.bucket, Key=self.prefix + key)["Body"].read()

    def put(self, key: str, body: bytes) -> None:
        self.client.put_object(Bucket=self.aws.bucket, Key=self.prefix + key, Body=body)

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=self.aws.bucket, Key=self.prefix + key)

    def head(self, key: str) -> dict[str, Any]:
        return self.client.head_object(Bucket=self.aws.bucket, Key=self.prefix + key)

    def unfinished_uploads(self) -> list[tuple[str, str]]:
        pages = self.client.get_paginator("list_multipart_uploads").paginate(
            Bucket=self.aws.bucket, Prefix=self.prefix
        )
        return [(found["Key"], found["UploadId"]) for page in pages for found in page.get("Uploads", [])]

    def abort(self, key: str, upload: str) -> None:
        self.client.abort_multipart_upload(Bucket=self.aws.bucket, Key=key, UploadId=upload)

    def probe(self, run: RunState) -> None:
        """Finds out what the server does with what we ask of it, and leaves nothing behind."""
        from botocore.exceptions import ClientError

        wanted: dict[str, Any] = {"Bucket": self.aws.bucket, "Key": self.prefix + "probe", "Body": b"probe"}
        if self.aws.storage_class_metadata:
            wanted["StorageClass"] = self.aws.storage_class_metadata
        if self.aws.sse:
            wanted["ServerSideEncryption"] = self.aws.sse
        self.client.put_object(**wanted)
        head = self.head("probe")
        run.reports_sse = not self.aws.sse or head.get("ServerSideEncryption") == self.aws.sse
        try:
            self.client.put_object(**wanted, IfNoneMatch="*")
            run.conditional_put = False
        except ClientError as error:
            run.conditional_put = error.response["ResponseMetadata"]["HTTPStatusCode"] == 412
        run.reports_class = self.listing()["probe"].storage_class is not None
        self.delete("probe")


def open_store(config: Config, run: RunState) -> LocalStore | S3Store:
    """The repository of this run."""
    if run.local:
        return LocalStore(config.paths.run / "repository")
    return open_bucket(config, f"{config.aws.prefix}/{run.id}")


def open_bucket(config: Config, prefix: str) -> S3Store:
    missing = missing_for_s3(config.aws, dict(os.environ))
    check(not missing, f"not set: {', '.join(missing)} (in {config.file}, test.env beside it, or the environment)")
    return S3Store(config.aws, prefix)

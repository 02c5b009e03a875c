#!/usr/bin/env python3
"""Lists the whole prefix: kinds, sizes, hashes, storage class, encryption, duplicates."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import checks, steps
from harness.repository import Repository
from harness.script import Context, run_script
from harness.stores import S3Store, open_store


def work(context: Context) -> None:
    tool = steps.current_tool(context)
    store = open_store(context.config, tool.run)
    repository = Repository(store)
    checks.check_keys(repository)
    doubled = checks.check_duplicates(repository)
    if isinstance(store, S3Store):
        checks.check_storage(tool, store, repository)
    else:
        context.log.left_out("storage class and encryption: the repository is a local directory")
    size = sum(listed.size for listed in repository.listed.values())
    context.log.info(f"{len(repository.listed)} objects, {size} bytes; {doubled} bytes of chunks are there twice")


if __name__ == "__main__":
    run_script(work, __doc__)

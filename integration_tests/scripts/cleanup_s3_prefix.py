#!/usr/bin/env python3
"""Deletes everything below the configured prefix, unfinished multipart uploads as well."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import argparse

from harness.errors import check
from harness.run_state import load_run
from harness.script import Context, run_script
from harness.stores import open_bucket


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--yes", action="store_true", help="really; without it, only says what would be deleted")
    parser.add_argument("--this-run", action="store_true", help="only the repository of the run that is set up")


def work(context: Context) -> None:
    prefix = context.config.aws.prefix
    check(bool(prefix), "[aws] prefix is empty: the whole bucket is never emptied")
    if context.options.this_run:
        prefix = f"{prefix}/{load_run(context.config.paths.run).id}"
    store = open_bucket(context.config, prefix)
    keys, uploads = list(store.listing()), store.unfinished_uploads()
    if not context.options.yes:
        context.log.info(f"{store.prefix}: {len(keys)} objects and {len(uploads)} uploads; --yes deletes them")
        return
    for key in keys:
        store.delete(key)
    for key, upload in uploads:
        store.abort(key, upload)
    check(not store.listing() and not store.unfinished_uploads(), f"{store.prefix} is not empty after all")
    context.log.info(f"{store.prefix}: deleted {len(keys)} objects, aborted {len(uploads)} uploads")


if __name__ == "__main__":
    run_script(work, __doc__, add_arguments)

#!/usr/bin/env python3
"""Decodes all manifests without the tool and checks schema, hashes, trees, totals and streams."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import argparse

from harness import checks, sending, steps
from harness.errors import check
from harness.repository import Repository
from harness.script import Context, run_script
from harness.stores import open_store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--several-packs", action="store_true", help="a full backup must have several packs of data")


def work(context: Context) -> None:
    tool = steps.current_tool(context)
    repository = Repository(open_store(context.config, tool.run))
    manifests = repository.manifests()
    check(bool(manifests), "there is no manifest")
    listed = {backup["id"] for backup in tool.backups()}
    check(listed == {manifest.id for manifest in manifests}, "the tool lists other backups than are published")
    by_id = {manifest.record["session"]: manifest for manifest in manifests}
    sent_again = 0
    for manifest in manifests:
        checks.check_manifest(repository, manifest, by_id)
        checks.check_number_of_packs(tool, repository, manifest)
        sent_again += sending.check_stream(tool, manifest, by_id)
    if context.options.several_packs:
        most = max(len(repository.packs_of(manifest.record["session"], "data")) for manifest in manifests)
        check(most > 1, "no backup has more than one pack of file data")
    if sent_again < len(manifests):
        not_sent = len(manifests) - sent_again
        context.log.left_out(f"{not_sent} streams are not compared: no root, the subvolume has changed, or nothing had")
    context.log.info(f"{len(manifests)} manifests are as they must be, {sent_again} streams as btrfs sends them")


if __name__ == "__main__":
    run_script(work, __doc__, add_arguments)

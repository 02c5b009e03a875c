#!/usr/bin/env python3
"""Restores from an archival storage class: refused before the thaw, thawed once, then right."""

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import archive, steps
from harness.errors import check
from harness.script import Context, run_script
from harness.sequence import Sequence
from harness.stores import S3Store, open_store
from harness.tool import Tool


def work(context: Context) -> None:
    check(not context.local, "the archive scenario needs a server: a local directory has no storage classes")
    storage_class = context.config.aws.storage_class_data
    check(storage_class in archive.ARCHIVAL_CLASSES, f"[aws] storage_class_chunks is {storage_class}, not archival")
    sequence = Sequence(context, context.options.config)
    try:
        for script in ("setup_btrfs", "seed_data", "run_full", "mutate_data", "run_incremental"):
            sequence.step(script)
        sequence.report()
        restore_from_the_archive(context)
    finally:
        sequence.clean_up()


def restore_from_the_archive(context: Context) -> None:
    tool = steps.current_tool(context)
    advice = "it takes AWS, or `local_s3.py start --archive`"
    check(tool.run.reports_class, f"this server drops storage classes, so nothing is archived: {advice}")
    tool = replace(tool, settings={"restore": {"thaw_tier": context.config.restore_tier.lower()}})
    store = open_store(context.config, tool.run)
    assert isinstance(store, S3Store)
    steps.restore_file_system(context)
    try:
        play(tool, store)
    finally:
        steps.remount_sources(context)


def play(tool: Tool, store: S3Store) -> None:
    """Each step, on the second file system, with the sources unmounted."""
    log = tool.context.log
    keys = archive.archived_keys(store)
    check(len(keys) > len(tool.config.subvolumes), f"only {len(keys)} objects are archived")
    archive.check_reading_is_refused(store, keys)
    archive.check_metadata_needs_no_thaw(tool)
    archive.check_all_is_asked_for(tool, store)
    archive.check_all_is_asked_for(tool, store)
    log.info(f"{len(keys)} archived objects can't be read; restores end with exit code 6, twice")
    if not tool.config.wait_for_restore:
        log.left_out("what comes after the thaw: [restore] wait_for_restore is false")
        return
    archive.check_a_timeout_ends_the_waiting(tool)
    archive.check_what_is_thawed_is_right(tool)
    thaws = archive.Thaws()
    if thaws.file is None:
        log.left_out("how often thaws were asked for: this server does not say")
        return
    log.info(archive.check_one_wave(thaws, [store.prefix + key for key in keys]))


if __name__ == "__main__":
    run_script(work, __doc__)

"""The steps that several scripts take."""

import os
import shutil

from harness import dataset
from harness.errors import HarnessError, check
from harness.loopback import is_mounted, make_btrfs, mount_image, need_root, remove_btrfs, unmount_image
from harness.processes import run as run_command
from harness.run_state import RunState, load_run, new_run
from harness.script import Context
from harness.stores import S3Store, open_store
from harness.tool import Tool


def set_up(context: Context) -> RunState:
    """Makes the file system and its subvolumes; undoes all of it where that fails."""
    need_root("setting up")
    paths = context.config.paths
    options = context.config.mount_options
    check(not (paths.run / "run.json").exists(), f"{paths.run} is set up already: run teardown_btrfs.py first")
    make_btrfs(paths.image, paths.mount, context.config.loopback_size_gib, options)
    try:
        paths.data.mkdir(parents=True, exist_ok=True)
        for name in context.config.subvolumes:
            run_command("btrfs", "subvolume", "create", context.config.subvolume(name))
            give_subvolume(context, name)
        paths.snapshots.mkdir(parents=True, exist_ok=True)
        run = new_run(paths.run, context.local)
    except BaseException:
        remove_btrfs(paths.image, paths.mount)
        raise
    context.log.info(f"{paths.mount}: Btrfs with the subvolumes {', '.join(context.config.subvolumes)}")
    return run


def give_subvolume(context: Context, name: str) -> None:
    """Lets the user that called sudo fill the subvolume."""
    if "SUDO_UID" in os.environ and os.environ.get("SUDO_USER", "root") != "root":
        os.chown(context.config.subvolume(name), int(os.environ["SUDO_UID"]), int(os.environ["SUDO_GID"]))


def tear_down(context: Context) -> None:
    """Removes both file systems and all but the logs; does what of it there is to do."""
    need_root("tearing down")
    paths = context.config.paths
    remove_btrfs(paths.restore_image, paths.restore_mount)
    remove_btrfs(paths.image, paths.mount)
    for folder in (paths.scratch, paths.lock, paths.records, paths.run / "repository"):
        shutil.rmtree(folder, ignore_errors=True)
    (paths.run / "run.json").unlink(missing_ok=True)


def seed(context: Context, run: RunState, size_mib: int) -> None:
    for number, name in enumerate(context.config.subvolumes):
        share = dataset.share_of(context.config, name, size_mib)
        dataset.seed_subvolume(context.config.subvolume(name), run.seed + number, share)
        dataset.write_record(context.config, name)
        context.log.info(f"{name}: seeded with about {share} MiB, and written down")


def mutate(context: Context, run: RunState) -> None:
    run.night += 1
    run.save()
    for number, name in enumerate(context.config.subvolumes):
        dataset.mutate_subvolume(context.config.subvolume(name), run.seed + number, run.night)
        dataset.write_record(context.config, name)
    context.log.info(f"night {run.night}: {len(context.config.subvolumes)} subvolumes changed, and written down")


def current_run(context: Context) -> RunState:
    """The run that was set up, with its file system mounted."""
    run = load_run(context.config.paths.run)
    check(is_mounted(context.config.paths.mount), f"{context.config.paths.mount} is not mounted: run setup_btrfs.py")
    return run


def current_tool(context: Context) -> Tool:
    """The tool on this run's repository, which must exist."""
    run = load_run(context.config.paths.run)
    check(run.initialised, "there is no repository yet: run run_full.py first")
    open_store(context.config, run)
    return Tool(context, run)


def ready_tool(context: Context) -> Tool:
    """The tool, after whatever is lacking was made: file system, data, repository."""
    paths = context.config.paths
    run = current_run(context) if (paths.run / "run.json").exists() else set_up(context)
    if not (paths.records / context.config.subvolumes[0] / "now.json").exists():
        seed(context, run, context.config.dataset_mib)
    if not run.initialised:
        store = open_store(context.config, run)
        if isinstance(store, S3Store):
            store.probe(run)
        Tool(context, run).must("init")
        run.initialised = True
        run.save()
    return Tool(context, run)


def back_up(tool: Tool, kind: str) -> list[dict]:
    """Backs up all subvolumes, and checks that each has one backup of this kind and no other."""
    made = tool.back_up(*(["--full"] if kind == "full" else []))
    config = tool.config
    names = [backup["subvolume"] for backup in made]
    check(sorted(names) == sorted(config.subvolumes), f"backups have come of {names}, not of {config.subvolumes}")
    for backup in made:
        name = backup["subvolume"]
        check(backup["kind"] == kind, f"{name}: the backup is {backup['kind']}, not {kind}")
        dataset.keep_record(config, name, backup["id"])
        tool.context.log.info(
            f"{name}: {kind} {backup['id']}: {backup['stream_bytes']} bytes of stream, "
            f"{backup['new_bytes']} new, {backup['stored_bytes']} stored"
        )
    return made


def restore_file_system(context: Context) -> None:
    """Unmounts the sources, so that nothing of them can help, and makes a fresh second file system."""
    paths = context.config.paths
    remove_btrfs(paths.restore_image, paths.restore_mount)
    unmount_image(paths.image, paths.mount)
    make_btrfs(paths.restore_image, paths.restore_mount, context.config.loopback_size_gib, "noatime")


def remount_sources(context: Context) -> None:
    paths = context.config.paths
    if not is_mounted(paths.mount):
        mount_image(paths.image, paths.mount, context.config.mount_options)


def restore(tool: Tool, backup: dict) -> None:
    """Restores a backup onto the second file system, as a host would that knows nothing but the repository."""
    fresh = Tool(tool.context, tool.run, state="restore-state", settings=tool.settings)
    shutil.rmtree(tool.config.paths.scratch / "restore-state", ignore_errors=True)
    target = tool.config.paths.restore_mount / f"{backup['subvolume']}.{backup['id']}"
    fresh.must("restore", backup["id"], "--target", str(target), "--discard-received")
    tool.context.log.info(f"{backup['subvolume']}: restored {backup['kind']} {backup['id']}")


def compare(context: Context, name: str, backup: str) -> None:
    """Compares a restored backup with what was written down before it was made."""
    restored = context.config.paths.restore_mount / f"{name}.{backup}"
    check(restored.is_dir(), f"{restored} is not there: run run_restore.py first")
    found = dataset.recorded_differences(context.config, name, backup, restored)
    for line in found:
        context.log.write("ERROR", f"{name} {backup}: {line}")
    if found:
        raise HarnessError(f"{name}: backup {backup} came back with {len(found)} differences, such as {found[0]}")
    context.log.info(f"{name}: {backup} came back as it was")

"""Fills and changes the subvolumes, and writes down what a restore must bring back, before any backup."""

import json
import os
import random
import shutil
import sys
from pathlib import Path

from harness.config import Config
from harness.environment import HARNESS_ROOT
from harness.errors import HarnessError, check

sys.path.append(str(HARNESS_ROOT / "tools"))

import tree_mutate
import tree_seed
from tree_record import differences, record

# The trees of every kind have about 35 MiB of contents; below this the kinds that need large files are left out.
FULL_KINDS_MIB = 64
# These would write more in one night than the compact trees hold.
LARGE_CHANGES = {tree_mutate.put_byte_in_front, tree_mutate.move_large_file, tree_mutate.make_new}
ROOT_CHANGES = {
    tree_mutate.change_owner,
    tree_mutate.change_capability,
    tree_mutate.change_xattrs,
    tree_mutate.change_device,
    tree_mutate.change_mode,
    tree_mutate.change_root,
}


def share_of(config: Config, name: str, size_mib: int) -> int:
    """MiB of a subvolume: the first has half of all, the others share the rest."""
    if name == config.subvolumes[0]:
        return max(1, size_mib // 2)
    return max(1, size_mib // 2 // max(1, len(config.subvolumes) - 1))


def seed_subvolume(folder: Path, seed: int, size_mib: int) -> None:
    """Fills an empty subvolume; without root, with what a user may make."""
    check(not any(folder.iterdir()), f"{folder} is not empty")
    if os.geteuid() == 0 and size_mib >= FULL_KINDS_MIB:
        tree_seed.seed(folder, seed, size_mib)
    else:
        seed_compact(folder, random.Random(f"seed {seed}"), size_mib)


def seed_compact(folder: Path, rng: random.Random, size_mib: int) -> None:
    tree_seed.hard_links(folder / "hard links", rng)
    tree_seed.times(folder / "times")
    tree_seed.names(folder / "names", rng)
    tree_seed.directories(folder / "directories", rng)
    # Its 2,000 files are most of the time of a night.
    shutil.rmtree(folder / "directories" / "many")
    tree_seed.acls(folder / "acls", rng)
    if size_mib > 1:
        tree_seed.sparse(folder / "sparse", rng)
    # One that is certain to have several chunks and to be large enough for every change.
    (folder / "several-chunks").write_bytes(rng.randbytes(512 * 1024))
    (folder / "compressible").write_bytes(tree_seed.text_bytes(rng, 256 * 1024))
    tree_seed.bulk(folder / "bulk", rng, max(0, size_mib - 1))
    (folder / "dangling").symlink_to("nowhere/at all")
    if os.geteuid() == 0:
        tree_seed.symlinks(folder / "symlinks")
        tree_seed.special_files(folder / "special")
        tree_seed.modes_and_owners(folder / "modes", rng)
        tree_seed.xattrs(folder / "xattrs", rng)
        os.chown(folder, 1000, 100)
    folder.chmod(0o751)
    os.setxattr(folder, "user.root", b"the subvolume's own directory")
    tree_seed.set_mtime(folder, 1_234_567_890, 123_456_789)


def mutate_subvolume(folder: Path, seed: int, night: int) -> None:
    """Makes one night's changes; those that need large files or root only where there are such."""
    if os.geteuid() == 0 and (folder / "sizes").is_dir():
        tree_mutate.mutate(folder, seed, night)
        return
    left_out = LARGE_CHANGES if os.geteuid() == 0 else LARGE_CHANGES | ROOT_CHANGES
    present = tree_mutate.Night(folder, seed, night)
    # Later changes find a file that is large enough, whatever was deleted the nights before.
    (folder / f"several-chunks-{night}").write_bytes(present.rng.randbytes(96 * 1024))
    # Each once, so that a night is small beside what is there.
    for change in tree_mutate.CHANGES:
        if change not in left_out:
            change(present)


def write_record(config: Config, name: str) -> None:
    """Writes down the subvolume as it is now; the next backup is one of this."""
    file = config.paths.records / name / "now.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    values = {"by_root": os.geteuid() == 0, "tree": record(config.subvolume(name))}
    file.write_text(json.dumps(values, indent=1, sort_keys=True), encoding="ascii")


def keep_record(config: Config, name: str, backup: str) -> None:
    """Keeps what was written down last as the record of a backup."""
    folder = config.paths.records / name
    shutil.copyfile(folder / "now.json", folder / f"{backup}.json")


def take_record_over(config: Config, name: str, backup: str, copy: str) -> None:
    """Keeps the record of a backup as that of its copy."""
    folder = config.paths.records / name
    shutil.copyfile(folder / f"{backup}.json", folder / f"{copy}.json")


def recorded_differences(config: Config, name: str, backup: str, restored: Path) -> list[str]:
    """Where a restored tree differs from the record of its backup."""
    file = config.paths.records / name / f"{backup}.json"
    if not file.is_file():
        raise HarnessError(f"nothing was written down for backup {backup} of {name}")
    values = json.loads(file.read_text(encoding="ascii"))
    check(not values["by_root"] or os.geteuid() == 0, "the record was written by root, so comparing needs root")
    return differences(values["tree"], record(restored))

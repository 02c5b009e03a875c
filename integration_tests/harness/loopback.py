"""Btrfs file systems in image files, mounted through loop devices."""

import os
import time
from pathlib import Path

from harness.errors import HarnessError, check
from harness.processes import run

DETACHED_WITHIN_SECONDS = 10


def need_root(purpose: str) -> None:
    check(os.geteuid() == 0, f"{purpose} needs root: use `sudo -E`")


def loop_devices(image: Path) -> list[str]:
    """The loop devices that an image is attached to."""
    if not image.exists():
        return []
    return [line.split(":", 1)[0] for line in run("losetup", "-j", image).splitlines()]


def is_mounted(mount: Path) -> bool:
    return os.path.ismount(mount)


def make_btrfs(image: Path, mount: Path, size_gib: int, options: str) -> None:
    """Makes a file system in a new image and mounts it; leaves nothing behind when that fails half-way."""
    check(not image.exists() and not is_mounted(mount), f"{image} is there already: run teardown_btrfs.py first")
    image.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(image, "xb") as file:
            file.truncate(size_gib << 30)
        run("mkfs.btrfs", "--quiet", image)
        mount_image(image, mount, options)
    except BaseException:
        remove_btrfs(image, mount)
        raise


def mount_image(image: Path, mount: Path, options: str) -> None:
    """Attaches the image and mounts it."""
    mount.mkdir(parents=True, exist_ok=True)
    device = run("losetup", "--find", "--show", image).strip()
    try:
        run("mount", "-t", "btrfs", "-o", options or "defaults", device, mount)
    except BaseException:
        run("losetup", "--detach", device)
        raise


def unmount_image(image: Path, mount: Path) -> None:
    """Unmounts and detaches; does what of it there is to do."""
    while is_mounted(mount):
        run("umount", mount)
    for device in loop_devices(image):
        run("losetup", "--detach", device)
    # Whoever has looked at the device, or copied the mount into a namespace, lets go a little later.
    deadline = time.monotonic() + DETACHED_WITHIN_SECONDS
    while loop_devices(image) and time.monotonic() < deadline:
        time.sleep(0.1)
    check(not loop_devices(image), f"{image} is still attached to {loop_devices(image)}")


def remove_btrfs(image: Path, mount: Path) -> None:
    """Unmounts, detaches and deletes the image."""
    unmount_image(image, mount)
    image.unlink(missing_ok=True)
    try:
        mount.rmdir()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise HarnessError(f"{mount}: {error.strerror}") from error


def give_to_user(folder: Path) -> None:
    """Gives all of a folder, but nothing that is mounted in it, to the user that called sudo."""
    user, group = os.environ.get("SUDO_UID"), os.environ.get("SUDO_GID")
    if os.geteuid() != 0 or not os.environ.get("SUDO_USER") or user is None or group is None or not folder.exists():
        return
    device = folder.stat().st_dev
    os.chown(folder, int(user), int(group))
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if os.lstat(os.path.join(parent, name)).st_dev == device]
        for name in folders + files:
            os.chown(os.path.join(parent, name), int(user), int(group), follow_symlinks=False)

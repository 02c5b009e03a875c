#!/usr/bin/env python3
"""The tool, broken on purpose in one way: mutant.py NAME ARGUMENTS…

Put in the tool's place by mutation_tests.py, with a local repository. BTRFS_TO_S3_MUTATED_CMD is the real command.
"""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

REAL = json.loads(os.environ["BTRFS_TO_S3_MUTATED_CMD"])


class Call:
    """One call of the tool."""

    def __init__(self, arguments: list[str]) -> None:
        self.arguments = arguments
        self.config = Path(arguments[1])
        self.command = arguments[2]

    @property
    def repository(self) -> Path:
        values = tomllib.loads(self.config.read_text(encoding="utf-8"))
        return Path(values["repository"].removeprefix("file://"))

    @property
    def target(self) -> Path:
        return Path(self.arguments[self.arguments.index("--target") + 1])

    def objects(self) -> set[Path]:
        return {path for path in self.repository.rglob("*") if path.is_file()}

    def with_config(self, old: str, new: str) -> None:
        """Uses a changed copy of the configuration from now on."""
        copy = self.config.with_suffix(f".mutant-{os.getpid()}.toml")
        copy.write_text(self.config.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
        self.arguments[1] = str(copy)

    def run(self) -> int:
        return subprocess.call([*REAL, *self.arguments])


def unchanged(call: Call) -> int:
    return call.run()


def drops_a_pack(call: Call) -> int:
    before = call.objects()
    code = call.run()
    new = sorted(path for path in call.objects() - before if path.parent.parent.name == "data")
    if call.command == "backup" and new:
        new[-1].unlink()
    return code


def flips_a_stored_bit(call: Call) -> int:
    before = call.objects()
    code = call.run()
    for path in sorted(path for path in call.objects() - before if path.parent.parent.name == "data")[:1]:
        path.chmod(0o600)
        flip(path)
    return code


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def restored(call: Call, change: Callable[[Path], None]) -> int:
    """Changes one inode of each restored tree."""
    code = call.run()
    if call.command == "restore" and code == 0:
        change(call.target)
    return code


def regular_files(folder: Path) -> list[Path]:
    paths = [Path(parent) / name for parent, _, files in os.walk(folder) for name in files]
    return [path for path in paths if stat.S_ISREG(path.lstat().st_mode)]


def keeping_time(path: Path, change: Callable[[Path], None]) -> None:
    status = path.lstat()
    change(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns), follow_symlinks=False)


def loses_an_xattr(call: Call) -> int:
    return restored(call, lambda target: os.removexattr(target, "user.root"))


def flips_a_restored_byte(call: Call) -> int:
    def change(target: Path) -> None:
        keeping_time(max(regular_files(target), key=lambda path: path.stat().st_size), flip)

    return restored(call, change)


def loses_a_mode(call: Call) -> int:
    return restored(call, lambda target: target.chmod(target.stat().st_mode ^ 0o001))


def loses_a_time(call: Call) -> int:
    def change(target: Path) -> None:
        nanoseconds = target.stat().st_mtime_ns
        os.utime(target, ns=(nanoseconds, nanoseconds + 1))

    return restored(call, change)


def breaks_a_hard_link(call: Call) -> int:
    def change(target: Path) -> None:
        linked = next(path for path in sorted(regular_files(target)) if path.stat().st_nlink > 1)
        folder_time = linked.parent.stat().st_mtime_ns
        copy = linked.with_name("copy of a link")
        shutil.copy2(linked, copy)
        copy.rename(linked)
        os.utime(linked.parent, ns=(folder_time, folder_time))

    return restored(call, change)


def always_sends_full(call: Call) -> int:
    if call.command == "backup" and not {"--stdin", "--dry-run", "--no-s3", "--full"} & set(call.arguments):
        call.arguments.append("--full")
    return call.run()


def ignores_the_lock(call: Call) -> int:
    call.with_config(".lock", f".lock-{os.getpid()}")
    return call.run()


def keeps_all_snapshots(call: Call) -> int:
    call.with_config("retain = ", "retain = 99")
    return call.run()


def backs_up_on_a_dry_run(call: Call) -> int:
    call.arguments = [argument for argument in call.arguments if argument != "--dry-run"]
    return call.run()


def ignores_the_schedule(call: Call) -> int:
    if call.command == "backup" and not {"--stdin", "--once"} & set(call.arguments):
        call.arguments.append("--once")
    return call.run()


def prunes_too_much(call: Call) -> int:
    code = call.run()
    if call.command == "prune" and "--dry-run" not in call.arguments:
        for path in sorted((call.repository / "data").rglob("*")):
            if path.is_file():
                path.unlink()
                break
    return code


def restores_an_older_manifest(call: Call) -> int:
    if call.command == "restore":
        listing = [*REAL, *call.arguments[:2], "list", "--json"]
        backups = json.loads(subprocess.run(listing, check=True, capture_output=True).stdout)
        by_id = {backup["id"]: backup for backup in backups}
        parent = by_id[call.arguments[3]]["parent"]
        call.arguments[3] = parent or call.arguments[3]
    return call.run()


def publishes_before_the_upload(call: Call) -> int:
    """Backs up into a copy, and moves to the repository what a run would store: manifests first, packs later."""
    if call.command != "backup" or "--stdin" in call.arguments or "--dry-run" in call.arguments:
        return call.run()
    real = call.repository
    copy = real.with_name(f"staging-{os.getpid()}")
    shutil.copytree(real, copy)
    call.with_config(str(real), str(copy))
    code = call.run()
    stored = [path.relative_to(copy) for path in copy.rglob("*") if path.is_file()]
    new = [path for path in stored if not (real / path).exists()]
    for path in sorted(new, key=lambda path: (path.parts[0] not in ("manifests", "sessions"), path)):
        (real / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(copy / path, real / path)
        time.sleep(0.3)
    shutil.rmtree(copy)
    return code


def main() -> int:
    # A signal is for the tool; its exit code is passed on. A handler, unlike SIG_IGN, is not inherited.
    signal.signal(signal.SIGTERM, lambda *_: None)
    name, *arguments = sys.argv[1:]
    mutants = {
        function.__name__: function
        for function in globals().values()
        if callable(function) and getattr(function, "__annotations__", None) == {"call": Call, "return": int}
    }
    return mutants[name](Call(arguments))


if __name__ == "__main__":
    sys.exit(main())

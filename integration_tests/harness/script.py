"""What every script does around its own work: arguments, environment, log, exit code."""

import argparse
import datetime
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness import errors
from harness.config import Config, load_config
from harness.environment import load_env_file, prepare_environment, tool_command, use_venv
from harness.errors import HarnessError
from harness.loopback import give_to_user


class Log:
    """Appends lines to the script's file, and prints them."""

    def __init__(self, file: Path) -> None:
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)

    def write(self, level: str, text: str) -> None:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").removesuffix("+00:00")
        with open(self.file, "a", encoding="utf-8", errors="replace") as file:
            file.write(f"{now}Z {level} {text}\n")

    def info(self, text: str) -> None:
        self.write("INFO", text)
        print(text, flush=True)

    def left_out(self, text: str) -> None:
        """Says what could not be checked here, so that nobody takes it for checked."""
        self.write("WARNING", f"LEFT OUT: {text}")
        print(f"LEFT OUT: {text}", flush=True)


@dataclass(frozen=True)
class Context:
    """What a script works with."""

    config: Config
    options: argparse.Namespace
    log: Log
    command: list[str]

    @property
    def local(self) -> bool:
        """Whether the repository is a local directory."""
        return self.options.skip_s3


def run_script(
    work: Callable[[Context], None],
    description: str,
    add_arguments: Callable[[argparse.ArgumentParser], None] | None = None,
) -> None:
    """Runs a script's work and exits: 0 success, 1 failure, 2 usage."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--config", type=Path, required=True, help="such as integration_tests/config/test.toml")
    parser.add_argument("--skip-s3", action="store_true", help="use a local directory as the repository")
    if add_arguments:
        add_arguments(parser)
    options = parser.parse_args()
    name = Path(sys.argv[0]).stem
    sys.exit(guarded(name, options, work))


def guarded(name: str, options: argparse.Namespace, work: Callable[[Context], None]) -> int:
    log = None
    config = None
    # So that whatever was begun is undone.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        use_venv()
        prepare_environment()
        load_env_file(options.config.parent / "test.env")
        config = load_config(options.config)
        log = Log(config.paths.logs / f"{name}.log")
        context = Context(config, options, log, tool_command(config.tool_cmd))
        started = time.monotonic()
        log.write("INFO", f"begins: {' '.join(sys.argv)}")
        work(context)
        log.info(f"{name}: done in {time.monotonic() - started:.1f} s")
        return errors.SUCCESS
    except HarnessError as error:
        report(log, name, "ERROR", str(error))
    except (OSError, ImportError) as error:
        hint = " (see Quickstart in integration_tests/README.md)" if isinstance(error, ImportError) else ""
        report(log, name, "ERROR", f"{error}{hint}")
    finally:
        if config is not None and os.geteuid() == 0:
            give_to_user(config.paths.run)
    return errors.FAILURE


def report(log: Log | None, name: str, level: str, text: str) -> None:
    where = ""
    if log is not None:
        log.write(level, text)
        where = f" (log: {log.file})"
    print(f"{name}: {level}: {text}{where}", file=sys.stderr, flush=True)

"""What the scripts take from the environment, and what they add to it."""

import json
import os
import sys
from pathlib import Path

from harness.errors import HarnessError, check

REPOSITORY_ROOT = Path(__file__).resolve().parents[2]
HARNESS_ROOT = REPOSITORY_ROOT / "integration_tests"
PLACEHOLDER = "CHANGE_ME"


def use_venv() -> None:
    """Makes the packages of `.venv` importable for a script that the system's Python runs."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = HARNESS_ROOT / ".venv" / "lib" / version / "site-packages"
    if packages.is_dir() and str(packages) not in sys.path:
        sys.path.append(str(packages))


def prepare_environment() -> None:
    """Adds the repository's root to PYTHONPATH and the system's folders to PATH, where they lack them."""
    extend_path_variable("PYTHONPATH", [str(REPOSITORY_ROOT)])
    extend_path_variable("PATH", ["/usr/sbin", "/sbin"])


def extend_path_variable(name: str, folders: list[str]) -> None:
    present = [part for part in os.environ.get(name, "").split(os.pathsep) if part]
    os.environ[name] = os.pathsep.join(present + [folder for folder in folders if folder not in present])


def parse_env_file(text: str, name: str) -> dict[str, str]:
    """The variables of a file of lines KEY=VALUE, with an optional `export`, quotes, and `#` lines."""
    variables = {}
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        key, equals, value = line.removeprefix("export ").partition("=")
        key, value = key.strip(), value.strip()
        if not equals or not key.isidentifier():
            raise HarnessError(f"{name}, line {number}: not KEY=VALUE")
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        variables[key] = value
    return variables


def load_env_file(path: Path) -> None:
    """Sets what the file says and is not set yet. Placeholders stay unset; who needs one names what is missing."""
    if path.is_file():
        for key, value in parse_env_file(path.read_text(encoding="utf-8"), path.name).items():
            if value and value != PLACEHOLDER:
                os.environ.setdefault(key, value)
    # Sourced by the shell, a template's placeholders get here all the same; sent to a server they only confuse.
    for key in [key for key, value in os.environ.items() if value == PLACEHOLDER]:
        del os.environ[key]


def parse_command(text: str) -> list[str]:
    """A command from BTRFS_TO_S3_CMD: a JSON array of strings that are not empty; nothing else."""
    try:
        command = json.loads(text)
    except ValueError:
        command = None
    valid = isinstance(command, list) and command and all(isinstance(part, str) and part for part in command)
    check(valid, f"BTRFS_TO_S3_CMD must be a JSON array of non-empty strings, not {text!r}")
    return command


def tool_command(configured: list[str]) -> list[str]:
    """The command of the tool under test; relative paths in it are meant from the repository's root."""
    text = os.environ.get("BTRFS_TO_S3_CMD", "")
    command = parse_command(text) if text else list(configured)
    program = REPOSITORY_ROOT / command[0]
    if "/" in command[0]:
        command[0] = str(program)
    return command

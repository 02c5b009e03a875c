"""Runs commands and says what went wrong with them."""

import subprocess

from harness.errors import HarnessError


def run(*command: object, timeout: float = 600) -> str:
    """Runs a command of the system and gives its output; a failure becomes one line."""
    words = [str(word) for word in command]
    try:
        ended = subprocess.run(words, capture_output=True, text=True, timeout=timeout, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HarnessError(f"{words[0]}: {error}") from error
    if ended.returncode != 0:
        raise HarnessError(f"`{' '.join(words)}` failed: {' '.join(ended.stderr.split())}")
    return ended.stdout

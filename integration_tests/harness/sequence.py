"""Runs scripts one after the other, tears down whatever happens, and says what passed and what failed."""

import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from harness import errors
from harness.environment import HARNESS_ROOT
from harness.errors import HarnessError, check
from harness.script import Context
from harness.steps import tear_down


@dataclass
class Sequence:
    """A scenario of scripts with one configuration. After a failure the rest of it is not run."""

    context: Context
    config_file: Path
    outcomes: list[tuple[str, int | None, float]] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return any(code not in (errors.SUCCESS, None) for _, code, _ in self.outcomes)

    def step(self, script: str, *arguments: str) -> None:
        name = " ".join([script, *arguments])
        if self.failed:
            self.outcomes.append((name, None, 0))
            return
        self.context.log.info(f"== {name}")
        started = time.monotonic()
        code = self.run(script, *arguments)
        self.outcomes.append((name, code, time.monotonic() - started))

    def run(self, script: str, *arguments: str) -> int:
        skip = ["--skip-s3"] if self.context.local else []
        path = HARNESS_ROOT / "scripts" / f"{script}.py"
        script_process = subprocess.Popen(
            [sys.executable, str(path), "--config", str(self.config_file), *skip, *arguments]
        )
        try:
            return script_process.wait()
        except BaseException:
            # Asked, not killed: it has a tool to end, and things to put back.
            script_process.terminate()
            script_process.wait()
            raise

    def clean_up(self) -> None:
        """Empties this run's prefix and tears down; a failure to do so is a failure of the run."""
        if not self.context.local and (self.context.config.paths.run / "run.json").exists():
            code = self.run("cleanup_s3_prefix", "--yes", "--this-run")
            self.outcomes.append(("cleanup_s3_prefix", code, 0))
        started = time.monotonic()
        tear_down(self.context)
        self.outcomes.append(("teardown_btrfs", errors.SUCCESS, time.monotonic() - started))

    def report(self) -> None:
        """Prints the table; raises where something failed."""
        words = {errors.SUCCESS: "passed", None: "not run"}
        log = self.context.log
        for name, code, seconds in self.outcomes:
            log.info(f"{words.get(code, 'FAILED'):8} {seconds:7.1f} s  {name}")
        codes = [code for _, code, _ in self.outcomes]
        passed = codes.count(errors.SUCCESS)
        log.info(f"{passed} passed, {len(codes) - passed} failed or not run")
        failed = [name for name, code, _ in self.outcomes if code not in (errors.SUCCESS, None)]
        if failed:
            raise HarnessError(f"failed: {', '.join(failed)}")
        check(passed > 0, "nothing has passed")

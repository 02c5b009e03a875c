"""What the scripts of one run tell each other: a file in the run directory."""

import datetime
import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.errors import check


@dataclass
class RunState:
    """Made by setup, deleted by teardown."""

    file: Path
    # Names this run's repository, so that no two runs share one.
    id: str
    # The repository is a local directory.
    local: bool
    initialised: bool = False
    # What the server was seen to do.
    conditional_put: bool = True
    reports_class: bool = True
    reports_sse: bool = True
    seed: int = 1
    night: int = 0

    def save(self) -> None:
        values = {key: value for key, value in asdict(self).items() if key != "file"}
        self.file.write_text(json.dumps(values, indent=1), encoding="ascii")


def new_run(run_dir: Path, local: bool) -> RunState:
    now = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    state = RunState(run_dir / "run.json", f"{now}-{secrets.token_hex(3)}", local)
    state.save()
    return state


def load_run(run_dir: Path) -> RunState:
    file = run_dir / "run.json"
    check(file.is_file(), f"there is no {file}: run setup_btrfs.py first")
    return RunState(file=file, **json.loads(file.read_text(encoding="ascii")))

"""The run folder: where one training keeps its config, environment, metrics, log, checkpoints.

`runs/<recipe>/<time>-<git revision>/`. Torch-free, so that a wrong path is refused at once.
"""

import importlib.metadata
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tenfold import atomic

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunFolder:
    """The names of the files of one run.

    Args:
        path: The run's folder.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The resolved config, a recipe that repeats the run."""
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints and their manifests."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """One row a logged step."""
        return self.path / "metrics.csv"

    @property
    def log(self) -> Path:
        """What was logged, with tracebacks."""
        return self.path / "log.txt"

    @property
    def plot(self) -> Path:
        """The loss curve."""
        return self.path / "loss.png"

    def create(self) -> None:
        """Make the folder.

        Raises:
            FileExistsError: It holds files already.
            PermissionError: It cannot be written.
        """
        if self.path.is_dir() and any(self.path.iterdir()):
            raise FileExistsError(
                f"run folder {self.path} is not empty: go on with --resume auto or name another"
            )
        self.checkpoints.mkdir(parents=True, exist_ok=True)

    def record(self, config_yaml: str, argv: list[str]) -> None:
        """Write the resolved config and the environment record; a resumed run adds a record."""
        atomic.write_text(self.config, config_yaml)
        number = len(list(self.path.glob("environment*.json")))
        name = f"environment-{number}.json" if number else "environment.json"
        atomic.write_json(self.path / name, environment_record(argv))


def new_run(runs_dir: Path, recipe: str) -> RunFolder:
    """Name a run folder that does not exist yet: `<runs_dir>/<recipe>/<UTC time>-<revision>`."""
    stamp = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{git_revision() or 'nogit'}"
    folder = runs_dir / recipe / stamp
    number = 2
    while folder.exists():
        folder = runs_dir / recipe / f"{stamp}-{number}"
        number += 1
    return RunFolder(folder)


def newest_run(runs_dir: Path, recipe: str) -> RunFolder:
    """Return the newest run of `recipe` that has checkpoints.

    Raises:
        FileNotFoundError: There is none.
    """
    candidates = [
        p for p in (runs_dir / recipe).glob("*") if any(p.glob("checkpoints/step-*.ckpt"))
    ]
    if not candidates:
        raise FileNotFoundError(
            f"nothing to resume: no checkpoint below {runs_dir / recipe}; leave --resume out"
        )
    return RunFolder(max(candidates, key=lambda path: path.stat().st_mtime))


def git_revision() -> str | None:
    """Return the short revision of the working directory's checkout, `None` outside of one."""
    call = ["git", "rev-parse", "--short", "HEAD"]
    try:
        done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def environment_record(argv: list[str]) -> Mapping[str, Any]:
    """Describe what a result depends on besides the config: code, packages, machine."""
    installed = importlib.metadata.distributions()
    packages = {str(package.metadata["Name"]): package.version for package in installed}
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": argv,
        "git_revision": git_revision(),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "packages": dict(sorted(packages.items())),
    }


def log_to_file(path: Path) -> logging.Handler:
    """Copy everything that is logged to `path` as well; return the handler."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    return handler

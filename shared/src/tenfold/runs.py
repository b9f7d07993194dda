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
from functools import cache
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
    def is_used(self) -> bool:
        """Whether a run has left checkpoints or metrics; what a mistake leaves does not count."""
        return self.metrics.exists() or any(self.checkpoints.glob("*.ckpt"))

    def log_of_rank(self, rank: int) -> Path:
        """Where a rank's log lines go, with tracebacks: `log.txt` for rank 0."""
        return self.path / (f"log-rank{rank}.txt" if rank else "log.txt")

    @property
    def plot(self) -> Path:
        """The loss curve."""
        return self.path / "loss.png"

    def create(self) -> None:
        """Make the folder, on every rank.

        Raises:
            PermissionError: It cannot be written.
        """
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
    """Return the newest run of `recipe`, by the time in its name.

    Raises:
        FileNotFoundError: There is none.
    """
    candidates = sorted(path for path in (runs_dir / recipe).glob("*") if path.is_dir())
    if not candidates:
        raise FileNotFoundError(
            f"nothing to resume: no run below {runs_dir / recipe}; leave --resume out"
        )
    return RunFolder(candidates[-1])


@cache
def git_revision() -> str | None:
    """Return the short revision of the working directory's checkout, `None` outside of one.

    `-dirty` follows when files differ from it.
    """
    call = ["git", "describe", "--always", "--dirty", "--exclude=*"]
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
        "accelerators": _accelerators(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "packages": dict(sorted(packages.items())),
    }


def _accelerators() -> list[str]:
    """Name the CUDA devices, if torch is loaded; this module does not load it."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]


def log_to_console() -> None:
    """Show what is logged from INFO on, unless the program has set up logging already."""
    handler = logging.StreamHandler()
    handler.setLevel(logging.INFO)
    handler.addFilter(lambda record: not getattr(record, "file_only", False))
    logging.basicConfig(
        level=logging.INFO, format="%(levelname).1s %(name)s: %(message)s", handlers=[handler]
    )
    logging.getLogger("tenfold").setLevel(logging.DEBUG)  # for the log file of a run


def log_to_file(path: Path) -> logging.Handler:
    """Copy everything that is logged to `path` as well; return the handler."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setLevel(logging.DEBUG)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    return handler

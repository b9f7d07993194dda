"""`metrics.csv` that survives a resume, and the loss curve drawn from it."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from tenfold import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class MetricsFile(Logger):
    """One CSV row a logged step; `step` is the number of finished optimiser steps.

    Lightning's CSVLogger deletes the file of an interrupted run when that run goes on; this one
    drops only the rows after the step from which it goes on.

    Args:
        path: The CSV file.
        resume_step: Number of finished steps; later rows are dropped from an existing file.
    """

    def __init__(self, path: Path, *, resume_step: int | None = None) -> None:
        super().__init__()
        self.path = path
        self._columns: list[str] = ["step"]
        self._unsaved: list[dict[str, float]] = []
        self._last: dict[str, float] = {}
        if path.is_file() and resume_step is not None:
            kept = _rows_before(resume_step, read_metrics(path))
            self._columns = list(
                dict.fromkeys([*self._columns, *(key for row in kept for key in row)])
            )
            self._rewrite(kept)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.parent.name

    @property
    def version(self) -> str:
        """Not used: one run, one folder."""
        return ""

    @property
    @rank_zero_experiment
    def experiment(self) -> Path:
        """The file itself."""
        return self.path

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add values to the row of `step`."""
        row = {name: float(value) for name, value in metrics.items() if name != "epoch"}
        step = int(step or 0) + 1  # Lightning counts from 0
        if self._unsaved and self._unsaved[-1]["step"] == step:
            self._unsaved[-1].update(row)
        else:
            self._unsaved.append({"step": step, **row})

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the resolved config stands in the run folder."""

    @rank_zero_only
    def save(self) -> None:
        """Append what was logged; rewrite the file when a new column came."""
        if not self._unsaved:
            return
        new = [name for row in self._unsaved for name in row if name not in self._columns]
        if new or not self.path.exists():
            self._columns += sorted(set(new))
            self._rewrite([*read_metrics(self.path), *self._unsaved])
        else:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns).writerows(self._unsaved)
        self._unsaved = []

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Save the rest."""
        self.save()

    def _rewrite(self, rows: list[dict[str, float]]) -> None:
        with atomic.open_atomic(self.path, "w") as file:
            writer = csv.DictWriter(file, self._columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def _rows_before(step: int, rows: list[dict[str, float]]) -> list[dict[str, float]]:
    """Return the rows of finished steps; the validation of the last one will run again."""
    finished = [row for row in rows if row["step"] <= step]
    again = [row for row in finished if row["step"] == step]
    for row in again:
        for name in [name for name in row if name.startswith("val/")]:
            del row[name]
    return [row for row in finished if set(row) != {"step"}]


class LossCurve(Callback):
    """Draw the training loss and the validation metrics when a run ends.

    Args:
        metrics: The run's CSV.
        plot: The PNG to write.
    """

    def __init__(self, metrics: Path, plot: Path) -> None:
        self.metrics = metrics
        self.plot = plot

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write the PNG."""
        for logger in trainer.loggers:
            logger.save()
        if trainer.is_global_zero and self.metrics.exists():
            draw_curves(read_metrics(self.metrics), self.plot)


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Read a metrics file; empty cells are left out of a row, a missing file has no rows."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {
                name: int(value) if name == "step" else float(value)
                for name, value in row.items()
                if value
            }
            for row in csv.DictReader(file)
        ]


def draw_curves(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Plot `train/loss` and every `val/*` against the optimiser step, a PNG of two panels."""
    with atomic.open_atomic(path) as file:
        curves(rows).savefig(file, format="png", dpi=120)


def curves(rows: Sequence[Mapping[str, float]]) -> "Figure":
    """Return the figure of `draw_curves`; its value axes are named after what they show.

    The terms of the loss stand in the CSV; unweighted, they would not share an axis.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    validated = sorted({name for row in rows for name in row if name.startswith("val/")})
    panels = {"training": ["train/loss"], "validation": validated}
    for axes, (title, names) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for name in names:
            points = [(row["step"], row[name]) for row in rows if name in row]
            steps, values = ([point[axis] for point in points] for axis in (0, 1))
            axes.plot(steps, values, label=name, marker="." if len(points) < 30 else "")
        # More names than two do not fit beside an axis; the legend has them.
        name = ", ".join(names) if len(names) <= 2 else f"{title} metrics"
        axes.set(title=title, xlabel="optimiser step", ylabel=name)
        axes.grid(alpha=0.3)
        if names:
            axes.legend(fontsize="small")
    return figure

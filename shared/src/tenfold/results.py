"""What `<name> reproduce` has found: one file a claim, with all seeds.

`results/<name>/<claim>.json` is rendered into the RESULTS.md files and the README by
`make results`. A claim that does not hold is written like any other. Standard library only; what
draws and prints imports its library when called.
"""

import json
import math
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Self

from tenfold import atomic
from tenfold.runs import git_revision

SCALES = ("tiny", "small", "gpu")


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one arm reached.

    Args:
        arm: Name of the method or baseline.
        metric: Name of the metric.
        mean: Mean over seeds.
        spread: Sample standard deviation over seeds, 0 for a single one.
        per_seed: One value a seed, in the order of `Result.seeds`.
    """

    arm: str
    metric: str
    mean: float
    spread: float
    per_seed: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check that the numbers agree with each other."""
        if not self.per_seed:
            raise ValueError("per_seed must not be empty")
        mean = sum(self.per_seed) / len(self.per_seed)
        if not math.isclose(self.mean, mean, rel_tol=1e-3, abs_tol=1e-6):
            raise ValueError(f"mean is {self.mean:g}, but per_seed has the mean {mean:g}")
        if self.spread < 0:
            raise ValueError(f"spread must be >= 0, got {self.spread:g}")

    @classmethod
    def of(cls, arm: str, metric: str, per_seed: Sequence[float]) -> Self:
        """Make the row of these values."""
        values = tuple(map(float, per_seed))
        spread = stdev(values) if len(values) > 1 else 0.0
        return cls(arm=arm, metric=metric, mean=fmean(values), spread=spread, per_seed=values)


@dataclass(frozen=True, kw_only=True)
class Result:
    """One checked claim.

    Args:
        claim: One sentence.
        paper: Where it stands, such as `arXiv 2405.13226, table 2`.
        scale: One of `SCALES`.
        command: What was typed.
        commit: Short git revision.
        seeds: Seed of each run of an arm.
        rows: What each arm reached, by metric.
        margin: Distance by which the claim holds, negative when missed, in the metric's unit.
        holds: Whether it holds.
        machine: What it was measured on.
        notes: What else a reader should know.
    """

    claim: str
    paper: str
    scale: str
    command: str
    commit: str
    seeds: tuple[int, ...]
    rows: tuple[Row, ...]
    margin: float
    holds: bool
    machine: str
    notes: str = ""

    def __post_init__(self) -> None:
        """Check what types alone do not say."""
        if self.scale not in SCALES:
            raise ValueError(f"scale must be one of {', '.join(SCALES)}, got {self.scale!r}")
        if not self.rows:
            raise ValueError("rows must not be empty")
        for row in self.rows:
            if len(row.per_seed) != len(self.seeds):
                raise ValueError(
                    f"arm {row.arm!r} has {len(row.per_seed)} values for {len(self.seeds)} seeds"
                )


def judged(
    package: str,
    claim: str,
    *,
    paper: str,
    scale: str,
    rows: Sequence[Row],
    margin: float,
    notes: str = "",
) -> Result:
    """Make the result of `<package> reproduce --scale <scale>`, measured here and now.

    Args:
        package: Console script.
        claim: One sentence.
        paper: Where it stands.
        scale: One of `SCALES`.
        rows: What each arm reached, one value a seed.
        margin: Distance by which the claim holds; it does from 0 on.
        notes: What else a reader should know.
    """
    seeds = len(rows[0].per_seed)
    return Result(
        claim=claim,
        paper=paper,
        scale=scale,
        command=f"uv run {package} reproduce --scale {scale} --seeds {seeds}",
        commit=git_revision() or "unknown",
        seeds=tuple(range(seeds)),
        rows=tuple(rows),
        margin=margin,
        holds=margin >= 0,
        machine=this_machine(),
        notes=notes,
    )


def load_result(path: Path) -> Result:
    """Read one result file.

    Raises:
        ValueError: It is no JSON, or a key is missing, unknown, of the wrong type or contradicts
            another; the message names file and key.
    """
    try:
        values = _typed(Result, json.loads(path.read_text(encoding="utf-8")), "result")
        values["rows"] = tuple(
            Row(**_typed(Row, row, f"rows[{number}]")) for number, row in enumerate(values["rows"])
        )
        return Result(**values)
    except ValueError as error:  # JSONDecodeError is one
        raise ValueError(f"{path}: {error}; write it again with `reproduce`") from error


def save_result(result: Result, path: Path) -> None:
    """Write the result and, beside it, a plot of every value: `x.json` and `x.png`."""
    atomic.write_json(path, asdict(result))
    _plot(result, path.with_suffix(".png"))


def show_result(result: Result) -> None:
    """Print the table of arms, the margin and the verdict."""
    from rich.console import Console
    from rich.table import Table

    table = Table("arm", "metric", "mean", "spread", "per seed", title=result.claim)
    for row in result.rows:
        each = ", ".join(f"{value:.4g}" for value in row.per_seed)
        table.add_row(row.arm, row.metric, f"{row.mean:.4g}", f"{row.spread:.2g}", each)
    console = Console()
    console.print(table)
    verdict = "holds" if result.holds else "does not hold"
    console.print(f"The claim {verdict}, margin {result.margin:.4g}.")


def this_machine() -> str:
    """Describe the machine in a few words: accelerator, if torch sees one, and cores."""
    import torch

    cores = f"{os.cpu_count()} CPU cores, {platform.machine()}"
    return f"{torch.cuda.get_device_name()}, {cores}" if torch.cuda.is_available() else cores


def _plot(result: Result, path: Path) -> None:
    from matplotlib.figure import Figure

    metrics = list(dict.fromkeys(row.metric for row in result.rows))
    figure = Figure(figsize=(5 * len(metrics), 3), layout="constrained")
    for axes, metric in zip(
        figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True
    ):
        rows = [row for row in result.rows if row.metric == metric]
        for place, row in enumerate(rows):
            axes.plot(row.per_seed, [place] * len(row.per_seed), "o")
            axes.plot(row.mean, place, "|", color="black", markersize=18)
        axes.set(xlabel=metric, yticks=range(len(rows)), yticklabels=[row.arm for row in rows])
    with atomic.open_atomic(path) as file:
        figure.savefig(file, format="png", dpi=120)


def _typed(kind: type, values: Any, where: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise ValueError(f"{where} must be an object, got {type(values).__name__}")
    known = {field.name: field for field in fields(kind)}
    required = set(known) - {"notes"}
    if missing := sorted(required - set(values)):
        raise ValueError(f"{where} has no {', '.join(missing)}")
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(f"{where} has an unknown key {unknown[0]!r}")
    return {key: _value(known[key].type, value, f"{where}.{key}") for key, value in values.items()}


def _value(kind: Any, value: Any, where: str) -> Any:
    checks: dict[Any, tuple[str, Callable[[Any], bool]]] = {
        str: ("a text", lambda v: isinstance(v, str)),
        bool: ("true or false", lambda v: isinstance(v, bool)),
        float: ("a finite number", _is_number),
        tuple[int, ...]: (
            "whole numbers",
            lambda v: _all(v, lambda x: _is_number(x) and x == int(x)),
        ),
        tuple[float, ...]: ("finite numbers", lambda v: _all(v, _is_number)),
        tuple[Row, ...]: ("a list", lambda v: isinstance(v, list)),
    }
    expected, accepts = checks[kind]
    if not accepts(value):
        raise ValueError(f"{where} must be {expected}, got {value!r}")
    return tuple(value) if isinstance(value, list) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _all(values: Any, accepts: Callable[[Any], bool]) -> bool:
    return isinstance(values, list) and all(map(accepts, values))

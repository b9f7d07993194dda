"""The verb `report`: test scores of many runs, over seeds, in one table.

Collected are the files `scores.json` of `probe`, `knn` and `few-shot`, and of fine-tuned runs the
file `test.json` in their folders, which `biofame test --ckpt_path RUN --out RUN/test.json` writes.
"""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from biofame.score_tables import (
    SCORES,
    Scored,
    Summary,
    read_scores,
    summarise,
    to_table,
    write_scores,
)
from tenfold import atomic

log = logging.getLogger(__name__)

TEST = "test.json"
CONFIG = "config.yaml"
STAGE = "test/"
NOT_OF_THE_ARM = ("seed_everything", "data.seed", "trainer", "checkpoint")
"""Options in which runs of one arm may differ: seeds, and what leaves the result as it is."""


def report(runs: list[Path], *, out: Path | None = None, metrics: list[str] | None = None) -> None:
    """Collect test scores of runs into a table of means and spreads over seeds.

    Runs of one folder whose options differ in their seeds alone are one arm; where others differ
    too, the arm's name says which.

    Args:
        runs: Folders that are searched, or single files `scores.json`.
        out: Folder for `scores.json`, `scores.csv` and `report.png`; by default only a table is
            shown.
        metrics: Scores to show; all by default.

    Raises:
        FileNotFoundError: A folder is missing, or nothing was measured below them.
        ValueError: A file is damaged, a seed of an arm is there twice, or there is no such score.
    """
    scored = collect(runs)
    _check_seeds(scored)
    summary = summarise(scored)
    known = list(dict.fromkeys(each.metric for each in summary))
    shown = metrics or known
    if unknown := [name for name in shown if name not in known]:
        raise ValueError(f"metrics must be of {', '.join(known)}, got {', '.join(unknown)}")
    if out is not None:
        write_scores(out, scored, runs=[str(path) for path in runs])
        draw_report(summary, shown, out / "report.png")
    Console(soft_wrap=True).print(to_table(summary, title="Test split", metrics=shown))


def collect(roots: Sequence[Path]) -> list[Scored]:
    """Return all scores at or below some paths.

    Raises:
        FileNotFoundError: A path is missing, or nothing was measured below them.
        ValueError: A file is damaged.
    """
    files: dict[Path, None] = {}
    for root in roots:
        if not root.exists():
            raise FileNotFoundError(f"{root} does not exist: name folders of runs")
        found = [root] if root.is_file() else sorted(root.rglob("*.json"))
        files |= {path.resolve(): None for path in found if path.name in (SCORES, TEST)}
        _tell_untested(root)
    if not files:
        raise FileNotFoundError(
            f"no {SCORES} or {TEST} below {', '.join(map(str, roots))}: test runs first, with "
            f"`biofame test --ckpt_path RUN --out RUN/{TEST}`"
        )
    tested = {path.parent: _read_test(path) for path in files if path.name == TEST}
    studies = [path for path in files if path.name == SCORES]
    names = _names([path.parent for path in studies])
    listed = [
        Scored(
            arm=f"{name}: {each.arm}" if name else each.arm,
            condition=each.condition,
            seed=each.seed,
            scores=each.scores,
        )
        for path, name in zip(studies, names, strict=True)
        for each in read_scores(path)
    ]
    return [*_arms(tested), *listed]


def draw_report(summary: Sequence[Summary], metrics: Sequence[str], path: Path) -> None:
    """Draw each score's mean and values by arm and condition."""
    from matplotlib.figure import Figure

    rows = list(dict.fromkeys((each.arm, each.condition) for each in summary))
    names = [f"{arm}, {condition}" if condition else arm for arm, condition in rows]
    size = (3 + 2.2 * len(metrics), 1.2 + 0.35 * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    all_axes = figure.subplots(1, len(metrics), squeeze=False, sharey=True)[0]
    for axes, metric in zip(all_axes, metrics, strict=True):
        for each in summary:
            if each.metric == metric and not math.isnan(each.mean):
                place = rows.index((each.arm, each.condition))
                axes.plot(each.per_seed, [place] * len(each.per_seed), "o", alpha=0.5)
                axes.plot(each.mean, place, "|", color="black", markersize=16)
        axes.set(xlabel=metric, yticks=range(len(rows)), yticklabels=names)
        axes.set_ylim(len(rows) - 0.5, -0.5)
    with atomic.open_atomic(path) as file:
        figure.savefig(file, format="png", dpi=120)


def _arms(tested: Mapping[Path, Mapping[str, float]]) -> list[Scored]:
    """Name the arm and seed of each tested run folder by its config."""
    configs = {run: _read_config(run) for run in tested}
    scored: list[Scored] = []
    for run, scores in tested.items():
        config = configs[run]
        siblings = [other for path, other in configs.items() if path.parent == run.parent]
        seed = config.get("data.seed", 0)
        if seed != config.get("seed_everything", seed):
            log.warning("%s has two seeds; the table goes by data.seed %s", run, seed)
        arm = ", ".join((run.parent.name, *_differences(config, siblings)))
        scored.append(Scored(arm=arm, seed=int(seed), scores=scores))
    return scored


def _differences(config: Mapping[str, Any], siblings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return as `option=value` what other runs of the folder have otherwise."""
    return [
        f"{name}={value}"
        for name, value in config.items()
        if not any(name == free or name.startswith(f"{free}.") for free in NOT_OF_THE_ARM)
        and any(other.get(name, value) != value for other in siblings)
    ]


def _names(folders: Sequence[Path]) -> list[str]:
    """Return what tells folders of studies apart; nothing for a single one."""
    if len(folders) < 2:
        return ["" for _ in folders]
    shared = Path(*_shared_parts([folder.parts for folder in folders]))
    return [str(folder.relative_to(shared)) for folder in folders]


def _shared_parts(paths: Sequence[tuple[str, ...]]) -> list[str]:
    shared: list[str] = []
    for parts in zip(*(path[:-1] for path in paths), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return shared


def _read_test(path: Path) -> dict[str, float]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        scores = {
            name.removeprefix(STAGE): float(value)
            for name, value in content.items()
            if name.startswith(STAGE)
        }
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} holds no test scores: {error}; test the run again") from error
    if not scores:
        raise ValueError(f"{path} has no score named {STAGE}...; test the run again")
    return scores


def _read_config(run: Path) -> dict[str, Any]:
    path = run / CONFIG
    if not path.is_file():
        raise ValueError(f"{run / TEST} stands beside no {CONFIG}: move it into its run folder")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {error}") from error
    return _flat(content if isinstance(content, dict) else {})


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _tell_untested(root: Path) -> None:
    """Name fine-tuned runs that have no test scores: they would be missed in silence."""
    for path in sorted(root.rglob(CONFIG)) if root.is_dir() else []:
        run = path.parent
        if not (run / TEST).is_file() and "init.run" in _read_config(run):
            log.warning(
                "%s is left out, it has no %s: biofame test --ckpt_path %s --out %s",
                run, TEST, run, run / TEST,
            )  # fmt: skip


def _check_seeds(scored: Sequence[Scored]) -> None:
    """Refuse a network that is counted twice: it would make the spread smaller than it is."""
    seen: set[tuple[str, str, int]] = set()
    for each in scored:
        key = each.arm, each.condition, each.seed
        if key in seen:
            raise ValueError(
                f"{each.arm}{f', {each.condition}' if each.condition else ''} has seed "
                f"{each.seed} twice: leave one of the runs out"
            )
        seen.add(key)

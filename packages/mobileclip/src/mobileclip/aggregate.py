"""The verb `aggregate`: the averages of the paper's tables from result files."""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mobileclip.datacomp import AVERAGED, SHIFTS, Mean, Summary, summarise
from mobileclip.result_files import read_results
from tenfold import atomic


def aggregate(results: list[Path], *, out: Path | None = None) -> None:
    """Print the 38-task average, ImageNet, its shifts and retrieval, one model a file.

    Args:
        results: Result files that `evaluate` wrote, or DataComp's own; several are compared.
        out: JSON file of all figures.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file is damaged, or two have one name.
    """
    if not results:
        raise ValueError("results is empty: give at least one file that evaluate wrote")
    names = [_name(path, results) for path in results]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"results has {', '.join(repeated)} twice; give each file once")
    summaries = {
        name: summarise(read_results(path)) for name, path in zip(names, results, strict=True)
    }
    console = Console(soft_wrap=True)
    console.print(report(summaries))
    for name, summary in summaries.items():
        if summary.average.missing:
            console.print(f"{name} has no result of: {', '.join(summary.average.missing)}")
    if out is not None:
        figures = {name: _figures(summary) for name, summary in summaries.items()}
        atomic.write_json(out, figures)


def report(summaries: Mapping[str, Summary]) -> Table:
    """Lay out summaries, percent; a mean with a task missing is not a mean and stays empty."""
    table = Table("results", title="Zero-shot, percent")
    headings = ("tasks", f"average of {len(AVERAGED)}", "ImageNet", f"shift, {len(SHIFTS)} sets")
    for heading in (*headings, "Flickr R@1", "COCO R@1"):
        table.add_column(heading, justify="right")
    for name, each in summaries.items():
        values = (each.average.value, each.imagenet, each.shift.value, each.flickr, each.coco)
        tasks = f"{each.average.present}/{len(AVERAGED)}"
        table.add_row(name, tasks, *("" if v is None else f"{100 * v:.2f}" for v in values))
    return table


def _name(path: Path, paths: list[Path]) -> str:
    """Return the file's stem, its whole path where stems repeat."""
    return path.stem if [p.stem for p in paths].count(path.stem) == 1 else str(path)


def _figures(summary: Summary) -> dict[str, object]:
    return {
        name: value._asdict() if isinstance(value, Mean) else value
        for name, value in summary._asdict().items()
    }

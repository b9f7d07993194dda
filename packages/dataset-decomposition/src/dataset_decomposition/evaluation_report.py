"""What `evaluate` found, as tables for a terminal and as a plot."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Group
from rich.table import Table

from dataset_decomposition.averages import averages
from dataset_decomposition.heldout_loss import TICKS, HeldoutLoss, LossSummary
from dataset_decomposition.task_scores import TaskScore
from tenfold import atomic


def report(loss: HeldoutLoss | None, scores: Sequence[TaskScore]) -> Group:
    """Lay out held-out loss, tasks and their averages."""
    tables = [] if loss is None else [_loss_table(loss)]
    if scores:
        tables.append(_task_table(scores))
    return Group(*tables)


def plot_by_position(loss: HeldoutLoss, path: Path) -> None:
    """Draw the mean loss of a token against its position, octave by octave."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    heights = [group.ticks / group.tokens / TICKS for group in loss.curve.values()]
    axes.stairs(heights, [1 << k for k in range(len(heights) + 1)], baseline=None)
    axes.set_xscale("log", base=2)
    axes.set(xlabel="tokens before the predicted one", ylabel="loss, nats a token")
    with atomic.open_atomic(path) as file:
        figure.savefig(file, format="png", dpi=120)


def _loss_table(loss: HeldoutLoss) -> Table:
    table = Table(title="Held-out loss, each document scored alone")
    table.add_column("", no_wrap=True)
    for heading in ("documents", "tokens", "nats a token", "by document", "perplexity"):
        table.add_column(heading, justify="right")
    _add_rows(table, {"all": loss.total})
    _add_rows(table, {f"position {band}": group for band, group in loss.by_position.items()})
    _add_rows(
        table,
        {f"length {1 << k:,}-{(2 << k) - 1:,}": group for k, group in loss.by_length.items()},
    )
    _add_rows(table, {f"context {length:,}": group for length, group in loss.by_context.items()})
    if loss.unscored:
        table.caption = f"{loss.unscored:,} documents of one token have nothing to predict"
    return table


def _add_rows(table: Table, groups: Mapping[str, LossSummary]) -> None:
    for name, group in groups.items():
        figures = (group.nll_per_token, group.nll_per_document)
        table.add_row(
            name,
            f"{group.documents:,}",
            f"{group.tokens:,}",
            *("" if value is None else f"{value:.4f}" for value in figures),
            "" if group.perplexity is None else f"{group.perplexity:.2f}",
        )
    table.add_section()


def _task_table(scores: Sequence[TaskScore]) -> Table:
    table = Table(title="Tasks, right answers in percent")
    table.add_column("task")
    for heading in ("questions", "solved examples", "metric", "score"):
        table.add_column(heading, justify="right")
    for task in scores:
        for place, (metric, share) in enumerate(task.metrics.items()):
            counts = (task.name, f"{task.examples:,}", str(task.shots)) if not place else ("",) * 3
            table.add_row(*counts, metric, f"{100 * share:.1f}")
    table.add_section()
    for name, share in averages({task.name: task.score for task in scores}).items():
        table.add_row(f"average {name}", "", "", "", f"{100 * share:.1f}")
    return table

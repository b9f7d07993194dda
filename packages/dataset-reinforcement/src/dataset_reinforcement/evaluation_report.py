"""What `evaluate` found, as a table for a terminal and as a plot."""

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from dataset_reinforcement.set_scores import SetScore, averages
from tenfold import atomic


def report(scores: Sequence[SetScore]) -> Table:
    """Lay out the sets and their averages."""
    table = Table("set", title="Accuracy and calibration error, percent")
    for heading in ("images", "right", "top-1", "top-5", "ECE"):
        table.add_column(heading, justify="right")
    for score in scores:
        right = sum(part.correct for part in score.parts.values())
        shares = (score.top1, score.top5, score.ece)
        counts = (f"{score.images:,}", f"{right:,}")
        table.add_row(score.name, *counts, *(f"{100 * share:.2f}" for share in shares))
    if len(scores) > 1:
        table.add_section()
        for name, share in averages(scores).items():
            table.add_row(f"mean of {name}", "", "", f"{100 * share:.2f}", "", "")
    return table


def plot_reliability(scores: Sequence[SetScore], path: Path) -> None:
    """Draw the share of right images against confidence, and how many images each bin has."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(scores), 4.5), layout="constrained")
    grid = figure.subplots(2, len(scores), squeeze=False, sharex=True, height_ratios=(3, 1))
    for score, (upper, lower) in zip(scores, grid.T, strict=True):
        filled = [each for each in score.bins if each.images]
        upper.plot([0, 1], [0, 1], color="grey", linewidth=1)
        upper.plot(
            [each.confidence / each.images for each in filled],
            [each.correct / each.images for each in filled],
            "o-",
        )
        upper.set(title=f"{score.name}, ECE {100 * score.ece:.1f} %", xlim=(0, 1), ylim=(0, 1))
        edges = [place / len(score.bins) for place in range(len(score.bins) + 1)]
        lower.stairs([each.images / score.images for each in score.bins], edges, fill=True)
        lower.set(xlabel="confidence")
    grid[0, 0].set(ylabel="share of right images")
    grid[1, 0].set(ylabel="share of images")
    with atomic.open_atomic(path) as file:
        figure.savefig(file, format="png", dpi=120)

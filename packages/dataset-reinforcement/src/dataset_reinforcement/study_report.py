"""What a teacher study found: the matrix, the ranks, a table and a heat map."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.table import Table

from tenfold import atomic


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """Accuracies of teachers and of the students that they distilled, 0..1.

    Attributes:
        teachers: Names, in the order given.
        students: Names, in the order given.
        seeds: Seeds of each pair's runs.
        teacher_top1: Accuracy of each teacher itself.
        per_seed: Teacher to student to one accuracy a seed.
    """

    teachers: tuple[str, ...]
    students: tuple[str, ...]
    seeds: tuple[int, ...]
    teacher_top1: tuple[float, ...]
    per_seed: Mapping[str, Mapping[str, Sequence[float]]]

    @property
    def matrix(self) -> list[list[float]]:
        """Mean accuracy over seeds, a row for each teacher, a column for each student."""
        return [[fmean(self.per_seed[t][s]) for s in self.students] for t in self.teachers]

    def to_json(self) -> dict[str, Any]:
        """Return all figures, with the teachers from best to worst by mean rank."""
        ranks = mean_ranks(self.matrix)
        best_first = sorted(range(len(ranks)), key=lambda row: ranks[row])
        return {
            **asdict(self),
            "matrix": self.matrix,
            "mean_rank": dict(zip(self.teachers, ranks, strict=True)),
            "best_first": [self.teachers[row] for row in best_first],
        }


def mean_ranks(matrix: Sequence[Sequence[float]]) -> list[float]:
    """Return the mean over columns of each row's rank in it; 1 is the highest value.

    Equal values share the mean of their ranks.
    """
    columns = list(zip(*matrix, strict=True))
    return [
        fmean(_rank(value, column) for value, column in zip(row, columns, strict=True))
        for row in matrix
    ]


def report(result: StudyResult) -> Table:
    """Lay out the matrix, teachers from best to worst."""
    table = Table("teacher", title="Top-1 of students by teacher, percent")
    for heading in ("itself", *result.students, "mean rank"):
        table.add_column(heading, justify="right")
    matrix = result.matrix
    ranks = mean_ranks(matrix)
    for row in sorted(range(len(matrix)), key=lambda row: ranks[row]):
        shares = (result.teacher_top1[row], *matrix[row])
        figures = (f"{100 * share:.2f}" for share in shares)
        table.add_row(result.teachers[row], *figures, f"{ranks[row]:.2f}")
    return table


def plot_study(result: StudyResult, path: Path) -> None:
    """Draw a heat map of the students' accuracies; each column has its own colour scale.

    Students differ more from each other than a student's teachers do.
    """
    from matplotlib.figure import Figure

    matrix = result.matrix
    rows, columns = len(result.teachers), len(result.students)
    figure = Figure(figsize=(2 + 1.2 * columns, 1.5 + 0.5 * rows), layout="constrained")
    axes = figure.subplots()
    axes.imshow(_stretched(matrix), cmap="viridis", vmin=0, vmax=1, aspect="auto")
    for row, values in enumerate(matrix):
        for column, value in enumerate(values):
            text = f"{100 * value:.1f}"
            box = {"facecolor": "white", "alpha": 0.7, "linewidth": 0}
            axes.text(column, row, text, ha="center", va="center", bbox=box)
    axes.set_xticks(range(columns), result.students)
    axes.set_yticks(range(rows), result.teachers)
    axes.set(xlabel="student", ylabel="teacher", title="top-1 of students, percent")
    with atomic.open_atomic(path) as file:
        figure.savefig(file, format="png", dpi=120)


def _rank(value: float, column: Sequence[float]) -> float:
    return 1 + sum(other > value for other in column) + (column.count(value) - 1) / 2


def _stretched(matrix: Sequence[Sequence[float]]) -> list[list[float]]:
    """Bring each column to 0..1."""
    bounds = [(min(column), max(column)) for column in zip(*matrix, strict=True)]
    return [
        [
            (value - low) / (high - low) if high > low else 0.5
            for value, (low, high) in zip(row, bounds, strict=True)
        ]
        for row in matrix
    ]

"""All arms of a study in one table: what they reach and what they cost."""

from collections.abc import Mapping
from statistics import fmean
from typing import NamedTuple

from rich.table import Table

from dataset_reinforcement.claims import Cost, Values


class Column(NamedTuple):
    """A metric, its heading, and how its mean is written."""

    metric: str
    heading: str
    form: str


REACHED = (
    Column("top1", "top-1", ".3f"),
    Column("ece", "ECE", ".3f"),
    Column("corrupted_top1", "corrupted top-1", ".3f"),
)
SPENT: dict[Cost, tuple[Column, ...]] = {
    "cpu_s": (Column("cpu_s", "CPU s", ".1f"),),
    "s_per_epoch": (
        Column("s_per_epoch", "s an epoch", ".2f"),
        Column("busy_share", "GPU busy", ".0%"),
    ),
}


def arm_table(runs: Mapping[str, Values], *, cost: Cost) -> Table:
    """Lay out the means over seeds, a row for each student and arm.

    Args:
        runs: Values by student.
        cost: Which cost was measured.
    """
    columns = (*REACHED, *SPENT[cost])
    table = Table("student", "arm", title="Means over seeds")
    for column in columns:
        table.add_column(column.heading, justify="right")
    for student, values in runs.items():
        for arm in values["top1"]:
            figures = (format(fmean(values[c.metric][arm]), c.form) for c in columns)
            table.add_row(student, arm, *figures)
    return table

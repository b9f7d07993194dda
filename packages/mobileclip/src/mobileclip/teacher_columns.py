"""Embeddings of all teachers side by side, as data store them, and each teacher's part of them.

Shapes: N pairs, W columns of all teachers.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from mobileclip.generate.teachers import Teachers
from mobileclip.reinforced_loss import TeacherEmbeddings

STRINGS = {"teacher_text": "text", "teacher_synthetic": "synthetic_text"}
"""Where a batch for live teachers has the captions of which columns."""


class TeacherColumns(NamedTuple):
    """Where each teacher's embeddings stand, and its inverse temperature."""

    dims: tuple[int, ...]
    scales: tuple[float, ...]


def live_columns(
    teachers: Teachers, batch: Mapping[str, Any], names: Sequence[str]
) -> dict[str, Tensor]:
    """Return the columns that stored data would have, as the teachers see the pairs now.

    Args:
        teachers: The live ensemble.
        batch: Has `teacher_view` uint8 `[N, 3, T, T]`, and captions as lists of str.
        names: The columns: `teacher_image`, `teacher_text`, `teacher_synthetic`.

    Raises:
        ValueError: The batch is for no live teachers.
    """
    columns: dict[str, Tensor] = {}
    for name in names:
        source = STRINGS.get(name, "teacher_view")
        if source not in batch:
            raise ValueError(
                f"loss.mode online got a batch without {source}; set data.mode to online and "
                "data.captions to loss.captions"
            )
        encode = teachers.encode_texts if name in STRINGS else teachers.encode_images
        columns[name] = encode(batch[source])
    return columns


def split_columns(columns: Mapping[str, Tensor], dims: tuple[int, ...]) -> list[TeacherEmbeddings]:
    """Return each teacher's part of embeddings that stand side by side.

    Args:
        columns: `teacher_image`, and of `teacher_text` and `teacher_synthetic` those there are,
            `[N, W]`.
        dims: Width of each teacher.

    Raises:
        ValueError: The widths do not add up to W.
    """
    for name, column in columns.items():
        if column.shape[1] != sum(dims):
            raise ValueError(
                f"{name} has {column.shape[1]} columns, the teachers have {list(dims)}, together "
                f"{sum(dims)}"
            )
    parts = {
        name.removeprefix("teacher_"): column.split(dims, dim=1) for name, column in columns.items()
    }
    return [
        TeacherEmbeddings(**{name: pieces[index] for name, pieces in parts.items()})
        for index in range(len(dims))
    ]

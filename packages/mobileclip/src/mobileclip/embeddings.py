"""Stored teacher embeddings of one image: its views and its captions, all teachers side by side.

Two layouts of named arrays are published (spec 3): the legacy one has the real and the synthetic
captions in one `text_emb`, the new one has `syn_text*_emb` beside it. Their bytes are in
`embedding_codecs`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LEGACY_KEY = "syn_text"
"""Key of the synthetic captions that the legacy layout holds."""

UNIT_TOLERANCE = 0.02
"""How far from 1 a stored norm may be; bfloat16 rounds each entry by up to 0.4 %."""

_SYNTHETIC = re.compile(r"(syn_text.*)_emb")
_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Embeddings of one sample; rows are unit vectors of each teacher, one beside the other.

    Attributes:
        image: `[J, W]`, one row a view; bfloat16, float16 or float32.
        text: `[n_real, W]`, one row a real caption.
        synthetic: Key of `syn.json` to `[S, W]`, one row a synthetic caption.

    Raises:
        ValueError: Arrays are no matrices of one width and a floating type.
    """

    image: Tensor
    text: Tensor
    synthetic: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        for name, rows in self.tables():
            if rows.ndim != 2 or rows.dtype not in _DTYPES:
                raise ValueError(
                    f"{name} must be [rows, width] of bfloat16, float16 or float32, got "
                    f"{list(rows.shape)} of {rows.dtype}"
                )
            if rows.shape[1] != self.width:
                raise ValueError(
                    f"{name} is {rows.shape[1]} wide, image_emb {self.width}: both must hold all "
                    "teachers"
                )
        if not len(self.image):
            raise ValueError("image_emb has no rows; an image needs at least one view")

    @property
    def width(self) -> int:
        """Width of a row, all teachers."""
        return self.image.shape[-1]

    @property
    def num_rows(self) -> int:
        """Rows of all arrays."""
        return sum(len(rows) for _, rows in self.tables())

    def tables(self) -> list[tuple[str, Tensor]]:
        """Return the arrays under their published names, synthetic captions by key."""
        synthetic = [(f"{key}_emb", self.synthetic[key]) for key in sorted(self.synthetic)]
        return [("image_emb", self.image), ("text_emb", self.text), *synthetic]

    def to(self, dtype: torch.dtype) -> "Embeddings":
        """Return a copy in another floating type; bfloat16 to float32 and back is exact."""
        return Embeddings(
            image=self.image.to(dtype),
            text=self.text.to(dtype),
            synthetic={key: rows.to(dtype) for key, rows in self.synthetic.items()},
        )


def from_arrays(arrays: Mapping[str, Tensor], *, num_real: int = 1) -> Embeddings:
    """Take the arrays of either published layout.

    Args:
        arrays: Names to matrices; other names than the layouts' are refused.
        num_real: Real captions of the sample; in the legacy layout further rows of `text_emb`
            belong to its synthetic captions.

    Raises:
        ValueError: An array is missing or unknown, or the captions need more rows.
    """
    arrays = dict(arrays)
    missing = [name for name in ("image_emb", "text_emb") if name not in arrays]
    if missing:
        raise ValueError(f"{' and '.join(missing)} missing, there are {', '.join(sorted(arrays))}")
    image, text = arrays.pop("image_emb"), arrays.pop("text_emb")
    synthetic: dict[str, Tensor] = {}
    for name, rows in arrays.items():
        match = _SYNTHETIC.fullmatch(name)
        if match is None:
            raise ValueError(
                f"unknown array {name!r}; known are image_emb, text_emb, syn_text*_emb"
            )
        synthetic[match[1]] = rows
    if len(text) < num_real:
        raise ValueError(f"text_emb has {len(text)} rows for {num_real} real captions")
    if not synthetic and len(text) > num_real:
        text, synthetic = text[:num_real], {LEGACY_KEY: text[num_real:]}
    return Embeddings(image=image, text=text, synthetic=synthetic)


def check_width(width: int, dims: Sequence[int]) -> None:
    """Compare the width of embeddings with the teachers' widths.

    Raises:
        ValueError: They differ; no column may be dropped in silence.
    """
    if width != sum(dims):
        raise ValueError(
            f"embeddings are {width} wide, the teachers {list(dims)} together {sum(dims)}: they "
            "are other teachers'"
        )


def check_units(embeddings: Embeddings, dims: Sequence[int]) -> None:
    """Check that each row is a unit vector for each teacher.

    Raises:
        ValueError: A row holds NaN, infinity or zeros, or has another norm; names it.
    """
    check_width(embeddings.width, dims)
    names = embeddings.tables()
    rows = torch.cat([table for _, table in names]).to(torch.float32)
    norms = torch.stack([part.norm(dim=1) for part in rows.split(list(dims), dim=1)], dim=1)
    # Written so that NaN, which compares with nothing, fails.
    bad = ~((norms - 1).abs() <= UNIT_TOLERANCE)
    if not bad.any():
        return
    row, teacher = (int(i) for i in bad.nonzero()[0])
    norm = float(norms[row, teacher])
    for name, table in names:
        if row < len(table):
            raise ValueError(f"{name} row {row} has norm {norm:.3g} for teacher {teacher}, not 1")
        row -= len(table)

"""The exact index in memory: a full scan by faiss; the default up to about a million vectors."""

from pathlib import Path

from fastfill.config import Metric
from fastfill.index.checks import check_space
from fastfill.index.flat_store import FlatStore
from fastfill.index.store import StoredIndex


class FaissFlat(StoredIndex):
    """All vectors in one block of faiss; `exact` makes no difference.

    Args:
        folder: Ignored: the index lives in memory.
        dim: Width of the vectors.
        metric: What near means.
    """

    def __init__(self, folder: Path | None = None, *, dim: int, metric: Metric) -> None:
        check_space(dim, metric)
        super().__init__(FlatStore(dim, metric), dim=dim, metric=metric)

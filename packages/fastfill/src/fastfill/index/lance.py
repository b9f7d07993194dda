"""The index on disk: a LanceDB table, of which every write is a durable version.

Vectors survive the process, and a snapshot is a pinned version. Writes leave fragments behind that
`flush` compacts; a row that is updated leaves lance's own cells until then and is scanned instead.
"""

import json
import threading
import weakref
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastfill.config import Metric
from fastfill.index.base import Hits, Snapshot
from fastfill.index.checks import (
    check_k,
    check_space,
    checked_rows,
    checked_upsert,
    checked_vectors,
)
from fastfill.index.exact import Candidates, approximate_search, exact_search
from fastfill.index.locks import ReadWriteLock
from tenfold import atomic

SCHEMA_VERSION = 1
TABLE = "vectors"

KEEP_VERSIONS = timedelta(minutes=10)
"""Age up to which versions stay on disk for the searches and snapshots of other processes."""

FOR_EVER = timedelta(days=36_500)

WRITES_PER_FLUSH = 64
"""Writes after which fragments are compacted unasked; lance advises every 20 to 100."""

DELETE_ROWS = 10_000
"""Rows named in one delete."""


class LanceSnapshot:
    """A pinned version of the table; its files stay until it is released."""

    def __init__(self, index: "LanceIndex", table: Any) -> None:
        self.index = index
        self.table = table

    def release(self) -> None:
        """Let the version be cleaned up."""
        self.table = None
        self.index.forget(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()


class LanceIndex:
    """Vectors in a LanceDB table: one process writes, any number read.

    Up to `cells_at` vectors a search scans the table and is exact. LanceDB runs threads of its
    own: start worker processes by spawn, not by fork.

    Args:
        folder: Of the table; made if it is not there.
        dim: Width of the vectors.
        metric: What near means; with `cosine` normalised vectors are stored.
        cells_at: Number of vectors from which `flush` trains cells (IVF_FLAT).
        probes: Cells that a search which need not be exact looks into.

    Raises:
        ValueError: If there is no folder, the extra is not installed, or the folder holds vectors
            of another space.
    """

    persistent = True

    def __init__(
        self,
        folder: Path | None,
        *,
        dim: int,
        metric: Metric,
        cells_at: int = 100_000,
        probes: int = 32,
    ) -> None:
        check_space(dim, metric)
        if folder is None:
            raise ValueError("lancedb keeps its vectors on disk; name a folder")
        for name, value in (("cells_at", cells_at), ("probes", probes)):
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        self.dim = dim
        self.metric: Metric = metric
        self._cells_at, self._probes = cells_at, probes
        self._lance_metric = "l2" if metric == "l2" else "dot"
        self._lance, self._arrow = _imported()
        self._writing = threading.Lock()
        self._cleaning = ReadWriteLock()
        self._snapshots: weakref.WeakSet[LanceSnapshot] = weakref.WeakSet()
        self._writes = 0
        self._norm_of_version: tuple[int, float] = (-1, 0.0)
        _check_folder(folder, dim=dim, metric=metric)
        # Interval 0: a reader sees what another process has committed.
        self._database = self._lance.connect(str(folder), read_consistency_interval=timedelta(0))
        self._table: Any = self._database.create_table(TABLE, schema=self._schema(), exist_ok=True)

    def upsert(self, rows: ArrayLike, vectors: ArrayLike) -> None:
        """Add rows or overwrite their vectors: one durable version a call.

        Raises:
            ValueError: If shapes, numbers or rows are not usable; nothing is written then.
        """
        checked, array = checked_upsert(rows, vectors, dim=self.dim, metric=self.metric)
        if not checked.size:
            return
        with self._writing:
            merge = self._table.merge_insert("row").when_matched_update_all()
            merge.when_not_matched_insert_all().execute(self._records(checked, array))
            self._count_write()

    def delete(self, rows: ArrayLike) -> None:
        """Remove rows; those that are not there are ignored.

        Raises:
            ValueError: If the rows are not usable.
        """
        checked = checked_rows(rows)
        with self._writing:
            for start in range(0, len(checked), DELETE_ROWS):
                self._table.delete(_named(checked[start : start + DELETE_ROWS]))
                self._count_write()

    def search(
        self,
        queries: ArrayLike,
        k: int,
        *,
        snapshot: Snapshot | None = None,
        exact: bool = False,
    ) -> Hits:
        """Return the k nearest rows of each query, see `VectorIndex.search`.

        Raises:
            ValueError: If queries or k are not usable, or the snapshot is released or another
                index's.
        """
        check_k(k)
        array = checked_vectors(queries, dim=self.dim, metric=self.metric, what="queries")
        if snapshot is not None:
            return self._top(self._pinned(snapshot), array, k, exact=exact)
        with self._cleaning.reading():
            return self._top(self._newest(), array, k, exact=exact)

    def count(self) -> int:
        """Return the number of vectors."""
        return self._table.count_rows()

    def rows(self) -> NDArray[np.int64]:
        """Return the rows that are there, ascending."""
        return np.unique(self._column(self._table, "row"))

    def snapshot(self) -> LanceSnapshot:
        """Pin the newest version; this process cleans nothing up until it is released."""
        with self._cleaning.reading():
            pinned = LanceSnapshot(self, self._newest())
            self._snapshots.add(pinned)
        return pinned

    def forget(self, snapshot: LanceSnapshot) -> None:
        """Stop keeping files for a snapshot."""
        self._snapshots.discard(snapshot)

    def flush(self) -> None:
        """Compact fragments, bring the cells up to date, drop old versions that nobody needs."""
        with self._writing:
            self._compact()

    def close(self) -> None:
        """Let go of the table; the vectors stay on disk."""
        self._snapshots.clear()
        self._table = None

    def _schema(self) -> Any:
        arrow = self._arrow
        return arrow.schema(
            [
                arrow.field("row", arrow.int64(), nullable=False),
                arrow.field("norm", arrow.float64(), nullable=False),
                arrow.field("vector", arrow.list_(arrow.float32(), self.dim), nullable=False),
            ]
        )

    def _records(self, rows: NDArray[np.int64], vectors: NDArray[np.float32]) -> Any:
        flat = self._arrow.array(vectors.reshape(-1))
        lists = self._arrow.FixedSizeListArray.from_arrays(flat, self.dim)
        norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
        return self._arrow.table([rows, norms, lists], schema=self._schema())

    def _count_write(self) -> None:
        self._writes += 1
        if self._writes >= WRITES_PER_FLUSH:
            self._compact()

    def _compact(self) -> None:
        if self._table.count_rows() >= self._cells_at and not self._table.list_indices():
            kind = self._lance.index.IvfFlat(distance_type=self._lance_metric)
            self._table.create_index("vector", config=kind)
        self._table.optimize(cleanup_older_than=FOR_EVER)
        with self._cleaning.writing():
            if not self._snapshots:
                self._table.optimize(cleanup_older_than=KEEP_VERSIONS)
        self._writes = 0

    def _newest(self) -> Any:
        """Open the newest version for itself: all rounds of a search see the same vectors."""
        table = self._database.open_table(TABLE)
        table.checkout(table.version)
        return table

    def _pinned(self, snapshot: Snapshot) -> Any:
        if not isinstance(snapshot, LanceSnapshot) or snapshot.index is not self:
            raise ValueError("the snapshot is of another index; take one of this index")
        if snapshot.table is None:
            raise ValueError("the snapshot is released; take a new one")
        return snapshot.table

    def _top(self, table: Any, queries: NDArray[np.float32], k: int, *, exact: bool) -> Hits:
        def scan(part: NDArray[np.float32], wanted: int) -> Candidates:
            return self._nearest(table, part, wanted, scans=True)

        def probe(part: NDArray[np.float32], wanted: int) -> Candidates:
            return self._nearest(table, part, wanted, scans=False)

        norm = self._largest_norm(table)
        if exact or not table.list_indices():
            return exact_search(scan, queries, k, metric=self.metric, largest_norm=norm)
        return approximate_search(probe, scan, queries, k, metric=self.metric, largest_norm=norm)

    def _nearest(
        self, table: Any, queries: NDArray[np.float32], wanted: int, *, scans: bool
    ) -> Candidates:
        query = table.search(queries, vector_column_name="vector")
        query = query.distance_type(self._lance_metric).limit(wanted)
        query = query.bypass_vector_index() if scans else query.nprobes(self._probes)
        found = query.select(["row", "vector", "_distance"]).to_arrow().combine_chunks()
        place = np.zeros(found.num_rows, dtype=np.int64)
        if len(queries) > 1:
            place = found.column("query_index").to_numpy().astype(np.int64)
        vectors = found.column("vector").combine_chunks().flatten().to_numpy()
        rows = found.column("row").to_numpy()
        return by_query(place, rows, vectors.reshape(-1, self.dim), queries=len(queries))

    def _largest_norm(self, table: Any) -> float:
        if self.metric != "ip":
            return 1.0
        version, norm = self._norm_of_version
        if version != table.version:
            norm = float(self._column(table, "norm").max(initial=0.0))
            self._norm_of_version = (table.version, norm)
        return norm

    def _column(self, table: Any, name: str) -> NDArray:
        return table.search().select([name]).to_arrow().column(name).to_numpy()


def by_query(
    place: NDArray[np.int64], rows: NDArray[np.int64], vectors: NDArray[np.float32], *, queries: int
) -> Candidates:
    """Sort a long list of hits into one line a query, each row once.

    lance can return a row twice after an update in place (lance pull request 8342); the first,
    which is the nearest, stays.

    Args:
        place: Number of the query of each hit.
        rows: int64, as long.
        vectors: float32 `[hits, d]`.
        queries: How many there are.
    """
    _, first = np.unique(np.stack([place, rows]), axis=1, return_index=True)
    place, rows, vectors = place[first], rows[first], vectors[first]
    length = np.bincount(place, minlength=queries)
    column = np.arange(len(place)) - np.repeat(np.cumsum(length) - length, length)
    shape = (queries, int(length.max(initial=0)))
    found = Candidates(np.full(shape, -1), np.zeros((*shape, vectors.shape[1]), np.float32))
    found.rows[place, column] = rows
    found.vectors[place, column] = vectors
    return found


def _named(rows: NDArray[np.int64]) -> str:
    return f"row IN ({','.join(map(str, rows.tolist()))})"


def _imported() -> tuple[ModuleType, ModuleType]:
    try:
        import lancedb
        import lancedb.index
        import pyarrow
    except ImportError as error:
        raise ValueError(
            "backend lancedb needs an extra; install it with: pip install 'fastfill[lancedb]'"
        ) from error
    return lancedb, pyarrow


def _check_folder(folder: Path, *, dim: int, metric: Metric) -> None:
    """Write what space a new folder is of; raise where an old one is of another."""
    path = folder / "index.json"
    space = {"schema_version": SCHEMA_VERSION, "dim": dim, "metric": metric}
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ValueError(f"{folder} is not empty and no index; name another folder")
        atomic.write_json(path, space)
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON; delete {folder} and rebuild the index") from error
    if found != space:
        raise ValueError(
            f"{folder} holds an index of {found}, expected {space}; rebuild it in another folder"
        )

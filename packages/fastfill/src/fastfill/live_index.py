"""An index that keeps in step with a gallery which another process writes.

The gallery is the truth. An index in memory is built from it at the start; one on disk goes on from
the change that it saw last. `refresh` then brings what changed, while other threads search.
"""

import json
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from fastfill.card import ModelCard
from fastfill.gallery import Change, Gallery, GalleryBusyError, GalleryState, Version
from fastfill.gallery.lock import WriterLock
from fastfill.gallery.reading import check_stamp
from fastfill.gallery.state import NO_VINTAGE
from fastfill.index import Hits, Snapshot, VectorIndex, open_index, rebuild
from tenfold import atomic

logger = logging.getLogger(__name__)

FOLDER = "index"
"""Where in a gallery's folder persistent indexes are."""


class Hit(NamedTuple):
    """One item that a search found.

    Attributes:
        id: Of the item.
        distance: Smaller is nearer, see `fastfill.index.Hits`.
        version: What its vector is: `h(<old model>)`, `<new model>` or `<old model>`.
    """

    id: str
    distance: float
    version: str


@dataclass
class _Rows:
    """What the vector of each row is, and the ids of rows that the gallery may not show yet."""

    names: dict[str, str]
    version: NDArray[np.uint16]
    vintage: NDArray[np.uint16]
    added: dict[int, str] = field(default_factory=dict)

    def change(self, rows: NDArray[np.int64], version: Version) -> None:
        missing = int(rows.max(initial=-1)) + 1 - len(self.version)
        if missing > 0:
            room = max(missing, len(self.version) // 4)
            # The vintage first: a search looks up the version, which must have one.
            none = np.full(room, NO_VINTAGE, dtype=np.uint16)
            self.vintage = np.concatenate([self.vintage, none])
            self.version = np.concatenate([self.version, np.full_like(none, Version.NEW)])
        self.version[rows] = version

    def name(self, row: int, *, serving: str) -> str:
        version = Version.OLD if serving == "old" else int(self.version[row])
        key = f"{version:d}"
        return self.names[key if version == Version.NEW else f"{key}/{self.vintage[row]:d}"]

    def copy(self) -> "_Rows":
        return _Rows(self.names, self.version.copy(), self.vintage, dict(self.added))


@dataclass(frozen=True, eq=False)
class _Space:
    """The index of one space, and what its rows are."""

    state: GalleryState
    index: VectorIndex
    rows: _Rows


class LiveSnapshot:
    """What a `LiveIndex` held at one moment; costs memory or disk until it is released."""

    def __init__(self, space: _Space, pinned: Snapshot) -> None:
        self.space, self.pinned = space, pinned

    def release(self) -> None:
        """Give up what was kept; a search with this snapshot is an error from now on."""
        self.pinned.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()


class LiveIndex:
    """Searches a gallery; any thread may search while one of them refreshes.

    Of a persistent backend one process keeps the files in step, the first to open it; others see
    what that one has written.

    Args:
        gallery_folder: Of the gallery.
        backend: Of the index; the gallery's own if absent.

    Raises:
        FileNotFoundError: There is no gallery.
        ValueError: The gallery is damaged, the backend unknown or its extra not installed, or
            another process is building the index.
    """

    def __init__(self, gallery_folder: Path, backend: str | None = None) -> None:
        self.folder = Path(gallery_folder)
        self._gallery = Gallery.open(self.folder, "r")
        self._backend = backend or self._gallery.state.backend
        self._refreshing = threading.Lock()
        self._lock: WriterLock | None = None
        self._keeps = True
        self._space, self._since = self._open()
        self.refresh()
        if self._keeps and self.count() != len(self._gallery.live_rows()):
            self._reload(self._gallery.sequence)  # somebody has changed the files
        self._write_mark()

    @property
    def card(self) -> ModelCard:
        """Return the model that queries must come from."""
        return self._space.state.serving_card

    @property
    def state(self) -> GalleryState:
        """Return the gallery's state, as far as the index has followed it."""
        return self._space.state

    def count(self) -> int:
        """Return the number of vectors."""
        return self._space.index.count()

    def check_query(self, stamp: ModelCard | str) -> None:
        """Refuse queries of another model than `card`, given its card or `weights_sha256`.

        The model may change before the search; `search` with the stamp cannot be overtaken.

        Raises:
            ValueError: It is another model.
        """
        check_stamp(stamp, self.card)

    def refresh(self) -> int:
        """Bring what the gallery's writer has done since; return how many changes there were.

        Raises:
            ValueError: The gallery is damaged.
        """
        with self._refreshing:
            changes = 0
            before = self._since
            for change in self._gallery.follow(self._since):
                self._apply(change)
                changes += 1
            if self._is_of_other_gallery():
                self._reload(self._gallery.sequence)
                changes += 1
            self._space = replace(self._space, state=self._gallery.state)
            if self._since != before:
                self._write_mark()
            return changes

    def search(
        self,
        queries: NDArray[np.floating],
        k: int,
        *,
        exact: bool = False,
        snapshot: LiveSnapshot | None = None,
        stamp: ModelCard | str | None = None,
    ) -> list[list[Hit]]:
        """Return the k nearest items of each query, nearest first.

        A hit on an item that is being replaced during this very search may bear the name of its
        coming vector.

        Args:
            queries: Embeddings `[Q, d]` of the model of `card`.
            k: Length of the lists, shorter where the gallery has fewer items.
            exact: No approximation, even where the backend has one.
            snapshot: Search what there was then.
            stamp: Model of the queries, its card or `weights_sha256`; it is compared with that of
                the very vectors that are searched.

        Raises:
            ValueError: Queries or k are not usable, they are of another model, or the snapshot is
                released.
        """
        space = self._space if snapshot is None else snapshot.space
        if stamp is not None:
            check_stamp(stamp, space.state.serving_card)
        pinned = None if snapshot is None else snapshot.pinned
        found = space.index.search(queries, k, snapshot=pinned, exact=exact)
        return [self._hits(space, found, number) for number in range(len(found.rows))]

    def snapshot(self) -> LiveSnapshot:
        """Pin what the index holds now, to search it as often as one likes."""
        with self._refreshing:  # names and vectors of one moment
            space = self._space
            named = _Space(space.state, space.index, space.rows.copy())
            return LiveSnapshot(named, space.index.snapshot())

    def close(self) -> None:
        """Let go of memory and files; searches that run must have ended."""
        with self._refreshing:
            self._space.index.close()
            if self._lock is not None:
                self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _open(self) -> tuple[_Space, int]:
        """Open the index of the space that is searched; return up to which change it is."""
        gallery = self._gallery
        state, since = gallery.state, gallery.sequence
        space = _Space(state, self._open_index(state), self._rows())
        if not space.index.persistent:
            rebuild(space.index, gallery.batches())
            return space, since
        self._take_lock()
        seen = self._read_mark(state)
        if seen is None and not self._keeps:
            raise ValueError(f"{self._index_path(state)} is being built by another process; wait")
        if seen is not None:
            return space, seen
        rebuild(space.index, gallery.batches())
        return space, since

    def _open_index(self, state: GalleryState) -> VectorIndex:
        card = state.serving_card
        options = state.backend_options if self._backend == state.backend else {}
        path = self._index_path(state)
        return open_index(self._backend, path, dim=card.dim, metric=card.metric, **options)

    def _rows(self) -> _Rows:
        gallery = self._gallery
        return _Rows(gallery.state.names_of_versions(), gallery.versions(), gallery.vintages())

    def _apply(self, change: Change) -> None:
        if change.kind == "reload":
            self._reload(change.sequence)
            return
        space = self._space
        new_space = space.state.serving == "new"
        space.rows.added.update(zip(change.rows.tolist(), change.ids, strict=False))
        if change.vectors is not None:
            transformed = change.kind == "transformed"
            space.rows.change(change.rows, Version.TRANSFORMED if transformed else Version.NEW)
            if new_space and self._keeps:  # the old space has no new vectors
                space.index.upsert(change.rows, change.vectors)
        elif change.kind == "deleted" and self._keeps:
            space.index.delete(change.rows)
        self._since = change.sequence

    def _reload(self, sequence: int) -> None:
        """Read the whole gallery again, into another index where another space is searched now."""
        state, before = self._gallery.state, self._space
        same = state.serving == before.state.serving
        index = before.index if same else self._open_index(state)
        space = _Space(state, index, self._rows())
        if self._keeps:
            logger.info("reading all vectors of %s again", self.folder)
            rebuild(index, self._gallery.batches())
        # Only now: after a failure the next refresh reads everything again. The other index stays
        # alive for searches and snapshots that use it.
        self._space, self._since = space, sequence

    def _is_of_other_gallery(self) -> bool:
        """Return whether other vectors are searched now, or the folder's content was replaced."""
        now, mine = self._gallery.state, self._space.state
        return now.serving != mine.serving or now.generation < mine.generation

    def _hits(self, space: _Space, found: Hits, number: int) -> list[Hit]:
        there = found.rows[number] >= 0
        rows = found.rows[number][there].tolist()
        names = [space.rows.name(row, serving=space.state.serving) for row in rows]
        distances: Sequence[float] = found.distances[number][there].tolist()
        return [Hit(*hit) for hit in zip(self._ids(space, rows), distances, names, strict=True)]

    def _ids(self, space: _Space, rows: list[int]) -> list[str]:
        added = space.rows.added
        return [
            added[row] if row in added else self._gallery.id_of(np.array([row]))[0] for row in rows
        ]

    def _take_lock(self) -> None:
        if self._lock is not None:
            return
        try:
            self._lock = WriterLock(self.folder / FOLDER)
        except GalleryBusyError:
            self._keeps = False
            logger.info("another process keeps %s in step", self.folder / FOLDER)

    def _index_path(self, state: GalleryState) -> Path:
        return self.folder / FOLDER / f"{self._backend}-{state.serving}"

    def _mark_path(self, state: GalleryState) -> Path:
        return self._index_path(state).with_suffix(".json")

    def _read_mark(self, state: GalleryState) -> int | None:
        """Return up to which change the index on disk is; None where it must be built."""
        try:
            mark = json.loads(self._mark_path(state).read_bytes())
            same = mark["weights_sha256"] == state.serving_card.weights_sha256
            return int(mark["sequence"]) if same else None
        except (FileNotFoundError, KeyError, TypeError, ValueError):
            return None

    def _write_mark(self) -> None:
        space = self._space
        if space.index.persistent and self._keeps:
            mark = {
                "sequence": self._since,
                "weights_sha256": space.state.serving_card.weights_sha256,
            }
            atomic.write_json(self._mark_path(space.state), mark)

"""A new gallery, written beside its place and moved there whole."""

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastfill.gallery.columns import Columns, create_columns
from fastfill.gallery.failures import FAILURES
from fastfill.gallery.item_ids import IDS, check_ids
from fastfill.gallery.journal import Journal
from fastfill.gallery.lines import as_lines
from fastfill.gallery.state import (
    NO_RANK,
    GalleryState,
    Version,
    journal_path,
    write_state,
)
from fastfill.gallery.vectors import check_entering, require_good
from tenfold import atomic

_CHUNK = 65536


@dataclass(frozen=True, kw_only=True)
class Part:
    """Consecutive items of a gallery that is being made.

    Args:
        old: `[n, d_o]`, zero beyond the width of an item's own model.
        z: `[n, d_n]`, what the items are searched by.
        s: Log-variances `[n]`.
        side: `[n, d_s]`.
        vintage: Position of each item's model in the cards, `[n]`; 0 if absent.
        version: Of each item `[n]`, see `Version`; transformed if absent.
    """

    old: NDArray[Any]
    z: NDArray[Any]
    s: NDArray[Any]
    side: NDArray[Any] | None = None
    vintage: NDArray[Any] | None = None
    version: NDArray[Any] | None = None


def build_gallery(
    folder: Path,
    state: GalleryState,
    ids: Iterable[str],
    parts: Iterable[Part],
    *,
    order: NDArray[np.int64] | None = None,
) -> None:
    """Write a gallery of `ids` and the items in `parts`; all or nothing.

    Args:
        folder: Must not exist.
        state: Models and types; its counts are filled in.
        ids: One for each item.
        parts: The items in order.
        order: Rows in the order of embedding; by falling log-variance if absent.

    Raises:
        FileExistsError: `folder` is there.
        ValueError: Ids are double, vectors bad, or there are more or fewer of one than the other.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists; name another folder or delete it")
    ids = check_ids(ids)
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left_over in folder.parent.glob(f".{folder.name}{atomic.TEMPORARY}*"):
        shutil.rmtree(left_over)
    temporary = atomic.temporary_name(folder)
    temporary.mkdir()
    try:
        _fill(temporary, state, ids, parts, order)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    atomic.fsync_dir(folder.parent)


def array_parts(
    old: NDArray[Any],
    z: NDArray[Any],
    s: NDArray[Any],
    *,
    side: NDArray[Any] | None = None,
    vintage: NDArray[Any] | None = None,
    version: NDArray[Any] | None = None,
) -> Iterator[Part]:
    """Yield whole columns in parts; a memory map is read part by part.

    Raises:
        ValueError: They are of several lengths.
    """
    arrays = {"z": z, "s": s, "side": side, "vintage": vintage, "version": version}
    for name, array in arrays.items():
        if array is not None and len(array) != len(old):
            raise ValueError(f"{name} has {len(array)} rows, old has {len(old)}; give one an item")
    for start in range(0, len(old), _CHUNK):
        rows = slice(start, start + _CHUNK)
        rest = {name: None if array is None else array[rows] for name, array in arrays.items()}
        yield Part(old=old[rows], **rest)  # pyright: ignore[reportArgumentType]


def check_order(order: NDArray[Any], rows: int) -> NDArray[np.int64]:
    """Return an order of rows.

    Raises:
        ValueError: A row is there twice or does not exist.
    """
    order = np.asarray(order)
    if order.ndim != 1 or order.dtype.kind not in "iu":
        raise ValueError(f"an order must be row numbers [n], got {order.dtype} {list(order.shape)}")
    inside = not len(order) or (order.min() >= 0 and order.max() < rows)
    if not inside or np.bincount(order, minlength=1).max() > 1:
        raise ValueError(f"an order must hold rows of 0..{rows - 1}, each once at most")
    return order.astype(np.int64)


def ranks_of(order: NDArray[np.int64], rows: int) -> NDArray[np.uint32]:
    """Return the rank of every row; those that the order leaves out have none."""
    ranks = np.full(rows, NO_RANK, dtype=np.uint32)
    ranks[order] = np.arange(len(order), dtype=np.uint32)
    return ranks


def _fill(
    folder: Path,
    state: GalleryState,
    ids: list[str],
    parts: Iterable[Part],
    order: NDArray[np.int64] | None,
) -> None:
    columns = create_columns(folder, state.specs, capacity=max(len(ids), 1))
    rows = 0
    for part in parts:
        rows += len(part.old)
        if rows > len(ids):
            raise ValueError(f"there are {len(ids)} ids but more vectors; give one id a vector")
        _write_part(columns, state, part, rows - len(part.old))
    if rows < len(ids):
        raise ValueError(f"there are {len(ids)} ids but {rows} vectors; give one id a vector")
    if order is None:
        order = np.argsort(-columns["s"][:rows], kind="stable")
    columns["rank"][:rows] = ranks_of(check_order(order, rows), rows)
    columns.flush()
    text = as_lines(ids)
    atomic.write_bytes(folder / IDS, text)
    atomic.write_bytes(folder / FAILURES, b"")
    (folder / "pending").mkdir()
    Journal.create(journal_path(folder, 0), base=0).close()
    write_state(folder, replace(state, rows=rows, ids_bytes=len(text)))


def _write_part(columns: Columns, state: GalleryState, part: Part, start: int) -> None:
    count, cards = len(part.old), state.cards
    old = np.asarray(part.old)
    if old.shape != (count, cards.old_dim):
        raise ValueError(f"old must be [n, {cards.old_dim}], got {list(old.shape)}")
    checked = check_entering(
        part.z, dim=cards.new.dim, metric=cards.new.metric, dtype=state.dtype, what="z"
    )
    if not np.isfinite(old.astype(state.dtype)).all():
        raise ValueError(f"old embeddings from row {start} on are not finite as {state.dtype}")
    s = np.asarray(part.s, dtype=np.float32)
    if s.shape != (count,) or not np.isfinite(s).all():
        raise ValueError(f"s must be {count} finite numbers, got {list(s.shape)}")
    vintage = np.zeros(count, dtype=np.int64) if part.vintage is None else part.vintage
    if count and not (np.min(vintage) >= 0 and np.max(vintage) < len(cards.old)):
        raise ValueError(f"vintage must lie in 0..{len(cards.old) - 1}")
    if (part.side is not None) != bool(state.side_dim):
        raise ValueError("side must be given exactly where the gallery has side information")
    values = {
        "vec": require_good(checked, what=f"transformed vectors from row {start} on"),
        "old": old,
        "s": s,
        "vintage": vintage,
        "version": Version.TRANSFORMED if part.version is None else part.version,
    }
    if part.side is not None:
        values["side"] = part.side
    rows = slice(start, start + count)
    for name, value in values.items():
        columns[name][rows] = value

"""The verbs that look at a gallery, steer its backfill, and change its items. Free of torch."""

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from fastfill.card import check_same
from fastfill.gallery.control import read_control, set_paused, set_rate
from fastfill.gallery.gallery import Gallery
from fastfill.gallery.lock import GalleryBusyError
from fastfill.gallery.pending import Message, submit
from fastfill.gallery.reading import GalleryReader
from fastfill.gallery.state import read_state
from fastfill.gallery.status import as_json, as_table
from fastfill.gallery.vector_files import read_card, read_ids, read_vectors
from fastfill.gallery.vectors import check_entering, require_good


def status(gallery: Path, *, json: bool = False, failures: int = 10) -> None:
    """Print how far the backfill of a gallery is, how fast, and what failed.

    Args:
        gallery: Folder of the gallery.
        json: Print it as JSON, for programs.
        failures: Most failed items to list.

    Raises:
        FileNotFoundError: There is no gallery.
        ValueError: It is damaged.
    """
    reader = GalleryReader(gallery)
    if json:
        Console().print_json(data=as_json(reader, failures=failures))
        return
    console = Console(soft_wrap=True, markup=False)
    console.print(as_table(reader))
    for failure in reader.failures()[:failures]:
        console.print(f"failed {failure.attempts} times: {failure.id!r}: {failure.reason}")


def pause(gallery: Path) -> None:
    """Let a running backfill stop after the batches in flight; queries go on.

    Args:
        gallery: Folder of the gallery.

    Raises:
        FileNotFoundError: There is no gallery.
    """
    read_state(gallery)
    set_paused(gallery, paused=True)
    _say(f"{gallery}: paused")


def resume(gallery: Path, *, rate: float | None = None) -> None:
    """Let a paused backfill go on.

    Args:
        gallery: Folder of the gallery.
        rate: Most items a second from now on; as before if absent.

    Raises:
        FileNotFoundError: There is no gallery.
        ValueError: `rate` is not > 0.
    """
    read_state(gallery)
    if rate is not None:
        set_rate(gallery, rate)
    control = set_paused(gallery, paused=False)
    limit = "no limit" if control.rate is None else f"at most {control.rate:g} items/s"
    _say(f"{gallery}: not paused, {limit}")


def rollback(
    gallery: Path,
    *,
    to: Literal["transformed", "old", "new"] = "transformed",
    h: list[Path] | Path | None = None,
    device: str = "cpu",
) -> None:
    """Go back to the vectors of h or to the old model's, and pause the backfill.

    To `old` the gallery is searched with the old model again and keeps what was embedded; items
    added since are not found. `new` goes forward from there, to the new model and all vectors that
    were kept; whether the backfill is paused stays as it is. To `transformed` drops the new
    model's vectors of old items, which wait again.

    Args:
        gallery: Folder of the gallery.
        to: `transformed`, `old` or `new`.
        h: The maps that the gallery was made with, needed for `transformed`.
        device: Where h runs.

    Raises:
        FileNotFoundError: There is no gallery.
        ValueError: The gallery is finalised or being written, or `h` is missing or another map.
    """
    if to == "transformed" and h is None:
        raise ValueError("rolling back to transformed needs h, the map the gallery came from")
    body = f'{{"to": "{to}"}}'
    instead = f"If that is serve, roll back through it: POST {body} to its /api/rollback"
    with Gallery.open_alone(gallery, instead=instead) as open_gallery:
        if to == "transformed" and h is not None:
            changed = _to_transformed(open_gallery, h if isinstance(h, list) else [h], device)
        elif to == "old":
            set_paused(gallery, paused=True)
            changed = open_gallery.rollback("old")
        else:
            changed = open_gallery.rollback("new")
        name = open_gallery.state.serving_card.name
    done = "back again" if to == "new" else "rolled back"
    paused = "; the backfill is paused" if read_control(gallery).paused else ""
    _say(f"{gallery}: {changed:,} items {done}, searched with {name}{paused}")


def finalise(gallery: Path, *, force: bool = False) -> None:
    """Remove old embeddings, side information and order; no roll-back after this.

    Args:
        gallery: Folder of the gallery.
        force: Even while items are left, which keep the vectors of h for good.

    Raises:
        FileNotFoundError: There is no gallery.
        ValueError: Items are left, or another process writes the gallery.
    """
    instead = "If that is serve, end it, finalise, and start it again: it has no such request"
    with Gallery.open_alone(gallery, instead=instead) as open_gallery:
        open_gallery.apply_pending()
        open_gallery.finalise(force=force)
        counts = open_gallery.counts()
    _say(f"{gallery}: final, {counts.new:,} of {counts.live:,} items have the new model's vector")


def add_items(gallery: Path, *, vectors: Path, ids: Path, card: Path | None = None) -> None:
    """Add items that the new model has embedded; also while a backfill runs.

    Args:
        gallery: Folder of the gallery.
        vectors: Embeddings of the new model, `*.npy` `[n, d_n]`.
        ids: A text file with an id a line.
        card: Card of the model that made them; `<vectors>.card.json` if absent.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: Another model made the vectors, one is bad, or an id is there already.
    """
    state = read_state(gallery)
    new = state.cards.new
    found = read_card(card, beside=vectors)
    if found is None:
        raise FileNotFoundError(
            f"no card says which model made {vectors}; give the one that embed wrote in card"
        )
    check_same(new, found, what="the items' model")
    names, array = read_ids(ids), np.asarray(read_vectors(vectors), dtype=np.float32)
    checked = check_entering(array, dim=new.dim, metric=new.metric, dtype=state.dtype)
    require_good(checked, what="items")
    if len(names) != len(array):
        raise ValueError(f"{ids} has {len(names)} lines for {len(array)} vectors; give one an item")
    _change(gallery, Message(kind="add", ids=names, vectors=array))


def delete_items(gallery: Path, *, ids: Path) -> None:
    """Delete items and erase their vectors; also while a backfill runs.

    Args:
        gallery: Folder of the gallery.
        ids: A text file with an id a line.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: An item does not exist.
    """
    _change(gallery, Message(kind="delete", ids=read_ids(ids)))


def _change(folder: Path, message: Message) -> None:
    """Change items now, or leave it to the process that writes the gallery."""
    done = "added" if message.kind == "add" else "deleted"
    try:
        with Gallery.open(folder, "w") as gallery:
            gallery.apply_pending()  # what came first
            if message.vectors is not None:
                gallery.add(message.ids, message.vectors)
            else:
                gallery.delete(message.ids)
    except GalleryBusyError:
        _check_message(GalleryReader(folder), message)
        submit(folder, message)
        _say(f"{folder}: {len(message.ids):,} items will be {done} by the running backfill")
    else:
        _say(f"{folder}: {len(message.ids):,} items {done}")


def _check_message(gallery: GalleryReader, message: Message) -> None:
    for item in message.ids:
        if message.kind == "delete":
            gallery.row_of(item)
        elif item in gallery:
            raise ValueError(f"item {item!r:.80} is there already")


def _to_transformed(gallery: Gallery, paths: list[Path], device: str) -> int:
    from fastfill.gallery.maps import GalleryMaps  # needs torch

    maps = GalleryMaps(paths, device=device)
    maps.check_those_of(gallery.state.cards)

    def z(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        side = gallery.column("side")[rows] if gallery.state.side_dim else None
        return maps.transform(gallery.column("old")[rows], side, gallery.vintages()[rows])[0]

    set_paused(gallery.folder, paused=True)  # first: nobody begins another batch
    return gallery.rollback("transformed", z=z)


def _say(text: str) -> None:
    Console(soft_wrap=True, markup=False).print(text)

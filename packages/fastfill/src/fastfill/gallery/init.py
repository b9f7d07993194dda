"""The verb `init-gallery`: old vectors and a map to a gallery that can be searched at once."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from fastfill.card import ModelCard, check_same
from fastfill.gallery.build import Part, build_gallery
from fastfill.gallery.maps import GalleryMaps
from fastfill.gallery.reading import GalleryReader
from fastfill.gallery.state import Dtype, GalleryState
from fastfill.gallery.vector_files import read_card, read_ids, read_vectors
from fastfill.index import check_backend
from fastfill.vector_checks import check_vectors

LOG = logging.getLogger(__name__)

_CHUNK = 65536


def init_gallery(
    out: Path,
    *,
    vectors: Path,
    ids: Path,
    h: list[Path] | Path,
    side: Path | None = None,
    vintages: Path | None = None,
    old_card: Path | None = None,
    unknown_old: bool = False,
    backend: str = "faiss-flat",
    dtype: Dtype = "float32",
    device: str = "cpu",
) -> None:
    """Make a gallery: every old vector goes through h, and the most uncertain items come first.

    All or nothing: a run that is killed leaves no gallery. The metric is that of the new model.

    Args:
        out: Folder of the gallery; must not exist.
        vectors: Old embeddings, `*.npy` `[N, d_o]`.
        ids: A text file with an id a line, in the order of the vectors.
        h: The map, or several for a gallery of several old models: a file, a checkpoint or a run
            folder of `fit`. Maps v1 -> v2 and v2 -> v3 are chained.
        side: Side information, `*.npy` `[N, d_s]`, where h takes it.
        vintages: A text file with the name of each item's old model, where there are several.
        old_card: Card of the model that made the vectors; `<vectors>.card.json` if that is there.
        unknown_old: Take vectors of which no card and no `vintages` say where they come from for
            those of h's old model, with a warning.
        backend: Of the index: `faiss-flat`, `faiss-ivf`, `lancedb`.
        dtype: Of the stored vectors, `float32` or `float16`.
        device: Where h runs: `cpu`, `cuda` or `cuda:<n>`.

    Raises:
        FileExistsError: `out` is there.
        FileNotFoundError: A file is missing.
        ValueError: Ids are double, vectors are bad or of another model than h's, or it is not known
            which model they or some items come from.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists; name another folder or delete it")
    check_backend(backend)
    maps = GalleryMaps(h if isinstance(h, list) else [h], device=device)
    old = read_vectors(vectors)
    card = read_card(old_card, beside=vectors)
    vintage = _vintages(maps, vintages, card, len(old), unknown_old=unknown_old)
    _check_old(maps, old, vintage, what=str(vectors))
    side_vectors = _side(maps, side, len(old))
    state = GalleryState(
        cards=maps.cards,
        backend=backend,
        dtype=dtype,
        side_dim=0 if side_vectors is None else side_vectors.shape[1],
    )
    parts = _parts(maps, old, side_vectors, vintage, dtype)
    build_gallery(out, state, read_ids(ids), parts)
    _report(out)


def _vintages(
    maps: GalleryMaps, path: Path | None, card: ModelCard | None, count: int, *, unknown_old: bool
) -> NDArray[np.int64]:
    """Return the position of each item's old model."""
    models = maps.cards.old
    if path is None:
        return np.full(count, _only_vintage(maps, card, unknown_old=unknown_old), dtype=np.int64)
    if card is not None:
        raise ValueError("give vintages or a card of one old model, not both")
    names = read_ids(path)
    known = {model.name: number for number, model in enumerate(models)}
    if len(known) < len(models):
        raise ValueError("two old models have the same name; vintages cannot tell them apart")
    if len(names) != count:
        raise ValueError(f"{path} has {len(names)} lines for {count} vectors; give one an item")
    if unknown := sorted(set(names) - known.keys()):
        raise ValueError(
            f"{path} names {', '.join(map(repr, unknown[:3]))}, for which there is no map; maps "
            f"start from {', '.join(known)}"
        )
    return np.array([known[name] for name in names], dtype=np.int64)


def _only_vintage(maps: GalleryMaps, card: ModelCard | None, *, unknown_old: bool) -> int:
    """Return the model that all items come from."""
    models = maps.cards.old
    if card is None:
        if len(models) > 1:
            raise ValueError(
                f"there are maps from {len(models)} old models; say in vintages which item is of "
                "which, or name the one model in old_card"
            )
        name = next(iter(models)).name
        if not unknown_old:
            raise ValueError(
                "no card says which model made the vectors; give it in old_card, or set "
                f"unknown_old true if you are sure that it was {name}"
            )
        LOG.warning("no card says which model made the vectors; they are taken for %s's", name)
        return 0
    for number, model in enumerate(models):
        if model.weights_sha256 == card.weights_sha256:
            check_same(model, card, what="the old vectors' model")
            return number
    check_same(models[0], card, what="the old vectors' model")
    raise AssertionError("cards of other weights are refused")


def _check_old(
    maps: GalleryMaps, old: NDArray[Any], vintage: NDArray[np.int64], *, what: str
) -> None:
    if old.shape[1] < maps.cards.old_dim and len(maps.cards.old) > 1:
        raise ValueError(f"{what} must be {maps.cards.old_dim} wide, padded with zeros")
    for number, card in enumerate(maps.cards.maps):
        rows = vintage == number
        if card is None or not rows.any():
            continue
        mine = old if rows.all() else old[rows]
        if len(maps.cards.old) > 1:
            mine = mine[:, : card.old.dim]
        check_vectors(card.old_stats, mine, what=what)


def _side(maps: GalleryMaps, path: Path | None, count: int) -> NDArray[Any] | None:
    card = maps.cards.side
    if path is None or card is None:
        if (path is None) != (card is None):
            takes = "no side information" if card is None else f"side information of {card.name}"
            raise ValueError(f"h takes {takes}; side must be given exactly when it takes some")
        return None
    side = read_vectors(path)
    if side.shape != (count, card.dim):
        raise ValueError(f"{path} must be [{count}, {card.dim}], got {list(side.shape)}")
    if (found := read_card(None, beside=path)) is not None:
        check_same(card, found, what="the side information's model")
    return side


def _parts(
    maps: GalleryMaps,
    old: NDArray[Any],
    side: NDArray[Any] | None,
    vintage: NDArray[np.int64],
    dtype: Dtype,
) -> Iterator[Part]:
    for start in range(0, len(old), _CHUNK):
        rows = slice(start, start + _CHUNK)
        # As they are stored: a roll-back then finds the same z again.
        stored = np.zeros((len(vintage[rows]), maps.cards.old_dim), dtype=dtype)
        stored[:] = old[rows][:, : maps.cards.old_dim]
        stored_side = None if side is None else side[rows].astype(dtype)
        z, s = maps.transform(stored, stored_side, vintage[rows])
        LOG.info("%d of %d vectors went through h", min(start + _CHUNK, len(old)), len(old))
        yield Part(old=stored, z=z, s=s, side=stored_side, vintage=vintage[rows])


def _report(out: Path) -> None:
    gallery = GalleryReader(out)
    s = gallery.column("s")
    if len(s) > 1 and s.min() == s.max():
        LOG.warning(
            "h gives all items the same variance, so the order is that of the file; choose another "
            "with plan, such as entropy"
        )
    cards = gallery.state.cards
    models: Sequence[str] = [card.name for card in cards.old]
    Console(soft_wrap=True, markup=False).print(
        f"{out}: {gallery.size:,} items of {', '.join(models)}, searchable with {cards.new.name} "
        f"({gallery.dim} wide, {cards.new.metric}, {gallery.state.backend})"
    )

"""The verb `query`: search a gallery once, from the command line."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from fastfill.config import Metric
from fastfill.gallery import Gallery, GalleryState
from fastfill.gallery.vector_files import read_card
from fastfill.live_index import Hit, LiveIndex


def query(
    gallery: Path,
    *,
    image: Path | None = None,
    text: str | None = None,
    vector: Path | None = None,
    model: str | None = None,
    card: Path | None = None,
    metric: Metric | None = None,
    k: int = 10,
    backend: str | None = None,
    exact: bool = False,
    device: str = "cpu",
    json: bool = False,
) -> None:
    """Print the items of a gallery nearest to an image, a text or a vector.

    Each hit says whether its vector is transformed or the new model's. A query of another model
    than the gallery is searched with is refused.

    Args:
        gallery: Folder of the gallery.
        image: File of an image.
        text: A text.
        vector: Embeddings, `.npy` `[d]` or `[Q, d]`, as `embed` writes them.
        model: The gallery's model, for an image or a text: a run folder, checkpoint or weights of
            `fit-backbone`, `timm:<model>`, or `open_clip:<model>:<tag or file>` (`:text` for
            texts).
        card: Card of the model that made `vector`; `<vector>.card.json` if absent.
        metric: Of a model that does not say itself, as `embed` takes it.
        k: Length of the list.
        backend: Of the index; the gallery's own if absent.
        exact: No approximation, even where the backend has one.
        device: Where the model runs.
        json: Print JSON, for programs.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: Not exactly one query is given, it is of another model, or a file is damaged.
    """
    given = {"image": image, "text": text, "vector": vector}
    if sum(value is not None for value in given.values()) != 1:
        raise ValueError("give one query: image, text or vector")
    if k < 1:
        raise ValueError(f"k must be >= 1, got {k}")
    gallery = Path(gallery)
    reader = Gallery.open(gallery, "r")  # refuses before an index is built
    if vector is not None:
        queries = _vectors(reader, vector, card)
    else:
        queries = _embedded(reader, image, text or "", model=model, metric=metric, device=device)
    with LiveIndex(gallery, backend) as live:
        found = live.search(queries, k, exact=exact)
        _say(live.state, found, json=json)


def kind_of(version: str, state: GalleryState) -> str:
    """Return `new`, `transformed` or `old` for the name of a vector's version."""
    if state.serving == "old":
        return "old"
    if version == state.cards.new.name:
        return "new"
    return "transformed" if version.startswith("h(") else "old"


def _vectors(gallery: Gallery, path: Path, card: Path | None) -> NDArray[np.float32]:
    found = read_card(card, beside=path)
    if found is None:
        raise FileNotFoundError(
            f"no card says which model made {path}; give the one that embed wrote in card"
        )
    gallery.check_query_version(found)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: expected vectors, .npy [d] or [Q, d]")
    try:
        array = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise ValueError(f"{path} is no array of numbers: {error}") from None
    array = array[None] if array.ndim == 1 else array
    if array.ndim != 2 or array.shape[1] != gallery.dim or array.dtype.kind != "f":
        raise ValueError(
            f"{path} must be floating [d] or [Q, d] with d {gallery.dim}, got {array.dtype} "
            f"{list(array.shape)}"
        )
    return np.ascontiguousarray(array, dtype=np.float32)


def _embedded(
    gallery: Gallery,
    image: Path | None,
    text: str,
    *,
    model: str | None,
    metric: Metric | None,
    device: str,
) -> NDArray[np.float32]:
    if model is None:
        name = gallery.state.serving_card.name
        raise ValueError(f"model is missing: name the one the gallery is searched with, {name}")
    from fastfill.encoders import load_encoder
    from fastfill.image_sources import decode_image

    encoder = load_encoder(model, device=device, metric=metric, batch_size=1)
    gallery.check_query_version(encoder.card)
    if image is None:
        return encoder.embed_texts([text])
    if not image.is_file():
        raise FileNotFoundError(f"{image} does not exist: expected an image")
    return encoder.embed_images([decode_image(image.read_bytes(), str(image))])


def _say(state: GalleryState, found: list[list[Hit]], *, json: bool) -> None:
    lists = [[_entry(rank, hit, state) for rank, hit in enumerate(hits, start=1)] for hits in found]
    if json:
        Console().print_json(data={"model": state.serving_card.name, "queries": lists})
        return
    for number, entries in enumerate(lists):
        title = f"query {number}" if len(lists) > 1 else None
        table = Table("rank", "id", "distance", "vintage", "vector of", title=title)
        for entry in entries:
            distance = f"{entry['distance']:.6g}"
            table.add_row(
                str(entry["rank"]), entry["id"], distance, entry["vintage"], entry["version"]
            )
        Console(markup=False, soft_wrap=True).print(table)


def _entry(rank: int, hit: Hit, state: GalleryState) -> dict[str, Any]:
    return {
        "rank": rank,
        "id": hit.id,
        "distance": hit.distance,
        "vintage": kind_of(hit.version, state),
        "version": hit.version,
    }

"""Drawings with noisy web captions, and what a captioner may say of them (spec 7a).

A web caption names what is drawn, or something else, or nothing. A captioner tells aspects, which
are cleaner than the web but less specific than the name. Free of torch.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tenfold import keyed

WRONG, EMPTY = 0.3, 0.3
"""Shares of web captions that name something else, and that are without content."""
EMPTY_CAPTIONS = (
    "click here",
    "photo of the day",
    "untitled image",
    "best price and free shipping",
    "image 1234",
    "see more",
)
NUM_CAPTIONS = 5

Aspects = tuple[str, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Drawings:
    """Drawings of one part.

    Attributes:
        images: uint8 `[N, 32, 32]`, ink 255 on 0.
        label: int64 `[N]`, indices into `names`.
        keys: One key a drawing.
        names: The classes.
    """

    images: NDArray[np.uint8]
    label: NDArray[np.int64]
    keys: tuple[str, ...]
    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A kind of drawings.

    Attributes:
        load: Draws the part `web`, `teaching` or `test` of the first so many classes.
        templates: Web captions of a name.
        aspects: What a captioner may tell of a name; the first aspect is the kind.
        say: `NUM_CAPTIONS` captions that tell aspects.
        kind_templates: Captions of a kind.
    """

    load: Callable[[str, int], Drawings]
    templates: tuple[str, ...]
    aspects: Callable[[str], Aspects]
    say: Callable[[Aspects], list[str]]
    kind_templates: tuple[str, ...]


def web_captions(source: Source, drawn: Drawings, *, seed: int) -> list[str]:
    """Return one noisy caption a drawing."""
    return [
        _web_caption(source, keyed.generator("web caption", seed, key), drawn.names, label)
        for key, label in zip(drawn.keys, drawn.label, strict=True)
    ]


def clean_captions(source: Source, drawn: Drawings, *, seed: int) -> list[str]:
    """Return one caption a drawing that names it."""
    return [
        str(keyed.generator("clean caption", seed, key).choice(source.templates)).format(
            drawn.names[label]
        )
        for key, label in zip(drawn.keys, drawn.label, strict=True)
    ]


def _web_caption(
    source: Source, rng: np.random.Generator, names: tuple[str, ...], label: int
) -> str:
    luck = rng.random()
    if WRONG <= luck < WRONG + EMPTY:
        return str(rng.choice(EMPTY_CAPTIONS))
    other = (label + int(rng.integers(1, len(names)))) % len(names)
    name = names[other] if luck < WRONG else names[label]
    return str(rng.choice(source.templates)).format(name)


def samples(drawn: Drawings, captions: list[str]) -> Iterator[dict[str, Any]]:
    """Yield webdataset samples of drawings and their captions; `json` has the name."""
    for image, label, key, caption in zip(
        drawn.images, drawn.label, drawn.keys, captions, strict=True
    ):
        about = {"uid": key, "name": drawn.names[label]}
        yield {"__key__": key, "png": _png(image), "txt": caption, "json": about}


def _png(image: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()

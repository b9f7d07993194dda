"""The counts that `shared/DEMO_DATA.md` shows, as Markdown tables."""

from collections.abc import Iterable, Sequence
from typing import get_args

import numpy as np

from tenfold.demo_data import characters, documents, glyph_faces, glyphs, photos, timeline


def tables() -> str:
    """Return all tables; extracts the docstrings when they are not in the cache yet."""
    return "\n".join([document_table(), glyph_table(), timeline_table(), photo_table()])


def document_table() -> str:
    """Return one line for each kind and split of `documents`."""
    rows = []
    for kind in get_args(documents.Kind):
        whole = documents.load(kind, "all")
        for split in ("train", "heldout"):
            part = [item for item in whole if documents.split_of(item.path) == split]
            lengths = [len(item.text) for item in part]
            size = sum(len(item.text.encode()) for item in part) / 1e6
            percentiles = " / ".join(f"{p:,.0f}" for p in np.percentile(lengths, [10, 50, 90, 99]))
            files = len({item.path for item in part})
            numbers = f"{files:,}", f"{len(part):,}", f"{size:.2f}", f"{np.mean(lengths):,.0f}"
            rows.append((kind, split, *numbers, percentiles))
    header = ("documents", "split", "files", "documents", "MB", "mean characters")
    return _table((*header, "percentiles 10 / 50 / 90 / 99"), rows)


def glyph_table() -> str:
    """Return one line for each split of `glyphs`."""
    alphabet = characters.alphabet()
    pairs = [
        (face, alphabet[characters.character_ids()[text]])
        for face in glyph_faces.FACES
        for text in glyph_faces.drawable(face.name)
    ]
    rows = []
    for split in get_args(glyphs.Split):
        part = [
            (face, character)
            for face, character in pairs
            if split in ("all", glyphs.split_of(face, character))
        ]
        found = {character for _, character in part}
        words = {word for item in found for word in item.caption.replace("-", " ").split()}
        faces = len({face.name for face, _ in part})
        rows.append((split, str(faces), f"{len(found):,}", f"{len(words):,}", f"{len(part):,}"))
    return _table(("glyphs", "faces", "characters", "caption words", "pairs"), rows)


def timeline_table() -> str:
    """Return the characters that each step of `timeline` brings."""
    totals = timeline.counts(character.text for character in characters.alphabet())
    rows = [(str(step), f"{total:,}") for step, total in zip(timeline.STEPS, totals, strict=True)]
    return _table(("timeline step", "new characters"), rows)


def photo_table() -> str:
    """Return size, origin and licence of each of `photos`."""
    rows = []
    for name in photos.names():
        photo = photos.PHOTOS[name]
        height, width = photos.load(name).shape[:2]
        everyday = "yes" if photo.everyday else ""
        rows.append((name, f"{height} x {width}", everyday, photo.library, photo.licence))
    return _table(("photo", "pixels", "used for crops", "wheel", "licence"), rows)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)

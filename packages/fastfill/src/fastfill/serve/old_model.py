"""Whether an old model still gives the vectors that a gallery keeps of it."""

import logging

import numpy as np

from fastfill.card import Probe, check_probe
from fastfill.encoders import Encoder
from fastfill.gallery import GalleryReader
from fastfill.originals import OriginalError, Source
from fastfill.vector_checks import PROBE_ITEMS

logger = logging.getLogger(__name__)


def check_old_model(gallery: GalleryReader, encoder: Encoder, source: Source) -> None:
    """Embed some items anew and compare them with the old vectors that the gallery keeps.

    Equal weights do not make equal vectors: preprocessing is part of a model, too.

    Raises:
        ValueError: Vectors differ.
    """
    if gallery.state.phase == "final" or source.kind != encoder.kind:
        return
    vintages, stored, found = gallery.vintages(), [], []
    for item in source.ids():
        if len(stored) == PROBE_ITEMS:
            break
        if item not in gallery or vintages[row := gallery.row_of(item)] != 0:
            continue
        try:
            original = source.load(item)
        except OriginalError as error:
            logger.debug("not compared: %s", error)
            continue
        found.append(encoder.embed_prepared([encoder.prepare(original)])[0])
        stored.append(gallery.column("old")[row, : encoder.card.dim].astype(np.float64).tolist())
    if not stored:
        logger.warning("no original of %s is there to compare the old model by", source.name)
        return
    check_probe(Probe(stored), np.stack(found), what="old model")

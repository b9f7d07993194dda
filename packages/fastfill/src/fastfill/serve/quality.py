"""The measured quality curve: mean average precision of some labelled items while all goes on.

Queries are originals that the gallery holds too, embedded by the new model; each is left out of its
own ranking (spec 4). `plan.json` holds what was expected, see `predicted_curve`.
"""

import json
import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastfill.evaluation.metrics import retrieval
from fastfill.gallery import Gallery, GalleryReader
from fastfill.gallery.status import PLAN
from fastfill.originals import Original, OriginalError, Source
from tenfold import atomic, keyed

logger = logging.getLogger(__name__)

MEASURED = "measured.json"
MAP = "map"
"""Mean average precision, the quality that is measured."""
QUERIES = 200
"""Most labelled items that are queries."""
STEP = 0.05
"""Share of items that must change before quality is measured again."""
POLL_S = 2.0

Point = tuple[float, float]


class Prediction(NamedTuple):
    """What `plan` expects.

    Attributes:
        quality: What it is: `map`, or something else that has another scale.
        points: Pairs of the share done and the quality.
    """

    quality: str
    points: list[Point]


def predicted_curve(folder: Path) -> Prediction:
    """Return what `plan` expects; no points without a plan.

    Raises:
        ValueError: The plan is damaged.
    """
    path = folder / PLAN
    try:
        plan = json.loads(path.read_bytes())
        pairs = plan.get("predicted") or []
        points = sorted((float(share), float(quality)) for share, quality in pairs)
        if not np.isfinite(points).all():
            raise ValueError("a share or quality that is no number")
        return Prediction(str(plan.get("quality", MAP)), points)
    except FileNotFoundError:
        return Prediction(MAP, [])
    except (AttributeError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"{PLAN} is damaged ({error}); run plan again") from None


def measured_curve(folder: Path, *, model: str) -> list[Point]:
    """Return pairs of the share done and the mean average precision measured then.

    Args:
        folder: Of the gallery.
        model: `weights_sha256` of the new model; what was measured of another does not count.
    """
    try:
        value = json.loads((folder / MEASURED).read_bytes())
        points = [(float(share), float(quality)) for share, quality in value["points"]]
        return sorted(points) if value["model"] == model else []
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        return []  # it is only a measurement


class QualityMeter:
    """Measures as the backfill gets on, in a thread of its own.

    Args:
        folder: Of the gallery.
        source: Labelled originals.
        embed: Gives the new model's vectors `[n, d]` of originals.
        may_write: Whether this process is the one to note points.
    """

    def __init__(
        self,
        folder: Path,
        source: Source,
        embed: Callable[[Sequence[Original]], NDArray[np.float32]],
        *,
        may_write: Callable[[], bool],
    ) -> None:
        self.folder = folder
        self._source, self._embed, self._may_write = source, embed, may_write
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="quality", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Stop, after the measurement that runs."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            gallery = Gallery.open(self.folder, "r")
            labels = dict(zip(self._source.ids(), self._source.labels.tolist(), strict=True))
            queries = self._queries(gallery, labels)
            if queries is None:
                return
            while not self._stopping.wait(POLL_S if self._measured(gallery) else 0):
                gallery.refresh()
                if self._may_write() and self._is_due(gallery):
                    self._note(gallery, _quality(gallery, labels, *queries))
        except (OSError, ValueError):
            logger.exception("quality is not measured any more")

    def _measured(self, gallery: GalleryReader) -> list[Point]:
        return measured_curve(self.folder, model=gallery.state.cards.new.weights_sha256)

    def _queries(
        self, gallery: GalleryReader, labels: dict[str, int]
    ) -> tuple[list[str], NDArray[np.float32]] | None:
        """Embed a fixed sample of labelled items; None where there are none."""
        ids = sorted(item for item, label in labels.items() if label >= 0 and item in gallery)
        chosen = keyed.generator("measured-quality").permutation(len(ids))[:QUERIES]
        names, vectors = [], []
        for place in chosen.tolist():
            if self._stopping.is_set():
                return None
            try:
                vectors.append(self._embed([self._source.load(ids[place])]))
                names.append(ids[place])
            except OriginalError as error:
                logger.debug("no query: %s", error)
        return (names, np.concatenate(vectors)) if names else None

    def _is_due(self, gallery: GalleryReader) -> bool:
        if gallery.state.serving == "old":
            return False
        share = gallery.progress
        last = [point[0] for point in self._measured(gallery) if point[0] <= share]
        return not last or share - max(last) >= STEP or (share == 1 and max(last) < 1)

    def _note(self, gallery: GalleryReader, point: Point | None) -> None:
        if point is None:
            self._stopping.set()  # no query has a right answer: nothing to measure
            return
        # After a roll-back points beyond are of another time.
        points = [before for before in self._measured(gallery) if before[0] < point[0]]
        model = gallery.state.cards.new.weights_sha256
        content = {"metric": MAP, "model": model, "points": [*points, point]}
        atomic.write_json(self.folder / MEASURED, content)


def _quality(
    gallery: GalleryReader, labels: dict[str, int], names: list[str], vectors: NDArray[np.float32]
) -> Point | None:
    share, rows = gallery.progress, gallery.live_rows()
    ids = gallery.id_of(rows)
    place_of = {item: place for place, item in enumerate(ids)}
    kept = [number for number, name in enumerate(names) if name in place_of]
    wanted = np.array([labels[names[number]] for number in kept], dtype=np.int64)
    there = np.array([labels.get(item, -1) for item in ids], dtype=np.int64)
    selves = np.array([place_of[names[number]] for number in kept], dtype=np.int64)
    try:
        scores = retrieval(
            vectors[kept],
            gallery.vectors(rows),
            wanted,
            there,
            metric=gallery.state.cards.new.metric,
            self_rows=selves,
        )
    except ValueError as error:
        logger.warning("quality is not measured: %s", error)
        return None
    return share, scores.map

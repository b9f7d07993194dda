"""What a service answers with: gallery, index, models and originals together. No HTTP here."""

import logging
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastfill.card import ModelCard
from fastfill.encoders import Encoder
from fastfill.gallery import read_control, set_paused
from fastfill.gallery.status import as_json
from fastfill.live_index import Hit
from fastfill.originals import Original, OriginalError, Source
from fastfill.serve.errors import RequestError
from fastfill.serve.images import decode_upload, thumbnail
from fastfill.serve.keeper import Keeper
from fastfill.serve.quality import MAP, Prediction, QualityMeter, measured_curve, predicted_curve
from fastfill.serve.queries import MAX_K, Query, Target
from fastfill.serve.worker import BackfillWorker

if TYPE_CHECKING:
    from fastfill.gallery.maps import GalleryMaps

logger = logging.getLogger(__name__)


class Service:
    """Answers queries of a gallery while it is backfilled.

    Args:
        folder: Of the gallery.
        encoder: The gallery's new model.
        old_encoder: The old model, for queries while the gallery is rolled back to it.
        maps: The maps that the gallery was made with, to roll back to their vectors.
        source: Originals of the items.
        backend: Of the index; the gallery's own if absent.
        worker: A backfill to run.
        max_batch: Most queries of one request.

    Raises:
        FileNotFoundError: There is no gallery.
        ValueError: The gallery is damaged, or the backend not usable.
    """

    def __init__(
        self,
        folder: Path,
        encoder: Encoder,
        *,
        old_encoder: Encoder | None = None,
        maps: "GalleryMaps | None" = None,
        source: Source | None = None,
        backend: str | None = None,
        worker: BackfillWorker | None = None,
        max_batch: int = 256,
    ) -> None:
        self.folder, self.source, self.max_batch = folder, source, max_batch
        self._encoders = [encoder] if old_encoder is None else [encoder, old_encoder]
        self._maps = maps
        self._embedding = threading.Lock()
        self._worker = worker
        self._keeper = Keeper(folder, backend=backend, worker=worker)
        self._meter: QualityMeter | None = None
        if source is not None and source.kind == encoder.kind:
            self._meter = QualityMeter(
                folder,
                source,
                lambda originals: self._embed(encoder, originals),
                may_write=lambda: self._keeper.writes,
            )

    def start(self) -> None:
        """Begin to apply changes, to follow them, and to measure."""
        self._keeper.start()
        if self._meter is not None:
            self._meter.start()

    def close(self) -> None:
        """Make everything durable and let go; requests must have ended."""
        if self._meter is not None:
            self._meter.close()
        self._keeper.close()

    def status(self) -> dict[str, Any]:
        """Return what `fastfill status` tells, and the service's own state."""
        with self._keeper.view() as gallery:
            facts = as_json(gallery)
        card = self._keeper.live.card
        encoder = self._encoder_of(card)
        service = {
            "role": "writer" if self._keeper.writes else "reader",
            "problem": self._keeper.problem or facts["problem"],
            "worker": None if self._worker is None else self._worker.state,
            "indexed": self._keeper.live.count(),
            "model": {"name": card.name, "weights_sha256": card.weights_sha256, "dim": card.dim},
            "embeds": None if encoder is None else encoder.kind,
            "originals": None if self.source is None else self.source.kind,
            "max_batch": self.max_batch,
            "max_k": MAX_K,
        }
        return facts | {"service": service}

    def curve(self) -> dict[str, Any]:
        """Return the predicted and the measured curve, and how far the gallery is."""
        with self._keeper.view() as gallery:
            progress, model = gallery.progress, gallery.state.cards.new.weights_sha256
        measured = measured_curve(self.folder, model=model)
        problem = None
        try:
            predicted = predicted_curve(self.folder)
        except ValueError as error:
            predicted, problem = Prediction(MAP, []), str(error)
        return {
            "progress": progress,
            "problem": problem,
            "predicted_quality": predicted.quality,
            "predicted": predicted.points,
            "measured_quality": MAP,
            # Points beyond were measured before a roll-back.
            "measured": [point for point in measured if point[0] <= progress],
        }

    def pause(self, *, paused: bool) -> dict[str, Any]:
        """Pause the backfill of all workers, or let it go on."""
        return {"paused": set_paused(self.folder, paused=paused).paused}

    def rollback(self, to: Target) -> dict[str, Any]:
        """Go back to the vectors of h or the old model's, or forward again, as `rollback` does.

        Back pauses the backfill, and so the body of `POST /api/rollback` is `{"to": "old"}`,
        `{"to": "transformed"}` or, to go forward from the old model, `{"to": "new"}`.

        Raises:
            RequestError: Another process writes the gallery, it is final, or maps are missing, 409;
                or it cannot be written, 503.
        """
        maps = self._maps
        if to == "transformed" and maps is None:
            raise RequestError(409, "rolling back to transformed needs h: start serve with --h")
        try:
            changed = self._keeper.rollback(to, z=None if maps is None else maps.vectors_of)
        except ValueError as error:
            raise RequestError(409, str(error)) from error
        except OSError as error:
            logger.error("cannot roll back: %s", error)
            raise RequestError(503, "the gallery cannot be written; the log says why") from error
        return {
            "changed": changed,
            "model": self._keeper.live.card.name,
            "paused": read_control(self.folder).paused,
        }

    def search(self, query: Query, *, batch: bool = False) -> dict[str, Any]:
        """Return the nearest items of each value of a query.

        All lists of a batch are of one moment.

        Raises:
            RequestError: The query is of another model or malformed, or an item does not exist.
        """
        live = self._keeper.live
        card = live.card
        vectors, items = self._vectors(query, card)
        k = query.k + (query.kind == "id")  # room for the item itself
        try:
            if batch:
                with live.snapshot() as snapshot:
                    found = live.search(
                        vectors, k, exact=query.exact, snapshot=snapshot, stamp=card
                    )
            else:
                found = live.search(vectors, k, exact=query.exact, stamp=card)
        except ValueError as error:
            if live.card != card:
                meanwhile = "the gallery changed its model meanwhile; ask again"
                raise RequestError(409, meanwhile) from error
            raise RequestError(400, str(error)) from error
        if live.card != card:  # a stored vector may be of either space
            raise RequestError(409, "the gallery changed its model meanwhile; ask again")
        lists = [
            _answer([hit for hit in hits if hit.id != item][: query.k], query_item)
            for hits, (item, query_item) in zip(found, items, strict=True)
        ]
        return {"model": card.name, "weights_sha256": card.weights_sha256, "results": lists}

    def image(self, item: str) -> bytes:
        """Return a thumbnail of an item's original as JPEG.

        Raises:
            RequestError: There is no such item, or no image of it.
        """
        original = self._original(item)
        if isinstance(original, str):
            raise RequestError(404, "the originals are texts; ask for /text")
        return thumbnail(original)

    def text(self, item: str) -> str:
        """Return an item's text.

        Raises:
            RequestError: There is no such item, or no text of it.
        """
        original = self._original(item)
        if not isinstance(original, str):
            raise RequestError(404, "the originals are images; ask for /image")
        return original

    def _original(self, item: str) -> Original:
        if self.source is None:
            raise RequestError(404, "the service was started without --source")
        with self._keeper.view() as gallery:
            if item not in gallery:
                raise RequestError(404, f"the gallery has no item {item!r:.200}")
        try:
            return self.source.load(item)
        except OriginalError as error:
            # The reason may name folders of this machine; it is for the log.
            logger.info("%s", error)
            raise RequestError(404, f"the original of {item!r:.200} cannot be had") from error

    def _vectors(
        self, query: Query, card: ModelCard
    ) -> tuple[NDArray[np.float32], Sequence[tuple[str | None, Mapping[str, str] | None]]]:
        """Return query vectors, and for each the item that is the query itself."""
        nobody = [(None, None)] * len(query.values)
        if query.kind == "vector":
            try:
                self._keeper.live.check_query(str(query.stamp))
            except ValueError as error:
                raise RequestError(409, str(error)) from error
            return np.asarray(query.values), nobody
        if query.kind == "id":
            return self._stored(query.values)
        encoder = self._encoder_of(card)
        if encoder is None:
            raise RequestError(
                409, f"the gallery is searched with {card.name}, which the service does not have"
            )
        kind = "image" if query.kind == "image" else "text"
        if encoder.kind != kind:
            raise RequestError(400, f"{card.name} embeds {encoder.kind}s, the query is {kind}")
        if kind == "text":
            return self._embed(encoder, query.values), nobody
        # Decoded one at a time: a batch of large images would not fit into memory.
        prepared = [encoder.prepare(decode_upload(data)) for data in query.values]
        with self._embedding:
            return encoder.embed_prepared(prepared), nobody

    def _stored(
        self, ids: Sequence[str]
    ) -> tuple[NDArray[np.float32], Sequence[tuple[str, Mapping[str, str]]]]:
        with self._keeper.view() as gallery:
            try:
                rows = np.array([gallery.row_of(item) for item in ids], dtype=np.int64)
                vectors = gallery.vectors(rows)
            except ValueError as error:
                raise RequestError(404, str(error)) from error
            pairs = zip(ids, gallery.describe(rows), strict=True)
            return vectors, [(i, {"id": i, "version": name}) for i, name in pairs]

    def _embed(self, encoder: Encoder, originals: Sequence[Original]) -> NDArray[np.float32]:
        prepared = [encoder.prepare(original) for original in originals]
        with self._embedding:
            return encoder.embed_prepared(prepared)

    def _encoder_of(self, card: ModelCard) -> Encoder | None:
        for encoder in self._encoders:
            if encoder.card.weights_sha256 == card.weights_sha256:
                return encoder
        return None


def _answer(hits: Sequence[Hit], item: Mapping[str, str] | None) -> dict[str, Any]:
    found = [hit._asdict() for hit in hits]
    return {"hits": found} if item is None else {"query": dict(item), "hits": found}

"""One stored pair: read from its shard, and rejected unless all its members fit together (spec 9).

All rows and boxes are checked, not only those that an epoch draws, so that which samples are
rejected depends on the data alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mobileclip.crop_boxes import check_boxes, rescale_boxes
from mobileclip.embedding_codecs import DECODERS, FORMATS, resolve
from mobileclip.embeddings import Embeddings, check_units
from mobileclip.images import IMAGE_EXTENSIONS, decode_image
from mobileclip.members import real_captions, stored_views, synthetic_captions, uid_of
from mobileclip.reader_config import ReaderConfig
from mobileclip.rejections import Kind, RejectedSampleError, RejectionBudget
from mobileclip.schema import ReinforcementInfo, SampleMeta
from mobileclip.size_filter import SizeFilter
from tenfold.shards import SampleSchema, TarMembers
from tenfold.shards.samples import BadSampleError

_UNREAD = ("url.txt",)


@dataclass(frozen=True, eq=False)
class Pair:
    """An image, its captions, and what is stored about both.

    Attributes:
        key: Its key in the shard.
        uid: Its name in the data set; keys what is drawn.
        image: uint8 `[3, H, W]`.
        captions: Real captions, one row of `embeddings.text` each.
        synthetic: Synthetic captions by key of `syn.json`.
        views: Parameters of the stored views in the official list form; empty where not read.
        embeddings: Of views and captions; None where not read.
    """

    key: str
    uid: str
    image: Tensor
    captions: tuple[str, ...]
    synthetic: Mapping[str, tuple[str, ...]]
    views: Sequence[list[Any]] = ()
    embeddings: Embeddings | None = None


@dataclass(frozen=True, kw_only=True)
class PairSchema(SampleSchema):
    """The members of a pair, as `tenfold.shards` reads them.

    Attributes:
        config: How examples are made.
        info: What the shards hold; None for plain pairs.
        budget: Counts what this process rejects; None for no bound.
        size_filter: Passes over small images before anything else is looked at; None for no filter.
    """

    config: ReaderConfig
    info: ReinforcementInfo | None = None
    budget: RejectionBudget | None = None
    size_filter: SizeFilter | None = None

    def read(self, members: TarMembers, key: str) -> dict[str, Any]:
        """Return `{"__key__": ..., "pair": Pair}`.

        Raises:
            BadSampleError: A member is missing or damaged, or members contradict each other.
            UnwantedSampleError: The image is smaller than `size_filter` allows.
            ShardError: Most samples that this process has read are bad.
        """
        if self.size_filter is not None:
            self.size_filter.check(members, key, max_bytes=self.limits.max_bytes)
        try:
            pair = self._pair(super().read(members, key))
        except BadSampleError as error:
            if self.budget is not None:
                self.budget.reject(error.reason)
            raise
        if self.budget is not None:
            self.budget.accept()
        return {"__key__": key, "pair": pair}

    def _pair(self, sample: Mapping[str, Any]) -> Pair:
        key, image = sample["__key__"], sample["image"]
        real = _checked("captions", real_captions, sample["text"]) if "text" in sample else ()
        synthetic = self._synthetic(sample)
        about = sample.get("about")
        pair = Pair(key, uid_of(key, about), image, real, synthetic)
        if self.config.needs_real and not any(caption.strip() for caption in real):
            raise RejectedSampleError("captions", "the real caption is empty")
        if "views" not in sample:
            return pair
        assert self.info is not None
        views = _checked("views", stored_views, sample["views"])
        views = self._fitting(views, image, about)
        embeddings = self._embeddings(sample, pair, len(views))
        return Pair(key, pair.uid, image, real, synthetic, views, embeddings)

    def _synthetic(self, sample: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
        if not self.config.needs_synthetic:
            return {}
        found = _checked(
            "captions", synthetic_captions, sample["synthetic"], pattern=self.config.synthetic_keys
        )
        # A key without text would be drawn as often as any other.
        found = {k: texts for k, texts in found.items() if any(text.strip() for text in texts)}
        if not found:
            raise RejectedSampleError("captions", "all synthetic captions are empty")
        return found

    def _fitting(self, views: list[list[Any]], image: Tensor, about: Any) -> list[list[Any]]:
        assert self.info is not None
        height, width = image.shape[1:]
        meta = _meta(about)
        if meta is not None and (meta.height, meta.width) != (height, width):
            drawn_for = (meta.height, meta.width)
            if not self.config.rescale_boxes:
                raise RejectedSampleError(
                    "crop box",
                    f"views were drawn for {meta.height} x {meta.width} pixels, the image has "
                    f"{height} x {width}",
                )
            views = _checked(
                "crop box", rescale_boxes, views, self.info.augment, drawn_for, (height, width)
            )
        _checked("crop box", check_boxes, views, self.info.augment, (height, width))
        return views

    def _embeddings(
        self, sample: Mapping[str, Any], pair: Pair, num_views: int
    ) -> Embeddings | None:
        if "embeddings" not in sample:
            return None
        assert self.info is not None
        num_real = len(pair.captions) or 1
        embeddings = _checked("embeddings", resolve, sample["embeddings"], num_real=num_real)
        counts = [("views", num_views, len(embeddings.image))]
        if pair.captions:
            counts.append(("real captions", num_real, len(embeddings.text)))
        for key, texts in pair.synthetic.items():
            rows = embeddings.synthetic.get(key)
            counts.append((f"captions of {key}", len(texts), 0 if rows is None else len(rows)))
        for name, count, rows in counts:
            if count != rows:
                raise RejectedSampleError("embeddings", f"{count} {name}, but {rows} rows for them")
        _checked("embeddings", check_units, embeddings, self.info.dims)
        return embeddings


def pair_schema(
    config: ReaderConfig,
    info: ReinforcementInfo | None = None,
    *,
    max_bad_fraction: float | None = None,
    workers: int = 0,
) -> PairSchema:
    """Return the schema of what a training reads.

    Args:
        config: How examples are made.
        info: What the shards hold.
        max_bad_fraction: Share of bad samples at which a process gives up; None for never.
        workers: Loader processes that the schema will travel to.

    Raises:
        ValueError: Mode `dr` without `info`.
    """
    if config.mode == "dr" and info is None:
        raise ValueError(
            "mode dr needs reinforced data: make them with generate-embeddings, or name the "
            "release that these shards are of"
        )
    least = config.min_image_size
    required: dict[str, Sequence[str]] = {"image": IMAGE_EXTENSIONS}
    if config.needs_real:
        required["text"] = ("txt",)
    if config.needs_synthetic:
        required["synthetic"] = ("syn.json",)
    if config.mode != "clip" and info is not None:
        required["views"] = ("paug.json",)
    if config.mode == "dr":
        required["embeddings"] = FORMATS
    return PairSchema(
        required=required,
        optional={"about": ("json",), **({} if config.needs_real else {"text": ("txt",)})},
        ignored=_UNREAD,
        decoders={**dict.fromkeys(IMAGE_EXTENSIONS, decode_image), **DECODERS},
        config=config,
        info=info,
        budget=None if max_bad_fraction is None else RejectionBudget(max_bad_fraction),
        size_filter=SizeFilter(least, workers=workers) if least else None,
    )


def _meta(about: Any) -> SampleMeta | None:
    if not isinstance(about, Mapping) or "meta" not in about:
        return None
    return _checked("views", SampleMeta.from_json, about["meta"])


def _checked(kind: Kind, function: Any, *args: Any, **options: Any) -> Any:
    """Call a function; what it refuses is a rejected sample of this kind."""
    try:
        return function(*args, **options)
    except ValueError as error:
        raise RejectedSampleError(kind, str(error)) from error

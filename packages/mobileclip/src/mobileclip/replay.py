"""The pixels of a pair's view: replayed from what is stored, or drawn anew (spec 2.1).

Crop and RandAugment are the stored ones, so that the student sees what the teachers saw; size and
interpolation are the student's. Without its box a stored embedding would belong to other pixels.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from mobileclip.pairs import Pair
from mobileclip.reader_config import ReaderConfig
from mobileclip.schema import ReinforcementInfo
from tenfold import keyed
from tenfold.augment import positional
from tenfold.augment.config import AugmentConfig
from tenfold.augment.params import ViewParams
from tenfold.augment.pipeline import Augment
from tenfold.shards import ShardError


class Replay:
    """Makes views for the student, and for teachers that run beside it.

    Args:
        config: How examples are made.
        info: What the shards hold; None for plain pairs.
    """

    def __init__(self, config: ReaderConfig, info: ReinforcementInfo | None = None) -> None:
        stored = info is not None and config.mode != "clip"
        self.config = config
        self.recorded = info.augment if info is not None and stored else config.drawn_augment
        self.stored = stored
        self._teacher = Augment(self.recorded)
        self._student = Augment(student_augment(self.recorded, scale=config.scale_translate))

    def params(self, pair: Pair, view: int, epoch: int) -> ViewParams:
        """Return the parameters of a stored view, or of one that belongs to this epoch.

        Raises:
            ShardError: The stored list is not one of this pipeline.
        """
        if self.stored:
            return decode_view(pair.views[view], self.recorded, name=pair.key)
        rng = keyed.generator("view", self.config.seed, epoch, pair.uid)
        return self._teacher.draw(rng, *pair.image.shape[1:])

    def student_view(self, pair: Pair, params: ViewParams) -> Tensor:
        """Return uint8 `[3, S, S]` at the student's size."""
        return self._student.apply(pair.image, params, size=self.config.image_size)

    def teacher_view(self, pair: Pair, params: ViewParams) -> Tensor:
        """Return uint8 `[3, T, T]` at the size that the view was drawn for."""
        return self._teacher.apply(pair.image, params)


def student_augment(recorded: AugmentConfig, *, scale: bool) -> AugmentConfig:
    """Return the pipeline of a replay for the student.

    Args:
        recorded: The pipeline that views were drawn from.
        scale: Whether translations grow with the image, see `ReaderConfig.scale_translate`.
    """
    fixed = recorded.translate_pixels or recorded.size
    return replace(recorded, interpolation="bilinear", translate_pixels=None if scale else fixed)


def decode_view(values: Sequence[Any], config: AugmentConfig, *, name: str) -> ViewParams:
    """Return a view's parameters from their official list form.

    Raises:
        ShardError: It is not one of this pipeline; `name` says whose it is.
    """
    try:
        view, _ = positional.decode(values, config, mixing=False)
    except ValueError as error:
        raise ShardError(f"sample {name!r}: {error}") from error
    return view

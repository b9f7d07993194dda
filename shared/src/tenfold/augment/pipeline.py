"""`Augment`: draws the parameters of a view, and makes its pixels from them as often as wanted."""

import numpy as np
from torch import Tensor

from tenfold.augment.backend import check_image, functional
from tenfold.augment.config import AugmentConfig
from tenfold.augment.drawing import draw_view
from tenfold.augment.geometry import crop, erase
from tenfold.augment.params import ViewParams
from tenfold.augment.randaugment import apply_ops


class Augment:
    """A replayable augmentation of one image; mixing two is in `tenfold.augment.mixing`.

    Args:
        config: The pipeline.
    """

    def __init__(self, config: AugmentConfig) -> None:
        self.config = config

    def draw(self, rng: np.random.Generator, height: int, width: int) -> ViewParams:
        """Draw a view.

        Args:
            rng: Is advanced; `tenfold.keyed.generator` makes one of a view's name.
            height: Of the source image, pixels.
            width: Likewise.

        Raises:
            ValueError: The image is too small for a `random` crop.
        """
        return draw_view(rng, self.config, height=height, width=width)

    def apply(self, image: Tensor, params: ViewParams, *, size: int | None = None) -> Tensor:
        """Make a view: crop, flip, RandAugment, erasing.

        Consumes no randomness. The result depends on the pixels, the parameters and
        `backend.describe()` alone, neither on the number of threads nor on the memory's layout.

        Args:
            image: uint8 `[3, H, W]`, RGB, on the CPU.
            params: What was drawn for an image of this size.
            size: Side of the result, pixels; None for `config.size`. At another size the crop is
                the same region of the source, the erased region is scaled, and translations are
                scaled unless `config.translate_pixels` fixes them.

        Returns:
            uint8 `[3, size, size]`; may share memory with `image`.

        Raises:
            ValueError: No RGB uint8 image on the CPU, or parameters of another image or pipeline.
        """
        check_image(image)
        side = self.config.size if size is None else size
        if side < 1:
            raise ValueError(f"size must be > 0, got {side}")
        view = crop(image.contiguous(), params.crop, self.config, size=side)
        if params.flip:
            view = functional.horizontal_flip(view)
        if params.ops is not None:
            view = apply_ops(view, params.ops, self.config)
        if params.erase is not None:
            view = erase(view, params.erase, drawn_size=self.config.size)
        return view

"""The augmentations of the paper by name (spec 2.2); each is a plain `AugmentConfig`.

ImageNet's four are the official `configs/imagenet/reinforce/{cropflip,randaug,mixing,
randaug_mixing}.yaml`, the rest `configs/<data set>/reinforce.yaml`. The YAML of Food-101 and
Flowers-102 misspells the key of its crop (`random_resize_crop`), and unknown keys are dropped there
without a word; here they have the crop. Free of torch.
"""

from dataclasses import replace
from difflib import get_close_matches
from typing import Literal

from tenfold.augment.config import AugmentConfig

_RANDOM_AUGMENT = AugmentConfig(rand_augment=1.0, erase=0.25)
_PUBLISHED_SIZE = 224

VARIANTS: dict[str, AugmentConfig] = {
    "rrc": AugmentConfig(),
    "randaug": _RANDOM_AUGMENT,
    "mixing": AugmentConfig(mixup=0.5, cutmix=0.5),
    "randaug_mixing": replace(_RANDOM_AUGMENT, mixup=0.5, cutmix=0.5),
    "cifar100": replace(_RANDOM_AUGMENT, resize=224, crop="random", padding=16),
    "food101": _RANDOM_AUGMENT,
    "flowers102": _RANDOM_AUGMENT,
}
"""As published, at 224 pixels: `rrc`, `mixing` (+M*), `randaug` (+RA/RE, recommended),
`randaug_mixing` (+M*+R*), and those of the downstream sets."""


def variant(
    name: str, *, size: int = _PUBLISHED_SIZE, compat: Literal["apple"] | None = None
) -> AugmentConfig:
    """Return a variant for an output size; resize and padding keep their proportion to it.

    Args:
        name: A key of `VARIANTS`.
        size: Side of the views, pixels.
        compat: `apple` reads the official data as the official code does: MixUp gives the partner
            the larger weight, and translations are in pixels of 224 at every size.

    Raises:
        ValueError: No such variant, or a wrong size.
    """
    if name not in VARIANTS:
        near = get_close_matches(name, VARIANTS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {name}{hint}")
    if compat not in ("apple", None):
        raise ValueError(f"compat must be apple or null, got {compat}")
    config = VARIANTS[name]
    config = replace(
        config,
        size=size,
        resize=config.resize and size,
        padding=round(config.padding * size / _PUBLISHED_SIZE),
    )
    if compat is None:
        return config
    return replace(config, mixup_owner="apple", translate_pixels=_PUBLISHED_SIZE)

"""The official list form of a view's parameters, as Dataset Reinforcement and MobileCLIP store it.

`params` with `compress: true` (spec section 3) is, in this order and only for the steps that the
pipeline has: partner's index or null (with MixUp or CutMix), size of the resize, `[top, left]` of a
random crop within the padded image or `[top, left, height, width]` of a random resized crop, flip,
RandAugment's `[[operation, magnitude], ...]`, erased `[top, left, height, width]`, MixUp's weight,
CutMix's `[weight, top, left, bottom, right]`. A step that was skipped is null. Where a view is
mixed, each step before MixUp is a pair: the owner's entry and the partner's. Free of torch.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tenfold.augment.config import AugmentConfig
from tenfold.augment.magnitudes import level_of, magnitude
from tenfold.augment.params import Box, MixParams, Op, ViewParams


def encode(own: ViewParams, mix: MixParams | None, config: AugmentConfig) -> list[Any]:
    """Return the list of one view; its values are None, bool, int, float and lists of these.

    The weight that stands before CutMix's box is the owner's share of the pixels; the official code
    stores the draw behind the box there and does not use it again.

    Raises:
        ValueError: A mixed view of a pipeline that does not mix.
    """
    if mix is not None and not config.mixes:
        raise ValueError("the view is mixed, but augment.mixup and augment.cutmix are 0")
    values: list[Any] = [None if mix is None else mix.partner] if config.mixes else []
    steps = _encode_view(own, config)
    if mix is not None:
        steps = [list(pair) for pair in zip(steps, _encode_view(mix.view, config), strict=True)]
    values += steps
    if config.mixup > 0:
        values.append(None if mix is None else mix.mixup)
    if config.cutmix > 0:
        values.append(None if mix is None else _encode_cutmix(mix.cutmix, config.size))
    return values


def decode(
    values: Sequence[Any], config: AugmentConfig, *, mixing: bool
) -> tuple[ViewParams, MixParams | None]:
    """Return the parameters of one view from its list; inverse of `encode`.

    A box of CutMix without pixels is None, and so is the partner of a view of which it shows
    nothing: neither changes a pixel.

    Args:
        values: The list; numpy's numbers and tuples are taken too.
        config: The pipeline that wrote it.
        mixing: Whether the list begins with the partner's index.

    Raises:
        ValueError: The list does not have the entries of this pipeline.
    """
    names = entries(config)
    if mixing != config.mixes or len(values) != len(names):
        raise ValueError(
            f"this pipeline's parameters are {len(names)} entries ({', '.join(names)}), got "
            f"{len(values)} {'with' if mixing else 'without'} a partner: another pipeline's?"
        )
    try:
        return _decode(dict(zip(names, values, strict=True)), config)
    except (TypeError, IndexError) as error:
        raise ValueError(f"parameters {values} have not the official form: {error}") from error


def entries(config: AugmentConfig) -> tuple[str, ...]:
    """Return the names of the entries of this pipeline's lists, in order."""
    partner = ("partner",) if config.mixes else ()
    mixing = [name for name in ("mixup", "cutmix") if getattr(config, name) > 0]
    return (*partner, *_steps(config), *mixing)


def _decode(found: Mapping[str, Any], config: AugmentConfig) -> tuple[ViewParams, MixParams | None]:
    partner = found.get("partner")
    if partner is None:
        return _decode_view(found, config), None
    pairs = {name: _pair(name, found[name]) for name in _steps(config)}
    own, other = ({name: pair[k] for name, pair in pairs.items()} for k in (0, 1))
    mixup, cutmix = found.get("mixup"), _decode_cutmix(found.get("cutmix"))
    if mixup is None and cutmix is None:
        return _decode_view(own, config), None
    weight = None if mixup is None else float(np.float32(mixup))
    mixed = MixParams(int(partner), _decode_view(other, config), mixup=weight, cutmix=cutmix)
    return _decode_view(own, config), mixed


def _steps(config: AugmentConfig) -> list[str]:
    has = {
        "resize": config.resize is not None,
        "crop": config.crop in ("random", "random_resized"),
        "flip": config.flip > 0,
        "rand_augment": config.rand_augment > 0,
        "erase": config.erase > 0,
    }
    return [name for name, present in has.items() if present]


def _encode_view(view: ViewParams, config: AugmentConfig) -> list[Any]:
    entry = {
        "resize": config.resize,
        "crop": _encode_crop(view, config),
        "flip": view.flip,
        "rand_augment": _encode_ops(view, config),
        "erase": None if view.erase is None else list(view.erase),
    }
    return [entry[name] for name in _steps(config)]


def _encode_crop(view: ViewParams, config: AugmentConfig) -> list[int] | None:
    if view.crop is None:
        return None
    if config.crop == "random_resized":
        return list(view.crop)
    return [view.crop.top + config.padding, view.crop.left + config.padding]


def _encode_ops(view: ViewParams, config: AugmentConfig) -> list[list[float]] | None:
    if view.ops is None:
        return None
    return [
        [
            op,
            magnitude(
                op,
                level,
                height=config.size,
                width=config.size,
                bins=config.bins,
                translate_pixels=config.translate_pixels,
            ),
        ]
        for op, level in view.ops
    ]


def _encode_cutmix(box: Box | None, side: int) -> list[float] | None:
    if box is None:
        return None
    top, left, height, width = box
    share = 1 - height * width / (side * side)
    return [share, top, left, top + height, left + width]


def _pair(name: str, entry: Any) -> Sequence[Any]:
    if not isinstance(entry, Sequence) or len(entry) != 2:
        raise ValueError(f"{name} of a mixed view must be a pair, got {entry}")
    return entry


def _decode_view(found: Mapping[str, Any], config: AugmentConfig) -> ViewParams:
    resize = found.get("resize")
    if resize is not None and set(np.atleast_1d(resize).tolist()) != {config.resize}:
        raise ValueError(f"resize of the parameters is {resize}, augment.resize is {config.resize}")
    return ViewParams(
        crop=_decode_crop(found.get("crop"), config),
        flip=bool(found.get("flip")),
        ops=_decode_ops(found.get("rand_augment"), config),
        erase=_decode_erase(found.get("erase")),
    )


def _decode_crop(entry: Sequence[Any] | None, config: AugmentConfig) -> Box | None:
    if entry is None:
        return None
    if config.crop == "random_resized":
        return Box(*_integers("crop", entry, 4))
    top, left = _integers("crop", entry, 2)
    return Box(top - config.padding, left - config.padding, config.size, config.size)


def _decode_ops(entry: Sequence[Any] | None, config: AugmentConfig) -> tuple[Op, ...] | None:
    if entry is None:
        return None
    return tuple(
        level_of(
            int(op),
            float(value),
            size=config.size,
            bins=config.bins,
            preferred=config.magnitude,
            translate_pixels=config.translate_pixels,
        )
        for op, value in entry
    )


def _decode_erase(entry: Sequence[Any] | None) -> Box | None:
    # The official replay takes -1 for a region that was not drawn.
    if entry is None or entry[0] == -1:
        return None
    return Box(*_integers("erase", entry, 4))


def _decode_cutmix(entry: Sequence[Any] | None) -> Box | None:
    if entry is None:
        return None
    top, left, bottom, right = _integers("cutmix", entry[1:], 4)
    box = Box(top, left, bottom - top, right - left)
    return box if box.height > 0 and box.width > 0 else None


def _integers(name: str, entry: Sequence[Any], count: int) -> list[int]:
    if len(entry) != count or any(value != int(value) for value in entry):
        raise ValueError(f"{name} must be {count} whole numbers, got {list(entry)}")
    return [int(value) for value in entry]

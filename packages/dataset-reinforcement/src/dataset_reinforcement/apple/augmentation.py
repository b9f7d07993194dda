"""`image_augmentation` of an official configuration, to and from an `AugmentConfig`.

The official code ignores keys that it does not know, so a misspelt one silently drops a step. Here
such a key is an error.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from tenfold.augment.config import AugmentConfig, Crop

Steps = Mapping[str, Mapping[str, Any]]

_CROPS: dict[str, Crop] = {
    "random_resized_crop": "random_resized",
    "random_crop": "random",
    "center_crop": "center",
}
_KEYS: dict[str, frozenset[str]] = {
    "uint8": frozenset(),
    "resize": frozenset({"size", "interpolation", "antialias"}),
    "center_crop": frozenset({"size"}),
    "random_crop": frozenset({"size", "padding"}),
    "random_resized_crop": frozenset({"size", "scale", "ratio", "interpolation", "antialias"}),
    "random_horizontal_flip": frozenset({"p"}),
    "rand_augment": frozenset({"p", "num_ops", "magnitude", "num_magnitude_bins"}),
    "to_tensor": frozenset(),
    "random_erase": frozenset({"p", "scale", "ratio"}),
    "normalize": frozenset({"mean", "std"}),
    "mixup": frozenset({"p", "alpha", "div_by"}),
    "cutmix": frozenset({"p", "alpha"}),
}


def from_apple(augmentation: Steps) -> AugmentConfig:
    """Return the pipeline of an official `image_augmentation`.

    Raises:
        ValueError: A step or option is unknown, or cannot be replayed; names it.
    """
    steps = {name: _options(name, step) for name, step in augmentation.items()}
    steps = {name: step for name, step in steps.items() if step.pop("enable", True)}
    crops = [name for name in _CROPS if name in steps]
    if len(crops) != 1:
        raise ValueError(
            f"image_augmentation has {' and '.join(crops) or 'no crop'}, expected one of "
            f"{', '.join(_CROPS)}"
        )
    resize = _side("resize", steps["resize"]["size"]) if "resize" in steps else None
    crop = steps[crops[0]]
    size = _side(crops[0], crop["size"])
    flip = steps.get("random_horizontal_flip", {"p": 0.0})
    rand_augment = steps.get("rand_augment", {"p": 0.0})
    erase = steps.get("random_erase", {"p": 0.0})
    mixup, cutmix = steps.get("mixup", {"p": 0.0}), steps.get("cutmix", {"p": 0.0})
    if mixup.get("p", 1.0) > 0 and mixup.get("div_by", 1.0) != 2.0:
        raise ValueError(f"mixup.div_by is {mixup.get('div_by', 1.0)}, expected 2 as published")
    default = AugmentConfig()
    return AugmentConfig(
        size=size,
        resize=resize,
        crop=_CROPS[crops[0]],
        scale=tuple(crop.get("scale", default.scale)),
        ratio=tuple(crop.get("ratio", default.ratio)),
        padding=int(crop.get("padding", 0)),
        interpolation=_interpolation(steps),
        flip=flip.get("p", 0.5),
        rand_augment=rand_augment.get("p", 1.0),
        num_ops=rand_augment.get("num_ops", default.num_ops),
        magnitude=rand_augment.get("magnitude", default.magnitude),
        bins=rand_augment.get("num_magnitude_bins", default.bins),
        translate_pixels=size,
        erase=erase.get("p", 0.5),
        erase_scale=tuple(erase.get("scale", default.erase_scale)),
        erase_ratio=tuple(erase.get("ratio", default.erase_ratio)),
        mixup=mixup.get("p", 1.0),
        mixup_alpha=mixup.get("alpha", 1.0),
        mixup_owner="apple",
        cutmix=cutmix.get("p", 1.0),
        cutmix_alpha=cutmix.get("alpha", 1.0),
    )


def to_apple(config: AugmentConfig) -> dict[str, dict[str, Any]]:
    """Return the official `image_augmentation` of a pipeline.

    Normalisation is that of ImageNet; it changes no stored value.

    Raises:
        ValueError: The official code has no such pipeline.
    """
    if not config.antialias:
        raise ValueError(
            "the official code always resizes with antialias; augment.antialias is off"
        )
    if config.crop == "none":
        raise ValueError("the official layout needs a crop; augment.crop is none")
    steps: dict[str, dict[str, Any]] = {"uint8": {}}
    if config.resize is not None:
        steps["resize"] = {"size": config.resize} | _named_interpolation(config)
    for name, crop in _CROPS.items():
        if crop == config.crop:
            steps[name] = {"size": config.size}
    if config.crop == "random":
        steps["random_crop"]["padding"] = config.padding
    if config.crop == "random_resized":
        box = {"scale": list(config.scale), "ratio": list(config.ratio)}
        steps["random_resized_crop"] |= box | _named_interpolation(config)
    if config.flip:
        steps["random_horizontal_flip"] = {"p": config.flip}
    if config.rand_augment:
        steps["rand_augment"] = {
            "p": config.rand_augment,
            "num_ops": config.num_ops,
            "magnitude": config.magnitude,
            "num_magnitude_bins": config.bins,
        }
    steps |= {"to_tensor": {}, "normalize": {"mean": _MEAN, "std": _STD}}
    if config.erase:
        scale, ratio = list(config.erase_scale), list(config.erase_ratio)
        steps["random_erase"] = {"p": config.erase, "scale": scale, "ratio": ratio}
    if config.mixup:
        alpha = config.mixup_alpha
        steps["mixup"] = {"p": config.mixup, "alpha": alpha, "div_by": 2.0}
    if config.cutmix:
        steps["cutmix"] = {"p": config.cutmix, "alpha": config.cutmix_alpha}
    return steps


_MEAN = [0.485, 0.456, 0.406]
_STD = [0.229, 0.224, 0.225]


def _options(name: str, step: Mapping[str, Any]) -> dict[str, Any]:
    if name not in _KEYS:
        raise ValueError(f"image_augmentation has an unknown step {name!r}{_nearest(name, _KEYS)}")
    for option in step:
        if option != "enable" and option not in _KEYS[name]:
            near = _nearest(option, _KEYS[name])
            raise ValueError(f"image_augmentation.{name} has an unknown option {option!r}{near}")
    return dict(step)


def _nearest(name: str, known: Mapping[str, Any] | frozenset[str]) -> str:
    close = get_close_matches(name, list(known), n=1)
    return f"; did it mean {close[0]!r}?" if close else f", expected some of {sorted(known)}"


def _side(name: str, size: Any) -> int:
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise ValueError(f"image_augmentation.{name}.size is {size}, expected one side")
    return int(sides.pop())


def _interpolation(steps: Steps) -> Any:
    found = {step["interpolation"] for step in steps.values() if "interpolation" in step}
    if found - {"bilinear", "bicubic"} or len(found) > 1:
        raise ValueError(
            f"interpolation is {sorted(map(str, found))}, expected bilinear or bicubic"
        )
    return found.pop() if found else "bilinear"


def _named_interpolation(config: AugmentConfig) -> dict[str, str]:
    return {} if config.interpolation == "bilinear" else {"interpolation": config.interpolation}

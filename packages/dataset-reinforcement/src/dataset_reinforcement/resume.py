"""What an interrupted run and its continuation must share, so that the two are one run."""

from collections.abc import Mapping
from typing import Any

from dataset_reinforcement.config import ResolutionConfig
from dataset_reinforcement.dataset import ReinforcedImages
from dataset_reinforcement.replay import ReplayConfig
from dataset_reinforcement.streaming import PackedImages
from tenfold.plain_configs import plain


def deciding_values(
    training: ReinforcedImages | PackedImages,
    config: ReplayConfig,
    *,
    batch_size: int,
    resolution: ResolutionConfig | None,
    total_steps: int,
) -> dict[str, Any]:
    """Return what the order of the examples, their pixels and their targets depend on, as JSON.

    Args:
        training: Images and labels.
        config: How examples are drawn.
        batch_size: Images of an optimiser step.
        resolution: Image sizes, if there are several.
        total_steps: Length of the run; counts only where sizes or a curriculum follow it.
    """
    follows = resolution is not None or config.curriculum.order != "none"
    return {
        "seed": config.seed,
        "batch_size": batch_size,
        **_content(training),
        **plain(replay=config)["replay"],
        "resolution": plain(sizes=resolution)["sizes"] if resolution is not None else None,
        "total_steps": total_steps if follows else None,
    }


def check_same_run(interrupted: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Compare the values of an interrupted run with those of its continuation.

    Raises:
        ValueError: One differs; names it.
    """
    for name, was in interrupted.items():
        if now.get(name) != was:
            raise ValueError(
                f"the interrupted run had data.{name} {was}, now it is {now.get(name)}; go on "
                "with the data and settings of that run"
            )


def _content(training: ReinforcedImages | PackedImages) -> dict[str, Any]:
    if isinstance(training, PackedImages):
        return {"images": training.num_images, "fingerprint": training.index.sha256}
    store = training.store
    return {
        "images": len(training),
        "fingerprint": None if store is None else store.info.fingerprint,
        "store": None if store is None else store.content_sha256(),
    }

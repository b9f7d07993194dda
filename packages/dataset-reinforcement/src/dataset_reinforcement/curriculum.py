"""Which stored views of an image may be drawn, by how hard their labels are (spec 2.6).

The difficulty of a view is the entropy of its label. The paper's main results use no curriculum.
"""

import math

import numpy as np
from numpy.typing import NDArray

from dataset_reinforcement.config import CurriculumConfig


def open_share(config: CurriculumConfig, progress: float) -> float:
    """Return a(t): the share of the views that may be drawn, from `start` linearly to 1.

    Args:
        config: The curriculum.
        progress: Part of the run that is done, 0..1.
    """
    if progress >= config.ramp:
        return 1.0
    return config.start + (1 - config.start) * progress / config.ramp


def admissible_views(
    entropies: NDArray[np.floating], config: CurriculumConfig, progress: float
) -> NDArray[np.int64]:
    """Return the views that may be drawn, easiest first; always at least one.

    Args:
        entropies: `[views]`, difficulty of each view of one image.
        config: The curriculum; `order` must not be `none`, which needs no entropies.
        progress: Part of the run that is done, 0..1.
    """
    ranked = np.argsort(entropies, kind="stable")
    if config.order == "band":
        low, high = config.band
        first = min(math.floor(low * ranked.size), ranked.size - 1)
        return ranked[first : max(math.ceil(high * ranked.size), first + 1)]
    count = max(math.ceil(open_share(config, progress) * ranked.size), 1)
    return ranked[:count] if config.order == "easy_to_hard" else ranked[-count:]

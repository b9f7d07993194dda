"""Two updates in a row of which the first was never finished: a gallery of two old models (2.7).

Three models of digits have seen more and more classes. Half of the gallery was embedded by the
first, half by the second; queries come from the third. Items of the first pass both maps, and their
variances add; beside that stand the larger variance alone, and a map trained for both steps at
once.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastfill.backbone import Backbone
from fastfill.config import ObjectiveConfig
from fastfill.demo_data import DEMOS, TEST, TRAIN, cache_demo, demo_model
from fastfill.demo_training import train_backbone
from fastfill.evaluation.metrics import retrieval
from fastfill.feature_cache import FeatureCache, read_cache
from fastfill.ordering import OrderInputs, order
from fastfill.sources import open_source
from fastfill.study import (
    HALF,
    Values,
    mean_random,
    merge,
    of_random,
    scores,
    train_map,
    update_curves,
)
from fastfill.transform import Chain, EmbeddingMap, transform_all
from tenfold import keyed
from tenfold.cli.quiet import silence_adverts
from tenfold.measurements import one_thread

SEEN = (3, 6)
"""Classes of the first and the second model; the third knows all."""

VIEWS = 8
STEPS = {"12": (0, 1), "23": (1, 2), "13": (0, 2)}
"""Maps by name: from which model to which."""


@dataclass(frozen=True)
class SequenceOfUpdates:
    """A sequence to measure.

    Attributes:
        seed: Of models, maps, vintages and orders.
    """

    seed: int

    @property
    def key(self) -> str:
        """Name of the job."""
        return f"sequence-{self.seed}"


def measure_sequence(update: SequenceOfUpdates, folder: Path) -> Values:
    """Return metric to arm to value, mAP in percent; a job, which leaves no file in its folder."""
    silence_adverts()
    with one_thread(), tempfile.TemporaryDirectory() as made:
        tests, maps = _prepare(Path(made), update.seed)
    of_first = keyed.generator("vintages", update.seed).random(len(tests["12"])) < 0.5
    values = _reference(tests)
    for arm, first in (
        ("chain", Chain([maps["12"], maps["23"]])),
        ("chain by the largest variance", Chain([maps["12"], maps["23"]], combine="max")),
        ("direct", maps["13"]),
    ):
        z, s = mixed(first, maps["23"], tests, of_first)
        merge(values, _of_gallery(arm, z, s, tests["23"], of_first))
    return values


def mixed(
    first: EmbeddingMap,
    second: EmbeddingMap,
    tests: dict[str, FeatureCache],
    of_first: NDArray[np.bool_],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return z and s of a gallery of two vintages, each by its own map."""
    z, s = transform_all(second, tests["23"].old())
    z[of_first], s[of_first] = transform_all(first, tests["12"].old()[of_first])
    return z, s


def _prepare(folder: Path, seed: int) -> tuple[dict[str, FeatureCache], dict[str, EmbeddingMap]]:
    """Train models and maps; return the maps, and the cached test features of each."""
    setting = DEMOS["digits"]
    sources = {TRAIN: open_source(setting.train), TEST: open_source(setting.test)}
    models: list[Backbone] = [
        train_backbone(
            demo_model(setting, sources[TRAIN], dim=setting.dim),
            sources[TRAIN],
            steps=setting.steps,
            lr=setting.lr,
            seed=3 * seed + number,
            seen=seen,
        )
        for number, seen in enumerate((*SEEN, 0))
    ]
    tests: dict[str, FeatureCache] = {}
    maps: dict[str, EmbeddingMap] = {}
    for step, (old, new) in STEPS.items():
        place = folder / step
        for part, source in sources.items():
            views = VIEWS if part == TRAIN else 1
            cache_demo(place / part, models[old], models[new], source, views=views, seed=seed)
        maps[step] = train_map(place, ObjectiveConfig(), seed=seed).h
        tests[step] = read_cache(place / TEST)
    return tests, maps


def _reference(tests: dict[str, FeatureCache]) -> Values:
    """Measure the models alone, each with a gallery of its own."""
    labels = tests["12"].labels
    rows = np.arange(len(labels))
    each = {
        "first model": tests["12"].old(),
        "second model": tests["23"].old(),
        "full backfill (third model)": tests["23"].new(),
    }
    return {
        "map_before": {
            arm: 100 * retrieval(x, x, labels, labels, self_rows=rows).map
            for arm, x in each.items()
        }
    }


def _of_gallery(
    arm: str,
    z: NDArray[np.float32],
    s: NDArray[np.float32],
    test: FeatureCache,
    of_first: NDArray[np.bool_],
) -> Values:
    new = test.new()
    orders = {
        "sigma": order("sigma", OrderInputs(size=len(z), s=s)),
        "distance": order("distance", OrderInputs(size=len(z), z=z, new=new)),
    }
    found = update_curves(new, z, new, test.labels, orders)
    values = of_random(arm, mean_random(found))
    for name in orders:
        merge(values, scores(f"{arm}, {name}", found[name].map))
    taken = orders["sigma"][: round(found["sigma"].betas[HALF] * len(z))]
    values["first_half_old"] = {f"{arm}, sigma": float(of_first[taken].mean())}
    return values

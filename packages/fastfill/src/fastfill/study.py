"""One update measured: maps trained four ways, orders compared, other methods beside (spec 7a).

Queries and gallery are the test images, a query is left out of its own ranking. Not here: what is
concluded (`claims.py`), the biased old model (`bias_study.py`).
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fastfill.closed_form import fit_linear
from fastfill.config import CompatConfig, Method, ObjectiveConfig, TransformConfig
from fastfill.demo_data import (
    DEMOS,
    OLD,
    TEST,
    TRAIN,
    Demo,
    demo_data,
    demo_model,
    features,
)
from fastfill.demo_training import train_backbone
from fastfill.evaluation.curve import Curve, curves
from fastfill.evaluation.metrics import retrieval
from fastfill.feature_cache import FeatureCache, read_cache
from fastfill.ordering import OrderInputs, order
from fastfill.pair_data import PairData
from fastfill.sources import open_source
from fastfill.transform import transform_all
from fastfill.transform_module import TransformModule
from tenfold.bare_trainer import bare_trainer
from tenfold.cli.quiet import silence_adverts
from tenfold.measurements import one_thread
from tenfold.optim import OptimConfig

FCT, DISC, UNC, FASTFILL = "FCT", "l2+disc", "l2+unc", "FastFill"
OBJECTIVES = {
    FCT: ObjectiveConfig(mu_disc=0, uncertainty=False),
    DISC: ObjectiveConfig(uncertainty=False),
    UNC: ObjectiveConfig(mu_disc=0),
    FASTFILL: ObjectiveConfig(),
}
"""The paper's ablation (spec 2.2)."""

CLOSED_FORMS = ("ridge", "procrustes")
COMPATIBLE: Mapping[Method, CompatConfig] = {
    "bct": CompatConfig(method="bct", old=Path(OLD)),
    "ract": CompatConfig(method="ract", old=Path(OLD), weight=0.1, temperature=0.1),
}
"""New models trained to be comparable; with RACT's own temperature .01 and weight 1 these small
networks' units die."""

COMPATIBLE_LR = 0.1
POLICIES = ("sigma", "entropy", "confidence", "distance")
PERMUTATIONS = 5
STEPS = 600
Values = dict[str, dict[str, float]]
"""Metric to arm to value."""

HALF = 10
"""The point of the curve at which about half of the gallery (.476) is new."""


@dataclass(frozen=True, kw_only=True)
class Update:
    """An update to measure.

    Attributes:
        demo: Its images.
        seed: Of models, maps and orders.
        methods: Of `COMPATIBLE`.
    """

    demo: Demo
    seed: int
    methods: tuple[Method, ...] = ("bct", "ract")

    @property
    def key(self) -> str:
        """Name of the job."""
        return f"{self.demo}-{self.seed}"


def measure(update: Update, folder: Path) -> Values:
    """Return metric to arm to value, mAP in percent; a job, which leaves no file in its folder."""
    silence_adverts()
    with one_thread(), tempfile.TemporaryDirectory() as made:
        demo = Path(made)
        demo_data(demo, source=update.demo, seed=update.seed)
        train, test = read_cache(demo / TRAIN), read_cache(demo / TEST)
        values = _reference(test)
        for arm, loss in OBJECTIVES.items():
            h = train_map(demo, loss, seed=update.seed)
            z, s = transform_all(h.h, test.old())
            merge(values, _of_map(arm, test, z, s if loss.uncertainty else None))
        for kind in CLOSED_FORMS:
            linear = fit_linear(train.old(), train.new(), kind=kind)
            merge(values, _of_map(kind, test, transform_all(linear, test.old())[0], None))
        for method in update.methods:
            merge(values, _of_compatible(method, demo, update, test))
    return values


def train_map(
    demo: Path, loss: ObjectiveConfig, *, seed: int, steps: int = STEPS, batch_size: int = 256
) -> TransformModule:
    """Train h on a demo's cached features and return its module."""
    torch.manual_seed(seed)
    optim = OptimConfig(
        lr=2e-3,
        total_steps=steps,
        warmup_steps=steps // 16,
        name="adam",
        betas=(0.9, 0.999),
        weight_decay=2**-15,
        decay_all=True,
    )
    module = TransformModule(TransformConfig(inner=128), loss, optim)
    data = PairData(demo / TRAIN, val=demo / TEST, batch_size=batch_size, seed=seed)
    bare_trainer(steps).fit(module, datamodule=data)
    return module


def update_curves(
    queries: NDArray[np.float32],
    z: NDArray[np.float32],
    new: NDArray[np.float32],
    labels: NDArray[np.int64],
    orders: Mapping[str, NDArray[np.int64]],
) -> dict[str, Curve]:
    """Return the curves of some orders and of `PERMUTATIONS` random ones, `random-0` and so on."""
    random = {
        f"random-{seed}": order("random", OrderInputs(size=len(z), seed=seed))
        for seed in range(PERMUTATIONS)
    }
    rows = np.arange(len(z))
    return curves(queries, z, new, labels, {**random, **orders}, self_rows=rows)


def mean_random(found: Mapping[str, Curve]) -> NDArray[np.float64]:
    """Return mAP at each point, the mean of the random orders."""
    return np.mean([found[f"random-{seed}"].map for seed in range(PERMUTATIONS)], axis=0)


def recovered(points: NDArray[np.float64]) -> float:
    """Return what about half of the backfill brings, as share of what all brings (0: nothing)."""
    gain = points[-1] - points[0]
    return float((points[HALF] - points[0]) / gain) if gain else 0.0


def _reference(test: FeatureCache) -> Values:
    rows, labels = np.arange(len(test)), test.labels
    both = {"no update (old/old)": test.old(), "full backfill (new/new)": test.new()}
    return {
        "map_before": {
            arm: 100 * retrieval(x, x, labels, labels, self_rows=rows).map
            for arm, x in both.items()
        }
    }


def _of_map(
    arm: str,
    test: FeatureCache,
    z: NDArray[np.float32],
    s: NDArray[np.float32] | None,
) -> Values:
    """Measure a map; with s all orders, without it the random ones."""
    new = test.new()
    orders = {} if s is None else {name: _order(name, test, z, s) for name in POLICIES}
    found = update_curves(new, z, new, test.labels, orders)
    values = of_random(arm, mean_random(found))
    for name in orders:
        points = found[name].map
        merge(values, scores(f"{arm}, {name}", points))
    return values


def _order(
    name: str, test: FeatureCache, z: NDArray[np.float32], s: NDArray[np.float32]
) -> NDArray[np.int64]:
    inputs = OrderInputs(
        size=len(z),
        s=s,
        z=z,
        head=test.head,
        old=test.old(),
        old_head=test.old_head,
        new=test.new() if name == "distance" else None,
    )
    return order(name, inputs)


def _of_compatible(method: Method, demo: Path, update: Update, test: FeatureCache) -> Values:
    """Measure a new model trained to be comparable: the gallery keeps the old embeddings."""
    setting = DEMOS[update.demo]
    train = open_source(setting.train)
    backbone = train_backbone(
        demo_model(setting, train, dim=setting.dim),
        train,
        steps=setting.steps,
        lr=COMPATIBLE_LR,
        seed=2 * update.seed + 1,
        compat=replace(COMPATIBLE[method], old=demo / OLD, old_classes=setting.seen),
    )
    new = features(backbone, open_source(setting.test), views=1, seed=update.seed)[:, 0]
    found = update_curves(new, widened(test.old(), new.shape[1]), new, test.labels, {})
    return of_random(method.upper(), mean_random(found))


def widened(old: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Return old embeddings `[n, width]` as compatible training compares them: zeros, or a cut."""
    return np.pad(old, ((0, 0), (0, max(0, width - old.shape[1]))))[:, :width]


def of_random(arm: str, points: NDArray[np.float64]) -> Values:
    """Return what is told of a curve in random order, mAP in percent."""
    values = scores(f"{arm}, random", points)
    values["map_before"] = {f"{arm}, before": 100 * float(points[0])}
    values["dip"] = {f"{arm}, random": 100 * float(points.min() - points[0])}
    return values


def scores(arm: str, points: NDArray[np.float64]) -> Values:
    """Return area and recovered share of a curve, mAP in percent."""
    return {
        "auc_map": {arm: 100 * float(points.mean())},
        "recovered": {arm: recovered(points)},
    }


def merge(values: Values, more: Mapping[str, Mapping[str, float]]) -> None:
    """Add measurements of further arms."""
    for metric, arms in more.items():
        values.setdefault(metric, {}).update(arms)

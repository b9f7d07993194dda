"""The scale `gpu` of `reproduce`, run through on the CPU at a shrunken size, and its claims."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastfill.claims_gpu import NAMES, judge_gallery
from fastfill.cli import APP
from fastfill.config import BackboneConfig
from fastfill.gallery_gpu import Drift, backfill_while_searched, recall
from fastfill.index.faiss_ivf import FaissIvf
from fastfill.models import build_backbone
from fastfill.reproduce_gpu import compare_on_shapes
from fastfill.shapes import NUM_CLASSES
from fastfill.shapes_training import Recipe
from fastfill.study_gpu import ShapeScale
from fastfill.transform import Transformation
from tenfold.keyed import generator
from tenfold.results import Result, save_result

TINY = BackboneConfig(arch="tiny_conv", dim=8, num_classes=NUM_CLASSES)
SHRUNKEN = ShapeScale(
    train=400,
    test=400,
    image_size=32,
    old=TINY,
    new=BackboneConfig(arch="tiny_conv", dim=12, num_classes=NUM_CLASSES),
    views=2,
    recipe=Recipe(steps=6, old_steps=4, batch_size=32, inner=16, epochs=16, pairs=64),
    gallery=2000,
    queries=8,
    rate=100_000,
)


def _run(folder: Path) -> dict[str, Result]:
    return compare_on_shapes(SHRUNKEN, folder, seeds=2, device="cpu")


def test_the_whole_scale_runs_through_at_shrunken_size_and_goes_on(tmp_path: Path) -> None:
    results = _run(tmp_path)
    assert set(results) == {
        *(f"{name}_shapes" for name in ("fct", "sigma", "disc", "recovered", "oracle")),
        "gallery_recall",
        "gallery_rate",
    }
    rows = {(row.arm, row.metric): row for row in results["fct_shapes"].rows}
    for arm in ("FCT", "BCT", "FastFill"):
        for policy in ("random", "entropy", "distance"):
            assert all(0 < each < 100 for each in rows[f"{arm}, {policy}", AUC].per_seed)
    assert ("FastFill, sigma", AUC) in rows
    assert ("FCT, sigma", AUC) not in rows  # it has no uncertainty
    stages = {row.arm: row.mean for row in results["gallery_rate"].rows if row.metric == RECALL}
    assert set(stages) == {"0%", "25%", "50%", "75%", "100%"}
    assert all(0 < each <= 1 for each in stages.values())
    speeds = {row.arm for row in results["gallery_rate"].rows if row.metric == SPEED}
    assert speeds == {"h, float32", "new model, float32"}
    assert results["gallery_rate"].command.endswith("--scale gpu --seeds 2")

    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert len(written) == 2 * (3 + 3)  # models and maps of each seed
    again = _run(tmp_path)
    assert {name: result.rows for name, result in again.items()} == {
        name: result.rows for name, result in results.items()
    }
    assert written == {path: path.stat().st_mtime_ns for path in written}
    save_result(results["fct_shapes"], tmp_path / "fct_gpu.json")
    assert json.loads((tmp_path / "fct_gpu.json").read_text())["scale"] == "gpu"


AUC = "test/auc_map_percent"
RECALL, SPEED = NAMES["recall_at_10"], NAMES["items_per_s"]


def _drift(size: int = 3000) -> Drift:
    random = generator("drift of the test")
    new = random.standard_normal((size, 8), dtype=np.float32)
    z = new + 0.3 * random.standard_normal((size, 8), dtype=np.float32)
    queries = random.standard_normal((16, 8), dtype=np.float32)
    return Drift(z, new, random.permutation(size), queries)


def test_a_backfill_writes_everything_at_its_rate_and_fits_the_cells_anew() -> None:
    began = time.perf_counter()
    found = backfill_while_searched(_drift(), rate=4000)
    assert time.perf_counter() - began > 0.5  # 3,000 items at 4,000 a second
    assert list(found["written_per_s"]) == [
        f"until {share}" for share in ("25%", "50%", "75%", "100%")
    ]
    # A batch is due at the moment its first item is: the last one of a quarter comes early.
    assert all(0 < each < 1.6 * 4000 for each in found["written_per_s"].values())
    assert all(each > 0 for each in found["queries_per_s"].values())
    assert found["trainings"]["faiss-ivf"] >= 3
    assert min(found["recall_at_10"].values()) > 0.9


def test_a_write_that_fails_ends_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    drift = _drift(400)
    drift.new[drift.order[300], 0] = np.nan
    with pytest.raises(RuntimeError, match=r"writing to the index failed: .*NaN"):
        backfill_while_searched(drift, rate=1e6)


def test_cells_that_cannot_be_fitted_are_no_silent_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: FaissIvf) -> None:
        raise ValueError("no memory for the cells")

    monkeypatch.setattr(FaissIvf, "retrain", fail)
    with pytest.raises(RuntimeError, match="fitting the cells failed: no memory for the cells"):
        backfill_while_searched(_drift(400), rate=2000)


def test_recall_is_that_of_an_exact_search() -> None:
    vectors = generator("recall").standard_normal((2000, 4), dtype=np.float32)
    few = FaissIvf(dim=4, metric="l2", cells=50, probes=1, train_at=2000)
    few.upsert(np.arange(2000), vectors)
    true = np.argsort(np.square(vectors[:20, None] - vectors[None]).sum(2), kind="stable")[:, :10]
    rows = few.search(vectors[:20], 10).rows
    expected = np.mean([len(set(a) & set(b)) for a, b in zip(rows, true, strict=True)]) / 10
    assert recall(few, vectors[:20]) == pytest.approx(expected)
    assert expected < 1


def test_the_networks_of_the_scale_exist() -> None:
    size = ShapeScale()
    with torch.device("meta"):
        old, new = build_backbone(size.old), build_backbone(size.new)
        h = Transformation(old.dim, new.dim, inner=size.recipe.inner)
    assert (old.dim, new.dim, new.num_classes) == (128, 128, 200)
    assert sum(weight.numel() for weight in h.parameters()) == 5_712_129
    assert (size.views, size.recipe.epochs, size.gallery, size.rate) == (8, 80, 1_000_000, 10_000)
    assert size.train >= size.recipe.pairs


def _values(**changes: dict[str, float]) -> dict[str, dict[str, float]]:
    good = {
        "recall_at_10": {"0%": 0.95, "100%": 0.9},
        "written_per_s": {"until 50%": 9900.0, "until 100%": 9800.0},
        "queries_per_s": {"before": 500.0},
        "items_per_s": {"h, bfloat16": 1e7},
        "trainings": {"faiss-ivf": 4.0},
    }
    return good | changes


def test_claims_hold_by_the_worst_quarter() -> None:
    results = judge_gallery(_values(), rate=10_000, seeds=2, notes="")
    margins = {name: result.margin for name, result in results.items()}
    assert margins == pytest.approx({"gallery_recall": 0.1, "gallery_rate": 0.03})
    assert all(result.holds for result in results.values())


@pytest.mark.parametrize(
    ("failing", "changes"),
    [
        ("gallery_recall", {"recall_at_10": {"0%": 0.95, "50%": 0.7, "100%": 0.9}}),
        ("gallery_rate", {"written_per_s": {"until 50%": 5000.0, "until 100%": 9800.0}}),
    ],
)
def test_a_claim_that_fails_is_reported_so(failing: str, changes: dict[str, Any]) -> None:
    results = judge_gallery(_values(**changes), rate=10_000, seeds=2, notes="")
    assert [name for name, result in results.items() if not result.holds] == [failing]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scale=gpu"], "scale gpu needs an NVIDIA GPU"),
        (["--seeds=1"], "seeds must be >= 2 and workers >= 1, got 1 and 2"),
        (["--workers=0"], "seeds must be >= 2 and workers >= 1, got 5 and 0"),
    ],
)
def test_mistakes_are_told_in_one_line(
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    assert APP.main(["reproduce", *options]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert len(shown.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())

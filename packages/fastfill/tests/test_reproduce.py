"""What `reproduce` measures, at a shrunk size, and what it concludes from given numbers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastfill import demo_data, reproduce, study
from fastfill.bias_study import Turned, gap
from fastfill.claims import judge_bias, judge_update
from fastfill.cli import APP
from fastfill.evaluation.curve import Curve
from fastfill.sources import open_source
from fastfill.study import Update, measure, recovered
from tenfold.results import load_result


@pytest.fixture
def shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make models and maps train for a few steps, on few characters."""
    small = {
        "digits": replace(demo_data.DEMOS["digits"], old_steps=30, steps=60),
        "glyphs": replace(
            demo_data.DEMOS["glyphs"],
            train="glyphs:train:6",
            test="glyphs:test:6",
            seen=3,
            old_steps=4,
            steps=8,
        ),
    }
    for name, setting in small.items():
        monkeypatch.setitem(demo_data.DEMOS, name, setting)
    monkeypatch.setattr(study.train_map, "__kwdefaults__", {"steps": 32, "batch_size": 32})


def values(**changes: list[float]) -> dict[str, dict[str, list[float]]]:
    """Return measurements of two seeds in which every claim holds, with some areas changed."""
    area = {
        "FCT, random": [80.0, 81.0],
        "l2+disc, random": [80.5, 81.5],
        "FastFill, random": [80.6, 81.6],
        "FastFill, sigma": [82.0, 83.0],
        "FastFill, distance": [82.5, 83.5],
    }
    halves = {"FastFill, sigma": [0.95, 0.9], "FastFill, random": [0.5, 0.5]}
    return {"auc_map": area | changes, "recovered": halves}


def test_claims_that_hold() -> None:
    results = judge_update(values(), demo="digits", scale="tiny", notes="")
    assert all(result.holds for result in results.values())
    margins = {file: result.margin for file, result in results.items()}
    assert margins == pytest.approx(
        {
            "fct_digits": 0.5,
            "sigma_digits": 0.4,
            "disc_digits": 0.5,
            "recovered_digits": 0.025,
            "oracle_digits": 0.5,
        }
    )


@pytest.mark.parametrize(
    ("arm", "file"),
    [
        ("FCT, random", "fct_digits"),
        ("FastFill, random", "sigma_digits"),
        ("FCT, random", "disc_digits"),
    ],
)
def test_one_seed_can_end_a_claim(arm: str, file: str) -> None:
    changed = values(**{arm: [82.0, 81.0]})
    assert not judge_update(changed, demo="digits", scale="tiny", notes="")[file].holds


@pytest.mark.parametrize(("sigma", "holds"), [(4.0, True), (5.1, False)])
def test_the_gap_must_be_half(sigma: float, holds: bool) -> None:
    gaps = {"gap_at_0.3": {"sigma": [sigma, sigma], "random": [10.0, 10.0]}}
    assert judge_bias(gaps, scale="tiny", notes="").holds is holds


def test_recovered_is_a_share_of_what_there_is() -> None:
    points = np.linspace(0.5, 0.7, 22)
    assert recovered(points) == pytest.approx(10 / 21)
    assert recovered(np.full(22, 0.5)) == 0


def test_turned_digits_are_classes_of_their_own() -> None:
    data = Turned.of(open_source("digits:test"))
    half = len(data.labels) // 2
    assert torch.equal(data.labels[half:], data.labels[:half] + 10)
    assert torch.equal(data.images[half:], data.images[:half].rot90(dims=(2, 3)))
    assert data.turned.tolist() == [False] * half + [True] * half


def test_gap_is_of_the_queries_of_each_group() -> None:
    ap = np.array([[1.0, 0.5, 0.25], [1.0, 1.0, 1.0]])
    found = Curve(np.array([0.0, 1.0]), ap, np.zeros((2, 3), np.int64))
    assert gap(found, np.array([False, False, True])) == pytest.approx([0.5, 0.0])


@pytest.mark.usefixtures("shrunk")
def test_a_measurement_does_not_depend_on_when_it_is_made(tmp_path: Path) -> None:
    update = Update(demo="glyphs", seed=3, methods=("bct",))
    one, other = (measure(update, tmp_path) for _ in range(2))
    assert one == other
    assert {"BCT, random", "FastFill, sigma", "ridge, random"} < one["auc_map"].keys()
    assert "FCT, sigma" not in one["auc_map"]


@pytest.mark.usefixtures("shrunk")
def test_reproduce_writes_its_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    no_methods: Any = {"digits": (), "glyphs": ()}
    monkeypatch.setitem(reproduce.SCALES, "tiny", reproduce.Size(methods=no_methods))
    assert APP.main(["reproduce", "--seeds", "2", "--workers", "1"]) in (0, 1)
    written = {path.stem for path in Path("results/fastfill").glob("*.json")}
    assert len(written) == 12
    result = load_result(Path("results/fastfill/fct_digits_tiny.json"))
    before = next(row for row in result.rows if row.metric == "test/map_percent")
    assert 0 < min(before.per_seed) <= max(before.per_seed) < 100

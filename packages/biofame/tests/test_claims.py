"""What `reproduce` concludes from given numbers."""

import json
from pathlib import Path
from typing import Any

import pytest

from biofame.claims import Wording, judge, judge_ladder, with_gains
from biofame.study import FAME, INPUT, RELEASED
from tenfold.results import Result, load_result, save_result

OURS, SCRATCH, OTHER = f"{FAME}, pre-trained", f"{FAME}, scratch", f"{INPUT}, pre-trained"
WORDING = Wording("made-up signals", "Two seeds.")

Arms = dict[str, list[float]]


def values(**changes: Arms) -> dict[str, Arms]:
    """Return measurements of two seeds in which every claim holds, with some arms changed."""
    accuracy: Arms = {OURS: [80.0, 84.0], SCRATCH: [76.0, 77.0], OTHER: [79.0, 80.0]}
    good: dict[str, Arms] = {
        "accuracy": accuracy,
        "accuracy_25_labels": {OURS: [60.0, 61.0]},
        "accuracy_eeg": accuracy,
        "dropout_accuracy": {OURS: [70.0, 71.0], SCRATCH: [60.0, 61.0], OTHER: [69.5, 70.5]},
        "dropout_loss": {OURS: [12.5, 15.5], SCRATCH: [21.1, 20.8], OTHER: [12.0, 11.9]},
        "masked_error": {FAME: [0.5, 0.7], RELEASED: [1.0, 1.0], INPUT: [0.6, 0.6]},
        "structure": {
            "order of channels": [1e-6, 2e-6],
            "shift of tokens (pool)": [3e-6, 1e-6],
        },
    }
    return {metric: {**arms, **changes.get(metric, {})} for metric, arms in good.items()}


def judged(**changes: Arms) -> dict[str, Result]:
    return judge(values(**changes), demo="sleep", wording=WORDING, scale="tiny")


def test_claims_that_hold() -> None:
    results = judged()
    assert all(result.holds for result in results.values())
    assert {file: result.margin for file, result in results.items()} == pytest.approx(
        {
            "reconstruction_sleep": 0.7 - 0.6,
            "few_labels_sleep": (4 + 7) / 2 - 3,
            "sensor_dropout_sleep": 0.5,
            "structure_sleep": 1e-4 - 3e-6,
        }
    )
    assert all("On made-up signals, " in result.claim for result in results.values())
    assert {result.notes for result in results.values()} == {"Two seeds."}
    assert {result.seeds for result in results.values()} == {(0, 1)}


@pytest.mark.parametrize(
    ("file", "margin", "changes"),
    [
        ("reconstruction_sleep", -0.05, {"masked_error": {FAME: [0.7, 0.8]}}),
        ("few_labels_sleep", -0.5, {"accuracy": {SCRATCH: [77.0, 82.0]}}),
        ("few_labels_sleep", -13.0, {"accuracy": {OURS: [66.0, 67.0]}}),
        ("sensor_dropout_sleep", -1.0, {"dropout_accuracy": {OTHER: [71.0, 72.0]}}),
        # The worst seed of the worst check counts, not the mean.
        ("structure_sleep", -1e-4, {"structure": {"order of channels": [0.0, 2e-4]}}),
    ],
)
def test_a_claim_that_fails_is_the_only_one(
    file: str, margin: float, changes: dict[str, Any]
) -> None:
    results = judged(**changes)
    assert [name for name, result in results.items() if not result.holds] == [file]
    assert results[file].margin == pytest.approx(margin)


def test_other_arms_decide_nothing() -> None:
    changed = judged(
        masked_error={RELEASED: [9.0, 9.0], INPUT: [9.0, 9.0]},
        accuracy={OTHER: [99.0, 99.0]},
        dropout_loss={OURS: [99.0, 99.0]},
        dropout_accuracy={SCRATCH: [99.0, 99.0]},
    )
    margins = {file: result.margin for file, result in judged().items()}
    assert {file: result.margin for file, result in changed.items()} == margins


def test_subsets_and_numbers_of_labels_are_rows_of_their_claims() -> None:
    rows = judged()["sensor_dropout_sleep"].rows
    subsets = {(row.arm, row.metric) for row in rows if "percent_with" in row.metric}
    assert subsets == {(arm, "test/accuracy_percent_with_eeg") for arm in (OURS, OTHER)}
    (difference,) = [row for row in rows if row.metric == "gain/dropout_accuracy_points"]
    assert difference.per_seed == (0.5, 0.5)
    assert difference.arm == f"{OURS} - {INPUT}"
    few = {row.metric: row for row in judged()["few_labels_sleep"].rows if row.arm == OURS}
    assert few.keys() == {"test/accuracy_percent", "test/accuracy_25_labels"}
    assert few["test/accuracy_25_labels"].per_seed == (60.0, 61.0)


def test_gains_are_paired_by_seed() -> None:
    found = with_gains(values(accuracy={f"{RELEASED}, pre-trained": [70.0, 71.0]}))
    assert found["gain"] == {FAME: [4.0, 7.0]}
    both = {f"{RELEASED}, pre-trained": [70.0, 71.0], f"{RELEASED}, scratch": [71.0, 71.5]}
    assert with_gains(values(accuracy=both))["gain"][RELEASED] == [-1.0, -0.5]


@pytest.mark.parametrize(
    ("released", "margin"), [([78.0, 75.0], 5.5 - 3.5), ([90.0, 85.0], 5.5 - 14.5)]
)
def test_the_ladder_compares_gains(released: list[float], margin: float) -> None:
    arms = {f"{RELEASED}, pre-trained": released, f"{RELEASED}, scratch": [73.0, 73.0]}
    found = with_gains(values(accuracy=arms))
    result = judge_ladder(found, wording=WORDING, scale="small")
    assert result.margin == pytest.approx(margin)
    assert result.holds is (margin > 0)
    gains = {row.arm for row in result.rows if row.metric == "gain/accuracy_points"}
    assert gains == {FAME, RELEASED}


def test_results_are_files_with_a_plot(tmp_path: Path) -> None:
    result = judged(masked_error={FAME: [0.9, 0.9]})["reconstruction_sleep"]
    path = tmp_path / "reconstruction_sleep_tiny.json"
    save_result(result, path)
    assert load_result(path) == result
    written = json.loads(path.read_text())
    assert written["holds"] is False
    assert written["margin"] == pytest.approx(-0.2)
    assert written["command"] == "uv run biofame reproduce --scale tiny --seeds 2"
    assert path.with_suffix(".png").stat().st_size > 1000

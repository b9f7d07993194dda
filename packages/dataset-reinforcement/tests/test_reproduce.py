"""What `reproduce` concludes from its measurements, and that it measures."""

from pathlib import Path

import pytest

from dataset_reinforcement import reproduce as claim
from dataset_reinforcement.claims import ARMS, DR, ERM, KD, UNSMOOTHED, Setting, judge
from dataset_reinforcement.cli import APP
from dataset_reinforcement.reproduce import Scale
from tenfold.results import load_result
from tenfold.statistics import mean_interval

SETTING = Setting(scale="tiny", notes="")


def values(top1: dict[str, list[float]], *, ece: float = 0.1, cpu_s: float = 10.0) -> dict:
    steady = {arm: [0.3, 0.3, 0.3] for arm in ARMS}
    costs = {arm: [10.0, 10.0, 10.0] for arm in ARMS}
    return {
        "top1": {arm: [0.5, 0.5, 0.5] for arm in ARMS} | top1,
        "ece": steady | {DR: [ece] * 3},
        "cpu_s": costs | {DR: [cpu_s] * 3, KD: [80.0] * 3},
    }


def test_every_student_and_baseline_must_be_beaten() -> None:
    good = {DR: [0.60, 0.61, 0.62], KD: [0.6, 0.6, 0.6]}
    results = judge({"a": values(good), "b": values(good)}, SETTING)
    assert all(result.holds for result in results.values())
    gains = [0.10, 0.11, 0.12]
    assert results["accuracy"].margin == pytest.approx(mean_interval(gains).low)
    assert results["cost"].margin == pytest.approx(0.15)

    beaten = good | {UNSMOOTHED: [0.70, 0.60, 0.50]}
    results = judge({"a": values(good), "b": values(beaten)}, SETTING)
    assert not results["accuracy"].holds
    rows = {row.arm: row.per_seed for row in results["accuracy"].rows if row.metric == "gain/top1"}
    assert rows[f"b: {DR} - {UNSMOOTHED}"] == pytest.approx((-0.1, 0.01, 0.12))
    assert rows[f"b: {DR} - {ERM}"] == pytest.approx(gains)


@pytest.mark.parametrize(
    ("file", "bad"),
    [
        ("calibration", values({}, ece=0.31)),
        ("cost", values({}, cpu_s=11.6)),
        ("storing", values({DR: [0.50, 0.51, 0.52], KD: [0.6, 0.61, 0.62]})),
        # Within noise, since there is much of it, but two points worse.
        ("storing", values({DR: [0.40, 0.60, 0.44], KD: [0.5, 0.5, 0.5]})),
    ],
)
def test_a_claim_that_fails_for_one_student_fails(file: str, bad: dict) -> None:
    good = values({DR: [0.60, 0.61, 0.62]})
    results = judge({"good": good, "bad": bad}, SETTING)
    assert not results[file].holds
    assert results[file].margin < 0
    assert judge({"good": good}, SETTING)[file].holds


@pytest.mark.slow
def test_a_short_run_writes_every_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = Scale(characters=10, epochs=2, teacher_width=8, teacher_epochs=1, views=2)
    monkeypatch.setitem(claim.SCALES, "tiny", short)
    monkeypatch.setattr(claim, "STUDENTS", ("conv8",))
    monkeypatch.chdir(tmp_path)
    code = APP.main(["reproduce", "--seeds", "2", "--workers", "1"])
    results = [
        load_result(Path(f"results/dataset-reinforcement/{name}_tiny.json"))
        for name in ("accuracy", "calibration", "storing", "cost")
    ]
    assert code == (0 if all(result.holds for result in results) else 1)
    kd, dr = (
        next(row.mean for row in results[3].rows if row.arm == f"conv8: {arm}") for arm in (KD, DR)
    )
    assert kd > 0 < dr
    assert Path("results/dataset-reinforcement/cost_tiny.png").is_file()

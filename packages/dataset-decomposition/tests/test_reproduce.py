"""What `reproduce` concludes from its measurements, and that it measures."""

from pathlib import Path

import pytest

from dataset_decomposition import reproduce as claim
from dataset_decomposition.claims import (
    BASELINE,
    OURS,
    Measured,
    judge_loss,
    judge_step_time,
    judge_time,
)
from dataset_decomposition.cli import APP
from dataset_decomposition.reproduce import Scale
from tenfold.results import load_result


def measured(seconds: float, loss: float) -> Measured:
    return Measured(seconds, loss, {"0-64": loss + 1, "64+": loss})


@pytest.mark.parametrize(
    ("seconds", "loss", "time_margin", "loss_margin"),
    [
        ((8.0, 6.0), (3.0, 3.1), 0.85 - 0.8, 0.2),
        ((8.0, 9.0), (3.0, 3.4), 0.85 - 0.9, -0.1),
    ],
)
def test_the_worst_seed_decides(
    seconds: tuple[float, float],
    loss: tuple[float, float],
    time_margin: float,
    loss_margin: float,
) -> None:
    runs = {
        BASELINE: [measured(10.0, 3.3), measured(10.0, 3.3)],
        OURS: [measured(*pair) for pair in zip(seconds, loss, strict=True)],
    }
    timed, scored = judge_time(runs, "small", ""), judge_loss(runs, "small", "")
    assert timed.margin == pytest.approx(time_margin)
    assert scored.margin == pytest.approx(loss_margin)
    assert (timed.holds, scored.holds) == (time_margin > 0, loss_margin > 0)
    bands = {row.metric: row.mean for row in scored.rows if row.arm == BASELINE}
    assert bands["test/nll_position_0-64"] == pytest.approx(4.3)


def test_the_worst_fit_decides() -> None:
    straight = {32: 100.0, 64: 110.0, 128: 130.0}
    bent = {32: 100.0, 64: 140.0, 128: 130.0}
    assert judge_step_time([straight, straight], "small", "").holds
    result = judge_step_time([straight, bent], "small", "")
    assert not result.holds
    fits = {row.metric: row.per_seed for row in result.rows if row.arm == "T(L)"}
    assert fits["fit/alpha_ms"][0] == pytest.approx(90.0)
    assert fits["fit/beta_ms_per_token"][0] == pytest.approx(10 / 32)
    assert fits["fit/r2"][0] == pytest.approx(1.0)
    assert result.margin == pytest.approx(fits["fit/r2"][1] - 0.95)


@pytest.mark.slow
def test_a_short_run_writes_both_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(claim.SCALES, "tiny", Scale(8, (BASELINE, OURS), 2))
    monkeypatch.chdir(tmp_path)
    code = APP.main(["reproduce", "--seeds", "1"])
    timed = load_result(Path("results/dataset-decomposition/cpu_time_tiny.json"))
    scored = load_result(Path("results/dataset-decomposition/heldout_loss_tiny.json"))
    fitted = load_result(Path("results/dataset-decomposition/step_time_tiny.json"))
    assert code == (0 if timed.holds and fitted.holds else 1)
    assert 5.0 < scored.rows[0].mean < 7.5  # ln 1024 is 6.9
    assert Path("results/dataset-decomposition/heldout_loss_tiny.png").is_file()

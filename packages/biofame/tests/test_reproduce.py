"""What `reproduce` measures, at a shrunk size, and what it makes of it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from trained_runs import trained

from biofame import reproduce, study
from biofame.cli import APP
from biofame.config import ModelConfig
from biofame.model import BioFame
from biofame.reproduce import plan
from biofame.store import SignalStore
from biofame.structure import structural_differences
from biofame.study import (
    ARMS,
    FAME,
    INPUT,
    OPERATORS,
    RELEASED,
    SETTINGS,
    STEPS_OF_LADDER,
    Arm,
    Trial,
    ladder,
    measure,
    model_of,
)
from tenfold.results import Result, load_result

SENSORS = ("eeg", "eog", "emg", "resp")
ABSENT, ORDER = "absent channel = channel left out", "order of channels"
SHIFT = "shift of tokens (pool)"


@pytest.fixture
def shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make few people sleep, and networks be small and train for a few steps."""
    usual = SETTINGS["sleep"]
    small = replace(
        usual,
        model=replace(usual.model, dim=8, depth=1, mlp=8, mixer_mlp=8, filters=3, tokens=20),
        batch_size=8,
        steps=3,
        labels=10,
        finetune_steps=2,
    )
    monkeypatch.setitem(study.SETTINGS, "sleep", small)  # pyright: ignore[reportArgumentType]
    people = replace(study.SLEEP, subjects=6, windows_per_subject=20, seconds=2.0)
    monkeypatch.setattr(study, "SLEEP", people)


@pytest.fixture
def store(shrunk: None, tmp_path: Path) -> SignalStore:
    return study.demo_store("sleep", tmp_path / "store", seed=3)


@pytest.mark.usefixtures("shrunk")
def test_a_measurement_has_every_subset_and_does_not_depend_on_when_it_is_made(
    tmp_path: Path,
) -> None:
    trial = Trial(demo="sleep", arm=FAME, how=ARMS[FAME], seed=3, budgets=(10, 15))
    found = measure(trial, tmp_path)
    assert found == measure(trial, tmp_path)
    assert not list(tmp_path.iterdir())
    starts = {f"{FAME}, pre-trained", f"{FAME}, scratch"}
    subsets = {metric.removeprefix("accuracy_") for metric in found if "accuracy_" in metric}
    assert len(subsets - {"15_labels", "dropout_accuracy"}) == 14
    assert {"eeg+eog+emg", "emg+resp", "resp", "15_labels"} < subsets
    for metric in ("accuracy", "accuracy_15_labels", "accuracy_eeg", "dropout_loss"):
        assert set(found[metric]) == starts
    for start in starts:
        parts = [
            found[f"accuracy_{each}"][start]
            for each in subsets
            if set(SENSORS) & {*each.split("+")}
        ]
        mean = sum(parts) / len(parts)
        assert found["dropout_accuracy"][start] == pytest.approx(mean)
        whole = found["accuracy"][start]
        assert 0 < whole < 100
        assert found["dropout_loss"][start] == pytest.approx(100 * (1 - mean / whole))
    assert found["masked_error"].keys() == {FAME}
    assert found["structure"].keys() == {ABSENT, ORDER, SHIFT}
    assert max(found["structure"].values()) < 1e-5


@pytest.mark.usefixtures("shrunk")
def test_a_rung_of_the_ladder_is_tested_with_all_sensors_alone(tmp_path: Path) -> None:
    trial = Trial(demo="sleep", arm="+ no dropout", how=Arm(), seed=0, subsets=False)
    assert measure(trial, tmp_path).keys() == {"masked_error", "accuracy"}


@pytest.mark.parametrize("scale", ["tiny", "small"])
def test_a_plan_names_every_trial_once_and_has_every_arm(scale: Any) -> None:
    trials = plan(scale, 3)
    keys = [trial.key for trial in trials]
    assert len(set(keys)) == len(keys)
    for demo in ("sleep", "motions"):
        for arm in ARMS:
            found = [t for t in trials if (t.demo, t.arm) == (demo, arm)]
            assert [trial.seed for trial in found] == [0, 1, 2]
            assert all(trial.how == ARMS[arm] for trial in found)
            assert all(trial.subsets for trial in found)
            assert all(SETTINGS[demo].labels in trial.budgets for trial in found)
    others = list(dict.fromkeys(trial.arm for trial in trials if trial.arm not in ARMS))
    if scale == "tiny":
        assert others == []
        assert {trial.budgets for trial in trials} == {(50,), (8,)}
        return
    assert others == [*list(ladder())[1:-1], *OPERATORS]
    assert not any(trial.subsets for trial in trials if trial.arm in others)
    curves = {trial.budgets for trial in trials if trial.demo == "sleep" and trial.arm in ARMS}
    assert curves == {(25, 50, 100, 200)}


def test_the_ladder_leads_from_the_released_options_to_the_demos_own() -> None:
    rungs = ladder()
    assert list(rungs) == [RELEASED, *(f"+ {name}" for name, _ in STEPS_OF_LADDER)]
    arms = list(rungs.values())
    assert arms[0] == Arm() == ARMS[RELEASED]
    assert arms[-1] == ARMS[FAME]
    parts = ("model", "decoder", "loss")
    for before, after, (_, changes) in zip(arms, arms[1:], STEPS_OF_LADDER, strict=False):
        assert after != before
        for part in parts:
            expected = {**getattr(before, part), **changes.get(part, {})}
            assert getattr(after, part) == expected
    masked = ARMS[INPUT]
    assert masked.loss == {"masking": "input"}
    assert {**masked.model, "mixing": "filter"} == {
        **ARMS[FAME].model,
        "mixing": "filter",
        "encoder_positional": True,
    }


def _given(trial: Trial, folder: Path, *, gain: float) -> dict[str, dict[str, float]]:
    """Return a measurement without measuring; by `gain` pre-training is ahead."""
    starts = {f"{trial.arm}, pre-trained": 70 + gain, f"{trial.arm}, scratch": 70.0}
    ahead = {**starts, f"{INPUT}, pre-trained": 70.0} if trial.arm == INPUT else starts
    values = {"accuracy": starts, "dropout_accuracy": ahead, "dropout_loss": starts}
    found = {"masked_error": {trial.arm: 0.5}, **values}
    if trial.arm == FAME:
        found["structure"] = {ORDER: 1e-6}
    return found


@pytest.mark.parametrize(("gain", "code"), [(4.0, 0), (2.0, 1)])
def test_the_exit_code_says_whether_every_claim_holds(
    gain: float, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reproduce, "measure", lambda t, f: _given(t, f, gain=gain))
    assert APP.main(["reproduce", "--seeds=2", "--workers=1"]) == code
    written = {path.stem: load_result(path) for path in Path("results/biofame").glob("*.json")}
    kinds = ("reconstruction", "few_labels", "sensor_dropout", "structure")
    assert set(written) == {f"{kind}_{demo}_tiny" for kind in kinds for demo in SETTINGS}
    failed = {name for name, result in written.items() if not result.holds}
    assert failed == ({f"few_labels_{demo}_tiny" for demo in SETTINGS} if code else set())
    assert len(list(Path("results/biofame").glob("*.png"))) == len(written)


def test_small_judges_the_ladder_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(trial: Trial, folder: Path) -> dict[str, dict[str, float]]:
        return _given(trial, folder, gain=0.5 if trial.arm == RELEASED else 5.0)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reproduce, "measure", measured)
    shown: list[Result] = []
    monkeypatch.setattr(reproduce, "show_result", shown.append)
    assert APP.main(["reproduce", "--scale=small", "--seeds=2", "--workers=1"]) == 0
    result = load_result(Path("results/biofame/ladder_sleep_small.json"))
    assert result == shown[-1]
    assert result.margin == pytest.approx(4.5)
    arms = [row.arm for row in result.rows if row.metric == "gain/accuracy_points"]
    assert set(arms) == {FAME, *list(ladder())[:-1], *OPERATORS}


@pytest.mark.parametrize("options", [["--seeds=1"], ["--workers=0"]])
def test_too_few_seeds_or_workers_are_refused(
    options: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert APP.main(["reproduce", *options]) == 2
    shown = capsys.readouterr().err
    assert "seeds must be >= 2 and workers >= 1, got " in shown
    assert len(shown.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def _model(store: SignalStore, **changes: Any) -> ModelConfig:
    return model_of(Arm(model=changes), SETTINGS["sleep"], store)


def _differences(network: BioFame, store: SignalStore) -> dict[str, float]:
    pool = trained(_model(store, filter_std=1.0))
    return structural_differences(network, store, pool=pool)


@pytest.mark.parametrize("operator", ["pool", "query"])
@pytest.mark.parametrize("positional", ["none", "time", "both"])
def test_what_holds_by_the_networks_making(
    store: SignalStore, positional: str, operator: str
) -> None:
    network = trained(_model(store, mixer_positional=positional, operator=operator))
    found = _differences(network, store)
    assert found.keys() == {ABSENT, ORDER, SHIFT}
    assert max(found.values()) < 1e-5


def test_a_network_that_takes_channels_by_their_place_is_found_out(
    store: SignalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = trained(_model(store, mixer_positional="modality"))
    assert _differences(network, store)[ORDER] < 1e-5
    monkeypatch.setattr(network, "rows", lambda samples, channels: torch.arange(samples.shape[1]))
    assert _differences(network, store)[ORDER] > 1e-2


def test_a_mixer_that_attends_to_absent_channels_is_found_out(
    store: SignalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = trained(_model(store))
    forward = network.mixer.forward
    monkeypatch.setattr(network.mixer, "forward", lambda tokens, keys=None: forward(tokens))
    found = _differences(network, store)
    assert found[ABSENT] > 1e-2
    assert found[ORDER] < 1e-5


@pytest.mark.parametrize("changes", [{"encoder_positional": True}, {"operator": "query"}])
def test_an_encoder_that_does_not_follow_a_shift_is_found_out(
    store: SignalStore, changes: dict[str, Any]
) -> None:
    network = trained(_model(store, filter_std=1.0, **changes))
    assert structural_differences(network, store, pool=network)[SHIFT] > 1e-2

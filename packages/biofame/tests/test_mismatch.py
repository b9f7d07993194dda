import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_stores import CHANNELS, small_classifier, small_network, write_small_store
from trained_runs import saved_finetuning, saved_pretraining

from biofame.cli import APP
from biofame.mismatch import run_tests
from biofame.mismatch_conditions import (
    dropped,
    kept_sensors,
    matched,
    parse_swaps,
    resampled,
    resized,
    substituted,
)
from biofame.mismatch_report import Outcome, relative_drop
from biofame.mismatch_views import View, all_subsets, extend, sensors_of, shorter_or_longer
from biofame.passes import open_source, run_over
from biofame.signals import resample

CPU = torch.device("cpu")


def test_all_subsets_are_enumerated_once() -> None:
    subsets = all_subsets(("a", "b", "c"))
    assert len(subsets) == len(set(subsets)) == 2**3 - 1
    assert subsets == [
        ("a", "b", "c"),
        ("a", "b"),
        ("a", "c"),
        ("b", "c"),
        ("a",),
        ("b",),
        ("c",),
    ]
    with pytest.raises(ValueError, match="11 channels have 2047 subsets"):
        all_subsets([str(number) for number in range(11)])


def test_sensors_are_channels_or_kinds_of_them() -> None:
    channels = ("acc_x", "eeg_fpz_cz", "acc_y", "foo_1", "foo_2")
    assert sensors_of(channels, by_modality=True) == {
        "acc": ("acc_x", "acc_y"),
        "eeg": ("eeg_fpz_cz",),
        "foo": ("foo_1", "foo_2"),
    }
    assert list(sensors_of(channels, by_modality=False)) == list(channels)


def test_what_is_dropped_can_be_named() -> None:
    sensors = ("eeg", "eog", "emg")
    assert kept_sensors(sensors, ["eog", "eeg+emg"]) == [("eeg", "emg"), ("eog",)]
    assert len(kept_sensors(sensors, ["all-subsets", "eog"])) == 2**3 - 2
    with pytest.raises(ValueError, match="drop names ecg"):
        kept_sensors(sensors, ["ecg"])
    with pytest.raises(ValueError, match="leaves no channel"):
        kept_sensors(sensors, ["eeg+eog+emg"])


@pytest.mark.parametrize("pooling", ["avg", "cls"])
def test_an_absent_channel_is_as_if_it_were_never_there(tmp_path: Path, pooling: str) -> None:
    store = write_small_store(tmp_path)
    classifier = small_classifier(pooling=pooling)
    rows = store.rows("test")
    (condition,) = dropped(classifier, store, ["acc_x"], by_modality=False)
    assert condition.name == "without acc_x"
    without = run_over(classifier, condition.view, rows, device=CPU)
    masked = View(open_source(store), kept=np.array([True, False, True]))
    torch.testing.assert_close(run_over(classifier, masked, rows, device=CPU), without)
    with torch.no_grad():
        by_hand = classifier(
            torch.from_numpy(store.samples[rows][:, [0, 2]]), channels=("eeg", "acc_y"), rate=10.0
        )
    torch.testing.assert_close(without, by_hand)
    everything = run_over(classifier, matched(classifier, store).view, rows, device=CPU)
    assert not torch.allclose(everything, without)


def test_a_head_with_places_has_zeros_for_what_is_absent(tmp_path: Path) -> None:
    store = write_small_store(tmp_path)
    classifier = small_classifier(pooling="cat")
    rows = store.rows("test")
    (condition,) = dropped(classifier, store, ["acc_x+acc_y"], by_modality=False)
    found = run_over(classifier, condition.view, rows, device=CPU)
    with torch.no_grad():
        eeg = torch.from_numpy(store.samples[rows][:, :1])
        pooled = classifier.network(eeg, channels=("eeg",), rate=10.0).mean(dim=(1, 2))
        expected = classifier.output(torch.nn.functional.pad(pooled, (0, 2 * pooled.shape[1])))
    torch.testing.assert_close(found, expected)


def test_kinds_are_dropped_together(tmp_path: Path) -> None:
    store = write_small_store(tmp_path)
    found = dropped(small_classifier(), store, ["all-subsets"], by_modality=True)
    assert [each.name for each in found] == ["without acc", "without eeg"]
    assert found[1].view.source.columns.tolist() == [1, 2]


def test_a_substitute_comes_under_both_names(tmp_path: Path) -> None:
    store = write_small_store(tmp_path)
    network = small_network(channels=("eeg", "acc_x"), mixer_positional="modality")
    classifier = small_classifier(network)
    swaps = parse_swaps(["acc_x=acc_y"], ("eeg", "acc_x"), store)
    posing, own = substituted(classifier, store, swaps)
    rows = store.rows("test")
    samples = torch.from_numpy(store.samples[rows][:, [0, 2]])
    with torch.no_grad():
        as_known = classifier(samples, channels=("eeg", "acc_x"), rate=10.0)
        as_unknown = classifier(samples, channels=("eeg", "acc_y"), rate=10.0)
    torch.testing.assert_close(run_over(classifier, posing.view, rows, device=CPU), as_known)
    torch.testing.assert_close(run_over(classifier, own.view, rows, device=CPU), as_unknown)
    assert not torch.allclose(as_known, as_unknown)


@pytest.mark.parametrize("word", ["acc_x", "ecg=acc_y", "acc_x=ecg", "acc_x=eeg"])
def test_wrong_substitutes_are_named(tmp_path: Path, word: str) -> None:
    store = write_small_store(tmp_path)
    with pytest.raises(ValueError, match=f"substitute.*{word}"):
        parse_swaps([word], ("eeg", "acc_x"), store)


def test_longer_windows_go_on_as_the_recording_does(tmp_path: Path) -> None:
    # Of 8 windows in a row the first four are of one class, so that 3 + 3 of 8 have a follower.
    store = write_small_store(tmp_path)
    source, rows = open_source(store), store.rows("test")
    made = extend(source, rows, 2.0)
    assert (made.joined, made.tiled) == (12, 4)
    view, note = shorter_or_longer(View(source), rows, 2.0, patch=4)
    assert note == "12 joined to the windows that follow, 4 repeated"
    batch = view.read(rows[:, None])
    for place, row in enumerate(rows.tolist()):
        following = row + 1 if row % 4 != 3 else row
        expected = np.concatenate([store.samples[row], store.samples[following]], axis=1)
        np.testing.assert_array_equal(batch["samples"][place].numpy(), expected)
    half_more = View(source, factor=1.5, chains=made.chains).read(rows[:3, None])["samples"]
    np.testing.assert_array_equal(half_more.numpy(), batch["samples"][:3, :, :36].numpy())


def test_windows_are_not_joined_over_a_gap(tmp_path: Path) -> None:
    onsets = np.tile(np.arange(8), 6) * 24.0
    store = write_small_store(tmp_path, onsets=onsets)
    assert extend(open_source(store), store.rows("test"), 2.0).joined == 0


def test_shorter_windows_are_the_middle(tmp_path: Path) -> None:
    store = write_small_store(tmp_path)
    rows = store.rows("test")
    view, note = shorter_or_longer(View(open_source(store)), rows, 0.5, patch=4)
    assert note == "cut from the middle"
    batch = view.read(rows[:2, None])
    np.testing.assert_array_equal(batch["samples"].numpy(), store.samples[rows[:2], :, 6:18])
    with pytest.raises(ValueError, match="leave a patch of 4 samples"):
        shorter_or_longer(View(open_source(store)), rows, 0.1, patch=4)


def test_another_rate_is_told_to_the_model(tmp_path: Path) -> None:
    store = write_small_store(tmp_path)
    rows = store.rows("test")[:3]
    batch = View(open_source(store), rate=5.0).read(rows[:, None])
    assert batch["rate"] == 5.0
    expected = resample(store.samples[rows], rate=10.0, wanted=5.0)
    np.testing.assert_array_equal(batch["samples"].numpy(), expected)
    assert batch["samples"].shape == (3, 3, 12)


@pytest.mark.parametrize("pooling", ["avg", "cat"])
def test_models_of_sequences_are_tested_too(tmp_path: Path, pooling: str) -> None:
    store = write_small_store(tmp_path)
    classifier = small_classifier(task="staging", context=4, pooling=pooling)
    start = matched(classifier, store)
    rows = store.rows("test")
    conditions = [
        *dropped(classifier, store, ["eeg"], by_modality=False),
        *resized(classifier, start.view, rows, [0.5]),
        *resampled(start.view, [20.0]),
    ]
    tested = run_tests(classifier, conditions, batch_size=3, device=CPU)
    assert [each.windows for each in tested] == [16, 16, 16]
    with pytest.raises(ValueError, match="lengths above 1"):
        resized(classifier, start.view, rows, [2.0])


def test_relative_drop_counts_what_is_lost() -> None:
    def tested(**scores: float) -> Outcome:
        return Outcome(kind="dropped", condition="", windows=1, scores=(scores,))

    reference, found = tested(macro_f1=0.8, mae=2.0), tested(macro_f1=0.6, mae=3.0)
    assert relative_drop(found, reference, "macro_f1") == pytest.approx(0.25)
    assert relative_drop(found, reference, "mae") == pytest.approx(0.5)
    assert relative_drop(reference, found, "macro_f1") < 0


def test_verb_writes_all_tests(tmp_path: Path) -> None:
    write_small_store(tmp_path / "store")
    network = small_network(channels=CHANNELS[:2])
    run = saved_finetuning(tmp_path / "tuned.ckpt", small_classifier(network))
    pretrained = saved_pretraining(tmp_path / "pre.ckpt", network)
    out = tmp_path / "out"
    words: list[Any] = ["mismatch", run, tmp_path / "store", f"--out={out}", "--rates", 5.0]
    words += ["--substitute", "acc_x=acc_y", f"--pretrained={pretrained}", "--seeds=2", "--steps=2"]
    assert APP.main([str(word) for word in words]) == 0
    with (out / "mismatch.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "macro_f1"]
    assert [(row["test"], row["condition"]) for row in rows] == [
        ("as trained", "all channels"),
        ("dropped", "without acc_x"),
        ("dropped", "without eeg"),
        ("substituted", "acc_y under the name acc_x"),
        ("substituted", "acc_y in the place of acc_x"),
        ("length", "0.5 x length"),
        ("length", "1 x length"),
        ("length", "2 x length"),
        ("rate", "5 Hz"),
        ("fine-tuned as pre-trained", "all channels"),
        ("fine-tuned", "without acc_x"),
        ("fine-tuned", "without eeg"),
        ("fine-tuned", "acc_y in the place of acc_x"),
    ]
    assert [float(row["relative_drop"]) for row in rows if row["condition"] == "all channels"] == [
        0.0,
        0.0,
    ]
    assert rows[6]["mean"] == rows[0]["mean"]
    assert (rows[0]["seeds"], rows[-1]["seeds"]) == ("1", "2")
    content = json.loads((out / "mismatch.json").read_text())
    assert content["metric"] == "macro_f1"
    assert (out / "mismatch.png").read_bytes().startswith(b"\x89PNG")


def test_verb_names_a_pretrained_run_that_has_no_head(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_small_store(tmp_path / "store")
    run = saved_pretraining(tmp_path / "pre.ckpt", small_network())
    code = APP.main(["mismatch", str(run), str(tmp_path / "store"), f"--out={tmp_path / 'out'}"])
    assert code == 2
    assert "fine-tune it first" in capsys.readouterr().err

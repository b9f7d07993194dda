"""The verb `demo-data`: what it writes, that it keeps it, and what it refuses."""

import sys
from pathlib import Path

import numpy as np
import pytest

from biofame.demo_data import demo_data, write_sleep
from biofame.demo_series import MOTIONS, validation_rows
from biofame.splits import check_leakage
from biofame.store import open_store
from biofame.synthetic import STAGES, SleepConfig, generate

TINY = {"subjects": 5, "windows_per_subject": 4, "seconds": 10.0, "rate": 64.0}


def test_sleep_is_split_by_subject(tmp_path: Path) -> None:
    demo_data(tmp_path / "sleep", seed=3, channels=["eog", "ecg"], **TINY)
    store = open_store(tmp_path / "sleep", verify=True)
    check_leakage(store)
    assert store.info.channels == ("eog", "ecg")
    assert store.info.units == ("uV", "mV")
    assert (store.info.rate, store.info.classes) == (64.0, STAGES)
    sizes = {split: len(store.rows(split)) for split in ("train", "val", "test")}
    assert sizes == {"train": 12, "val": 4, "test": 4}
    config = SleepConfig(**TINY, channels=("eog", "ecg"))
    wanted = np.concatenate([part.samples for part in generate(config, seed=3)])
    np.testing.assert_array_equal(store.samples, wanted)
    assert store.key(5) == "subject_00001@10"


def test_defaults_are_those_of_the_generator(tmp_path: Path) -> None:
    demo_data(tmp_path, subjects=3, windows_per_subject=1)
    store = open_store(tmp_path)
    assert store.samples.shape == (3, 4, 3000)
    assert store.info.channels == SleepConfig().channels


def test_the_same_store_is_kept_and_another_refused(tmp_path: Path) -> None:
    demo_data(tmp_path, **TINY)
    samples = tmp_path / "samples.npy"
    written = samples.stat().st_mtime_ns
    demo_data(tmp_path, **TINY)
    assert samples.stat().st_mtime_ns == written
    for other in ({"seed": 1}, {"seconds": 5.0}, {"channels": ["eeg"]}, {"source": "ecg"}):
        options = TINY | other if "source" not in other else other
        with pytest.raises(ValueError, match=r"holds another store .*choose another folder or"):
            demo_data(tmp_path, **options)
    assert samples.stat().st_mtime_ns == written


def test_an_unfinished_store_is_written_again(tmp_path: Path) -> None:
    demo_data(tmp_path, **TINY)
    whole = (tmp_path / "samples.npy").read_bytes()
    (tmp_path / "store.json").unlink()
    (tmp_path / "samples.npy").write_bytes(whole[:100])
    demo_data(tmp_path, **TINY)
    assert open_store(tmp_path, verify=True).samples.tobytes() == whole[128:]


def test_difficulty_is_part_of_what_a_store_is(tmp_path: Path) -> None:
    config = SleepConfig(**TINY)
    assert len(write_sleep(tmp_path, config, seed=0)) == 20
    with pytest.raises(ValueError, match="another store"):
        write_sleep(tmp_path, SleepConfig(**TINY, difficulty=2.0), seed=0)


def test_basic_motions_keeps_its_own_test_split(tmp_path: Path) -> None:
    demo_data(tmp_path, source="basic_motions", seed=0)
    store = open_store(tmp_path)
    check_leakage(store)
    assert store.samples.shape == (80, 6, 100)
    assert store.info.channels == ("acc_x", "acc_y", "acc_z", "gyr_x", "gyr_y", "gyr_z")
    assert (store.info.rate, store.info.classes) == (10.0, MOTIONS)
    counts = [np.bincount(store.labels[store.rows(s)]) for s in ("train", "val", "test")]
    assert [count.tolist() for count in counts] == [[8] * 4, [2] * 4, [10] * 4]
    from sktime.datasets import load_basic_motions

    samples, labels = load_basic_motions(split="test", return_type="numpy3d")
    test = store.rows("test")
    np.testing.assert_allclose(store.samples[test], samples, atol=1e-5)
    assert [store.info.classes[label] for label in store.labels[test]] == labels.tolist()


def test_channels_of_a_watch_can_be_chosen(tmp_path: Path) -> None:
    demo_data(tmp_path / "all", source="basic_motions")
    demo_data(tmp_path / "two", source="basic_motions", channels=["gyr_y", "acc_x"])
    whole, two = open_store(tmp_path / "all"), open_store(tmp_path / "two")
    np.testing.assert_array_equal(two.samples, whole.samples[:, [4, 0]])
    assert two.info.channels == ("gyr_y", "acc_x")


def test_vowels_have_many_lengths(tmp_path: Path) -> None:
    demo_data(tmp_path, source="japanese_vowels")
    store = open_store(tmp_path)
    assert store.samples.shape == (640, 12, 29)
    assert (store.lengths.min(), store.lengths.max()) == (7, 29)
    for row in (0, 300, 639):
        assert store.samples[row, :, : store.lengths[row]].all(axis=0).any()
        assert not store.samples[row, :, store.lengths[row] :].any()
    assert len(store.rows("test")) == 370
    assert np.bincount(store.labels[store.rows("val")]).tolist() == [6] * 9
    assert store.samples[0, 0, :2] == pytest.approx([1.860936, 1.891651])


def test_the_ecg_is_cut_into_windows(tmp_path: Path) -> None:
    demo_data(tmp_path, source="ecg", seconds=2.0)
    store = open_store(tmp_path)
    assert store.samples.shape == (10, 1, 720)
    assert (store.info.rate, store.info.units) == (360.0, ("mV",))
    assert store.info.dropped == {"incomplete last window": 1}
    assert store.labels.tolist() == [0] * 9 + [1]
    assert store.samples[0, 0, :3] == pytest.approx([-0.195, -0.21, -0.21])
    assert set(store.splits) == {"train"}


def test_validation_has_each_class_and_depends_on_the_seed() -> None:
    labels = np.repeat(["a", "b", "c"], [20, 10, 2])
    chosen = validation_rows(labels, share=0.2, seed=0)
    assert [int(chosen[labels == name].sum()) for name in "abc"] == [4, 2, 1]
    np.testing.assert_array_equal(chosen, validation_rows(labels, share=0.2, seed=0))
    assert not np.array_equal(chosen, validation_rows(labels, share=0.2, seed=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subjects": 2}, "2 subjects cannot fill 3 splits"),
        ({"channels": ["ppg"]}, "channels must be of eeg, .* got ppg"),
        ({"source": "basic_motions", "subjects": 3}, "subjects 3 does not fit source basic_mot"),
        ({"source": "japanese_vowels", "seconds": 3.0}, "seconds 3.0 does not fit source jap"),
        ({"source": "ecg", "rate": 100.0}, "rate 100.0 does not fit source ecg"),
        ({"source": "ecg", "seconds": 60.0}, r"seconds must lie in \(0, 20.8\] for ecg, got 60"),
        ({"source": "ecg", "channels": ["eeg"]}, "channels must be of ecg, got eeg"),
        ({"source": "basic_motions", "channels": ["acc_x"] * 2}, "channels must name each once"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        demo_data(tmp_path, **options)
    assert not (tmp_path / "store.json").exists()


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sktime.datasets", None)
    with pytest.raises(ValueError, match=r"source basic_motions needs sktime: .*biofame\[demo\]"):
        demo_data(tmp_path, source="basic_motions")

from pathlib import Path
from typing import Any

import edfio
import numpy as np
import pytest
import torch
from edf_files import waves, write_edf
from numpy.typing import NDArray
from small_stores import CHANNELS, small_network, write_small_store
from trained_runs import saved_pretraining

from biofame.cli import APP
from biofame.embed import embed


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return saved_pretraining(tmp_path / "pre.ckpt", small_network())


def tokens_of(
    samples: NDArray[np.float32], channels: tuple[str, ...], rate: float = 10.0
) -> NDArray[np.float32]:
    """Return tokens of windows, computed one by one."""
    network = small_network()
    with torch.no_grad():
        each = [
            network(torch.from_numpy(window[None].copy()), channels=channels, rate=rate)
            for window in samples
        ]
    return torch.cat(each).numpy()


def assert_close(found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_store_in_its_order(tmp_path: Path, run: Path) -> None:
    lengths = np.full(48, 24)
    lengths[::5] = 16
    present = np.ones((48, 3), dtype=np.bool_)
    present[3, 2] = False
    present[7] = [True, False, False]  # has none of the channels asked for
    store = write_small_store(tmp_path / "store", lengths=lengths, present=present)
    out = tmp_path / "new" / "x.npz"
    words = [
        "embed",
        run,
        tmp_path / "store",
        out,
        "--batch_size=7",
        "--channels",
        "acc_x",
        "acc_y",
    ]
    assert APP.main([str(word) for word in words]) == 0
    with np.load(out, allow_pickle=False) as content:
        keys, found = content["keys"].tolist(), content["embeddings"]
    rows = [row for row in range(48) if row != 7]
    assert keys == [store.key(row) for row in rows]
    assert found.shape == (47, 8)
    for place, row in enumerate(rows):
        columns = [column for column in (1, 2) if present[row, column]]
        window = store.samples[row : row + 1, columns, : lengths[row]]
        tokens = tokens_of(window, tuple(CHANNELS[column] for column in columns))
        assert_close(found[place], tokens.mean(axis=(0, 1, 2)))


def test_tokens_of_an_array_that_says_all(tmp_path: Path, run: Path) -> None:
    samples = np.random.default_rng(0).normal(size=(5, 2, 24)).astype(np.float32)
    names = np.array(["ACC Y", "EEG"])
    keys = np.array(list("abcde"))
    np.savez(tmp_path / "in.npz", samples=samples, channels=names, rate=10.0, keys=keys)
    out = tmp_path / "x.npz"
    embed(run, tmp_path / "in.npz", out, content="tokens", batch_size=2)
    with np.load(out, allow_pickle=False) as content:
        assert content["keys"].tolist() == list("abcde")
        assert_close(content["embeddings"], tokens_of(samples, ("acc_y", "eeg")))


def test_an_array_of_samples_alone(tmp_path: Path, run: Path) -> None:
    samples = np.random.default_rng(0).normal(size=(3, 3, 24)).astype(np.float32)
    np.save(tmp_path / "in.npy", samples)
    embed(run, tmp_path / "in.npy", tmp_path / "x.npy", rate=10.0)
    assert_close(np.load(tmp_path / "x.npy"), tokens_of(samples, CHANNELS).mean(axis=(1, 2)))
    assert (tmp_path / "x.keys.txt").read_text() == "in@0\nin@1\nin@2\n"


def test_voltages_of_an_array_come_to_microvolt_or_are_doubted(
    tmp_path: Path, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    samples = 20 * np.random.default_rng(0).normal(size=(5, 2, 24)).astype(np.float32)
    about: dict[str, Any] = {"channels": ["acc_y", "EEG"], "rate": 10.0}
    volts = samples * np.array([[1.0], [1e-6]], dtype=np.float32)
    np.savez(tmp_path / "in.npz", samples=volts, units=["g", "V"], **about)
    embed(run, tmp_path / "in.npz", tmp_path / "x.npz", content="tokens")
    with np.load(tmp_path / "x.npz", allow_pickle=False) as content:
        assert_close(content["embeddings"], tokens_of(samples, ("acc_y", "eeg")))
    assert not caplog.text
    np.savez(tmp_path / "unnamed.npz", samples=volts, **about)
    embed(run, tmp_path / "unnamed.npz", tmp_path / "y.npz")
    assert "unnamed.npz: channel eeg deviates by" in caplog.text
    assert "look like V" in caplog.text
    np.savez(tmp_path / "three.npz", samples=volts, units=["g", "V", "V"], **about)
    with pytest.raises(ValueError, match="2 channels and 3 units"):
        embed(run, tmp_path / "three.npz", tmp_path / "z.npz")


@pytest.mark.parametrize("rate", [None, 10.0])
def test_a_recording_is_cut_into_windows_of_training(
    tmp_path: Path, run: Path, rate: float | None
) -> None:
    signal = edfio.EdfSignal(
        waves(20, 9, seed=1), 20, label="EEG", physical_dimension="uV", physical_range=(-50, 50)
    )
    path = write_edf(tmp_path / "night.edf", [signal])
    embed(run, path, tmp_path / "x.npz", rate=rate)
    with np.load(tmp_path / "x.npz", allow_pickle=False) as content:
        # 2.4 s each; the last 1.8 s fill no window.
        assert content["keys"].tolist() == ["night@0", "night@2.4", "night@4.8"]
        found = content["embeddings"]
    if rate is None:
        cut = signal.data[:144].reshape(3, 1, 48).astype(np.float32)
        assert_close(found, tokens_of(cut, ("eeg",), 20.0).mean(axis=(1, 2)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input": "gone.npy"}, "does not exist"),
        ({"input": "x.txt"}, "must be a store's folder"),
        ({}, "does not say its rate"),
        ({"rate": 10.0, "channels": ["eeg"]}, "has 3 channels, named are eeg"),
        ({"rate": 10.0, "out": "x.txt"}, r"must end with \.npz or \.npy"),
        ({"rate": 10.0, "out": "in.npy"}, "exists: choose another name"),
        ({"rate": 10.0, "batch_size": 0}, "batch_size must be >= 1"),
        ({"rate": 10.0, "device": "cuda:99"}, "torch sees"),
        ({"rate": 10.0, "input": "nan.npy"}, r"1 windows have samples .* the first is nan@1"),
        ({"rate": 10.0, "input": "flat.npy"}, r"must be numbers \[windows, channels, time\]"),
        ({"rate": 10.0, "input": "bad.npz"}, "cannot be read as arrays"),
        ({"input": "store", "rate": 20.0}, "rate is 20, .* has 10: leave it out"),
    ],
)
def test_bad_input_is_named_and_leaves_nothing(
    tmp_path: Path, run: Path, options: dict[str, Any], message: str
) -> None:
    np.save(tmp_path / "in.npy", np.zeros((2, 3, 24), np.float32))
    broken = np.zeros((2, 3, 24), np.float32)
    broken[1, 0, 0] = np.nan
    np.save(tmp_path / "nan.npy", broken)
    np.save(tmp_path / "flat.npy", np.zeros((2, 24), np.float32))
    (tmp_path / "bad.npz").write_bytes(b"nothing")
    (tmp_path / "x.txt").write_text("")
    write_small_store(tmp_path / "store")
    given = {"input": "in.npy", "out": "new.npz"} | options
    paths = {name: tmp_path / given.pop(name) for name in ("input", "out")}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        embed(run, paths["input"], paths["out"], **given)
    assert not (tmp_path / "new.npz").exists()


def test_tokens_of_windows_of_two_lengths_fit_in_no_array(tmp_path: Path, run: Path) -> None:
    lengths = np.full(48, 24)
    lengths[0] = 16
    write_small_store(tmp_path / "store", lengths=lengths)
    with pytest.raises(ValueError, match="windows have 4 and 6 tokens"):
        embed(run, tmp_path / "store", tmp_path / "x.npz", content="tokens")

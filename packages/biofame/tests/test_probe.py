import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from small_stores import (
    CHANNELS,
    small_classifier,
    small_network,
    write_small_store,
)
from trained_runs import saved_pretraining

from biofame.cli import APP
from biofame.features import pooled, split_features
from biofame.linear_probe import Labelled, ProbeConfig, score_probe, train_probe
from biofame.passes import open_source, rows_with_channels, run_over
from biofame.probe import score_neighbours

CPU = torch.device("cpu")


def clusters(*, seed: int, windows: int = 90, spread: float = 0.6) -> Labelled:
    """Features of three classes about three centres."""
    rng = np.random.default_rng(seed)
    labels = np.arange(windows) % 3
    centres = np.array([[2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0]])
    features = centres[labels] + rng.normal(0, spread, (windows, 4))
    return Labelled(torch.from_numpy(features.astype(np.float32)), torch.from_numpy(labels))


def test_features_are_means_over_tokens_whatever_the_batch(tmp_path: Path) -> None:
    lengths = np.full(48, 24)
    lengths[::3] = 16
    present = np.ones((48, 3), dtype=np.bool_)
    present[5, 0] = False
    store = write_small_store(tmp_path, lengths=lengths, present=present)
    network = small_network()
    source = open_source(store)
    rows = rows_with_channels(source, "train")
    found = pooled(network, source, rows, batch_size=5, device=CPU)
    with torch.no_grad():
        for place, row in enumerate(rows.tolist()):
            kept = np.flatnonzero(store.present[row])
            samples = torch.from_numpy(store.samples[row : row + 1, kept, : lengths[row]].copy())
            tokens = network(samples, channels=[CHANNELS[c] for c in kept], rate=10.0)
            expected = tokens.mean(dim=(1, 2))[0]
            torch.testing.assert_close(found[place], expected, rtol=1e-4, atol=1e-5)


def test_a_pass_returns_windows_in_the_order_asked_for(tmp_path: Path) -> None:
    store = write_small_store(tmp_path)
    rows = np.array([30, 2, 17, 40])

    def first_sample(samples: torch.Tensor, **_: object) -> torch.Tensor:
        return samples[:, 0, 0]

    found = run_over(first_sample, open_source(store), rows, batch_size=3, device=CPU)
    assert found.tolist() == store.samples[rows, 0, 0].tolist()


def test_a_pass_over_sequences_returns_each_window(tmp_path: Path) -> None:
    store = write_small_store(tmp_path)
    rows = store.rows("test")
    classifier = small_classifier(task="staging", context=3)
    source = open_source(store, context=3)
    found = run_over(classifier, source, rows, context=3, batch_size=2, device=CPU)
    assert found.shape == (16, 2)
    with torch.no_grad():
        sequence = torch.from_numpy(store.samples[None, rows[3:6]])
        torch.testing.assert_close(found[3:6], classifier(sequence)[0])


def test_probe_reaches_the_optimum_of_logistic_regression() -> None:
    train, val = clusters(seed=0), clusters(seed=1)
    config = ProbeConfig(epochs=300, lr=5e-2, weight_decay=0.0)
    layer = train_probe(train, val, task="classification", outputs=3, config=config, seed=0)
    oracle = LogisticRegression(C=1e6).fit(train.features.numpy(), train.truth.numpy())
    expected = oracle.score(val.features.numpy(), val.truth.numpy())
    assert score_probe(layer, val)["accuracy"] >= expected - 0.03


def test_probe_keeps_the_epoch_that_is_best_on_val() -> None:
    train = clusters(seed=0)
    # Labels of the validation split are turned: what is learnt makes it worse.
    val = Labelled(train.features, (train.truth + 1) % 3)
    scores = []
    for epochs in (1, 30):
        config = ProbeConfig(epochs=epochs, lr=5e-2)
        layer = train_probe(train, val, task="classification", outputs=3, config=config, seed=0)
        scores.append(score_probe(layer, val)["macro_f1"])
    assert scores[1] >= scores[0]
    assert scores[1] > score_of_last_epoch(train, val)


def score_of_last_epoch(train: Labelled, val: Labelled) -> float:
    """Score on `val` of the probe that suits `train` best."""
    config = ProbeConfig(epochs=30, lr=5e-2)
    layer = train_probe(train, train, task="classification", outputs=3, config=config, seed=0)
    return score_probe(layer, val)["macro_f1"]


def test_probe_of_numbers_finds_the_line() -> None:
    features = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    truth = features @ torch.tensor([[50.0], [-20.0], [0.0]]) + 400
    part = Labelled(features, truth)
    config = ProbeConfig(epochs=200, lr=5e-2, batch_size=64)
    layer = train_probe(part, part, task="regression", outputs=1, config=config, seed=0)
    assert score_probe(layer, part)["r2"] > 0.999


def test_neighbours_vote_as_in_scikit_learn() -> None:
    train, test = clusters(seed=0, spread=1.5), clusters(seed=1, spread=1.5)
    oracle = KNeighborsClassifier(n_neighbors=7, metric="cosine", algorithm="brute")
    oracle.fit(train.features.numpy(), train.truth.numpy())
    expected = oracle.score(test.features.numpy(), test.truth.numpy())
    found = score_neighbours(train, test, task="classification", outputs=3, k=7)
    assert found["accuracy"] == pytest.approx(expected)
    with pytest.raises(ValueError, match=r"k must lie in 1\.\.90"):
        score_neighbours(train, test, task="classification", outputs=3, k=91)


def test_verbs_write_scores(tmp_path: Path) -> None:
    write_small_store(tmp_path / "store")
    run = saved_pretraining(tmp_path / "x.ckpt", small_network())
    words = [str(run), str(tmp_path / "store"), "--seeds", "2"]
    assert APP.main(["probe", *words, "--epochs=3", "--labels=8", f"--out={tmp_path / 'p'}"]) == 0
    assert APP.main(["knn", *words, "--k=3", f"--out={tmp_path / 'k'}", "--channels", "eeg"]) == 0
    scored = json.loads((tmp_path / "p" / "scores.json").read_text())["scored"]
    assert [(each["arm"], each["condition"], each["seed"]) for each in scored] == [
        ("linear probe", "labels 8", 0),
        ("linear probe", "labels 8", 1),
    ]
    assert len(json.loads((tmp_path / "k" / "scores.json").read_text())["scored"]) == 1
    head, *lines = (tmp_path / "k" / "scores.csv").read_text().splitlines()
    assert head == "arm,condition,metric,mean,std,seeds,per_seed"
    assert any(line.startswith("3 nearest neighbours,,accuracy,") for line in lines)


def test_bad_input_is_named(tmp_path: Path) -> None:
    store = write_small_store(tmp_path / "store", splits=["train"] * 48)
    run = saved_pretraining(tmp_path / "x.ckpt", small_network())
    with pytest.raises(ValueError, match="no windows of split test"):
        split_features(run, store, ("train", "test"))
    with pytest.raises(ValueError, match=r"channels must name channels of .*got ecg"):
        split_features(run, store, ("train",), channels=["ecg"])
    with pytest.raises(ValueError, match="torch sees"):
        split_features(run, store, ("train",), device="cuda:99")
    with pytest.raises(ValueError, match="epochs must be >= 1"):
        ProbeConfig(epochs=0)

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as oracle
from torch import Tensor

from biofame.metrics import WindowScores, scores
from tenfold.testing import run_ranks


def draw(windows: int, outputs: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits and classes."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(windows, outputs, generator=generator)
    return logits, torch.randint(outputs, (windows,), generator=generator)


@pytest.mark.parametrize("absent", [(), (2,), (0, 3)])
def test_class_scores_are_those_of_scikit_learn(absent: tuple[int, ...]) -> None:
    logits, labels = draw(200, 5)
    keep = torch.tensor([int(label) not in absent for label in labels])
    logits, labels = logits[keep], labels[keep]
    truth, shares = labels.numpy(), logits.double().softmax(1).numpy()
    predicted = shares.argmax(1)
    present = np.unique(truth)
    macro: Any = {"average": "macro", "zero_division": 0}
    expected = {
        "accuracy": oracle.accuracy_score(truth, predicted),
        "macro_precision": oracle.precision_score(truth, predicted, **macro),
        "macro_recall": oracle.recall_score(truth, predicted, **macro),
        "macro_f1": oracle.f1_score(truth, predicted, **macro),
        "balanced_accuracy": np.mean([(predicted[truth == c] == c).mean() for c in present]),
        "auroc": np.mean([oracle.roc_auc_score(truth == c, shares[:, c]) for c in present]),
        "auprc": np.mean(
            [oracle.average_precision_score(truth == c, shares[:, c]) for c in present]
        ),
        "mean_ovr_accuracy": np.mean([((truth == c) == (predicted == c)).mean() for c in range(5)]),
    }
    assert scores("classification", logits, labels) == pytest.approx(expected)


def test_auroc_is_the_share_of_pairs_in_order() -> None:
    logits, labels = draw(60, 3, seed=1)
    shares = logits.double().softmax(1)
    aurocs = []
    for number in range(3):
        positive = shares[labels == number, number]
        negative = shares[labels != number, number]
        aurocs.append((positive[:, None] > negative[None]).double().mean().item())
    found = scores("classification", logits, labels)
    assert found["auroc"] == pytest.approx(np.mean(aurocs))
    all_of_them = oracle.roc_auc_score(labels.numpy(), shares.numpy(), multi_class="ovr")
    assert found["auroc"] == pytest.approx(all_of_them)


def test_mean_ovr_accuracy_flatters_where_balanced_accuracy_does_not() -> None:
    labels = torch.tensor([0] * 90 + [1] * 5 + [2] * 5)
    always_first = torch.tensor([1.0, 0.0, 0.0]).repeat(100, 1)
    found = scores("classification", always_first, labels)
    assert found["balanced_accuracy"] == pytest.approx(1 / 3)
    assert found["mean_ovr_accuracy"] == pytest.approx((0.9 + 0.95 + 0.95) / 3)
    assert found["accuracy"] == pytest.approx(0.9)


def test_one_class_alone_has_no_ranking() -> None:
    logits, _ = draw(7, 3)
    found = scores("classification", logits, torch.ones(7, dtype=torch.long))
    assert math.isnan(found["auroc"])
    assert math.isnan(found["auprc"])
    assert 0 <= found["accuracy"] <= 1


def test_unknown_windows_do_not_count() -> None:
    logits, labels = draw(40, 4)
    labels[::3] = -1
    kept = labels >= 0
    expected = scores("classification", logits[kept], labels[kept])
    assert scores("classification", logits, labels) == expected
    assert scores("staging", logits.view(10, 4, 4), labels.view(10, 4)) == expected
    numbers = torch.randn(40, 4)
    numbers[5, 2] = math.nan
    rest = torch.arange(40) != 5
    expected = scores("regression", logits[rest], numbers[rest])
    assert scores("regression", logits, numbers) == expected


def test_label_scores_are_those_of_scikit_learn() -> None:
    logits, _ = draw(80, 4, seed=2)
    labels = (torch.rand(80, 4, generator=torch.Generator().manual_seed(3)) < 0.4).float()
    labels[:, 3] = 0
    truth, guess = labels.numpy(), (logits > 0).numpy()
    kept, values = truth[:, :3], logits[:, :3].numpy()
    expected = {
        "auroc": oracle.roc_auc_score(kept, values, average="macro"),
        "auprc": oracle.average_precision_score(kept, values, average="macro"),
        "macro_f1": oracle.f1_score(truth, guess, average="macro", zero_division=0),
        "exact_match": oracle.accuracy_score(truth, guess),
    }
    assert scores("multilabel", logits, labels) == pytest.approx(expected)


def test_number_scores_are_those_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(4)
    truth = torch.randn(50, 2, generator=generator) * torch.tensor([1.0, 30.0])
    values = truth + torch.randn(50, 2, generator=generator)
    pairs = list(zip(truth.T.double().numpy(), values.T.double().numpy(), strict=True))
    expected = {
        "mae": oracle.mean_absolute_error(truth.double(), values.double()),
        "rmse": np.mean([oracle.mean_squared_error(a, b) ** 0.5 for a, b in pairs]),
        "r2": oracle.r2_score(truth.double(), values.double()),
        "pearson": np.mean([np.corrcoef(a, b)[0, 1] for a, b in pairs]),
    }
    assert scores("regression", values, truth) == pytest.approx(expected)
    truth[:, 1] = 3.0
    found = scores("regression", values, truth)
    assert found["r2"] == pytest.approx(
        oracle.r2_score(*(pair.double() for pair in (truth[:, 0], values[:, 0])))
    )
    assert not math.isnan(found["pearson"])


def test_names_add_a_score_of_each_output() -> None:
    logits, labels = draw(50, 3)
    found = scores("classification", logits, labels, outputs_names=("wake", "light", "deep"))
    expected = oracle.f1_score(labels, logits.argmax(1), average=None)
    assert [found[f"f1_{name}"] for name in ("wake", "light", "deep")] == pytest.approx(
        list(expected)
    )
    numbers = torch.zeros(50, 3)
    found = scores("regression", logits, numbers, outputs_names=("a", "b", "c"))
    assert found["mae_b"] == pytest.approx(logits[:, 1].abs().mean().item())
    found = scores("multilabel", logits, (logits > 0).float(), outputs_names=("a", "b", "c"))
    assert found["auroc_c"] == 1


@pytest.mark.parametrize(
    ("task", "shape", "label", "message"),
    [
        ("classification", (4, 3), torch.zeros(4, 3, dtype=torch.long), r"must have shape \[4\]"),
        ("regression", (4, 3), torch.zeros(4), r"must have shape \[4, 3\]"),
        ("classification", (4, 3), torch.full((4,), 3), "classes must be below the 3 outputs"),
        ("classification", (4, 3), torch.full((4,), -1), "at least one labelled window"),
    ],
)
def test_bad_input_is_named(task: Any, shape: tuple[int, ...], label: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scores(task, torch.zeros(shape), label)


def test_wrong_number_of_names_is_named() -> None:
    logits, labels = draw(4, 3)
    with pytest.raises(ValueError, match="3 outputs, got 2 names"):
        scores("classification", logits, labels, outputs_names=("a", "b"))


def test_batches_score_as_the_whole() -> None:
    logits, labels = draw(30, 3)
    labels[:7] = -1
    metric = WindowScores("classification", 3)
    for start in range(0, 30, 7):
        metric.update(logits[start : start + 7], labels[start : start + 7])
    found = {name: value.item() for name, value in metric.compute().items()}
    assert found == pytest.approx(scores("classification", logits, labels))
    metric.reset()
    with pytest.raises(ValueError, match="expected 3 outputs, got 2"):
        metric.update(logits[:, :2], labels)


def gather(rank: int, world_size: int) -> list[float]:
    """Scores that a rank sees; the first rank has no labelled window."""
    logits, labels = draw(30, 3)
    labels[:10] = -1
    metric = WindowScores("classification", 3)
    start, stop = (0, 10) if rank == 0 else (10, 30)
    metric.update(logits[start:stop], labels[start:stop])
    found = metric.compute()
    expected = scores("classification", logits, labels)
    assert found["macro_f1"].item() == pytest.approx(expected["macro_f1"])
    assert found["auroc"].item() == pytest.approx(expected["auroc"])
    return []


def test_all_ranks_see_all_windows() -> None:
    run_ranks(gather, 2)

"""Held-out loss by position, document length and context against naive loops."""

import math
from itertools import chain

import numpy as np
import pytest
import torch

from dataset_decomposition.config import ModelConfig
from dataset_decomposition.heldout_loss import (
    TICKS,
    HeldoutLoss,
    LossSummary,
    heldout_loss,
    to_ticks,
    windows,
)
from dataset_decomposition.model import Decoder
from dataset_decomposition.scoring import Scorer

LENGTHS = (1, 2, 3, 9, 40, 33, 17, 40, 8)


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    torch.manual_seed(0)
    return Decoder(ModelConfig(vocab_size=19, dim=16, layers=1, heads=2, ffn_dim=24)).eval()


@pytest.fixture(scope="module")
def documents() -> list[np.ndarray]:
    random = np.random.default_rng(7)
    return [random.integers(0, 19, length).astype(np.uint16) for length in LENGTHS]


@pytest.fixture(scope="module")
def loss(decoder: Decoder, documents: list[np.ndarray]) -> HeldoutLoss:
    scorer = Scorer(decoder, trained_length=64, batch_tokens=100)
    return heldout_loss(scorer, documents, position_bands=(4, 16), contexts=(8, 4, 38, 64, 8))


def one_by_one(decoder: Decoder, tokens: np.ndarray) -> list[float]:
    """Score every token of one document with its whole context, one call of the model each."""
    found = []
    for position in range(1, len(tokens)):
        context = torch.from_numpy(tokens[:position].astype(np.int64))[None]
        with torch.no_grad():
            scores = decoder(context)[0, -1].double().log_softmax(dim=0)
        found.append(-scores[int(tokens[position])].item())
    return found


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def assert_group(group: LossSummary, losses: list[list[float]]) -> None:
    """Compare with the losses of each document in the group."""
    losses = [of_document for of_document in losses if of_document]
    together = list(chain.from_iterable(losses))
    assert group.documents == len(losses)
    assert group.tokens == sum(map(len, losses))
    assert group.nll_per_token == pytest.approx(mean(together), rel=1e-5)
    assert group.nll_per_document == pytest.approx(mean([mean(x) for x in losses]), rel=1e-5)
    assert group.perplexity == pytest.approx(math.exp(mean(together)), rel=1e-4)


def test_whole_documents_equal_one_token_at_a_time(
    decoder: Decoder, documents: list[np.ndarray], loss: HeldoutLoss
) -> None:
    losses = [one_by_one(decoder, document) for document in documents]
    assert loss.unscored == 1
    assert_group(loss.total, losses)
    assert list(loss.by_position) == ["0-4", "4-16", "16+"]
    assert_group(loss.by_position["0-4"], [x[:4] for x in losses])
    assert_group(loss.by_position["4-16"], [x[4:16] for x in losses])
    assert_group(loss.by_position["16+"], [x[16:] for x in losses])
    assert list(loss.by_length) == [1, 3, 4, 5]
    for exponent, group in loss.by_length.items():
        wanted = [x for x, n in zip(losses, LENGTHS, strict=True) if n.bit_length() - 1 == exponent]
        assert_group(group, wanted)
    assert list(loss.curve) == [0, 1, 2, 3, 4, 5]
    for k, group in loss.curve.items():
        assert_group(group, [x[2**k - 1 : 2 ** (k + 1) - 1] for x in losses])


def test_every_grouping_adds_up_to_the_total_exactly(loss: HeldoutLoss) -> None:
    for groups in (loss.by_position, loss.by_length, loss.curve):
        assert sum(group.ticks for group in groups.values()) == loss.total.ticks
        assert sum(group.tokens for group in groups.values()) == loss.total.tokens
    json = loss.to_json()
    parts = [group["nll_sum"] for group in json["by_position"].values()]
    assert sum(parts) == json["total"]["nll_sum"]


def naive_context_loss(decoder: Decoder, tokens: np.ndarray, context: int) -> list[float]:
    """Score each target in the first window of stride `context / 2` that may score it."""
    half = context // 2
    found = []
    for position in range(len(tokens) - 1):
        start = 0 if position < context else (position // half - 1) * half
        part = torch.from_numpy(tokens[start : position + 1].astype(np.int64))[None]
        assert min(half + 1, position + 1) <= part.shape[1] <= context
        with torch.no_grad():
            scores = decoder(part)[0, -1].double().log_softmax(dim=0)
        found.append(-scores[int(tokens[position + 1])].item())
    return found


@pytest.mark.parametrize("context", [4, 8, 38, 64])
def test_windows_of_a_context_equal_one_token_at_a_time(
    decoder: Decoder, documents: list[np.ndarray], loss: HeldoutLoss, context: int
) -> None:
    assert list(loss.by_context) == [4, 8, 38, 64]
    losses = [naive_context_loss(decoder, document, context) for document in documents]
    assert_group(loss.by_context[context], losses)
    assert (loss.by_context[context].ticks == loss.total.ticks) == (context == 64)


def test_windows_score_each_target_once() -> None:
    for context in (2, 4, 6, 16):
        for count in range(1, 70):
            scored = []
            for number, window in enumerate(windows(count, context)):
                assert 0 < window.stop - window.start <= context
                assert window.first - window.start == (context // 2 if number else 0)
                assert window.first < window.stop
                scored += range(window.first, window.stop)
            assert scored == list(range(count))


def test_ticks_are_exact_above_one_half_and_near_below() -> None:
    values = np.array([0.5, 1.0, 3.1415927, 17.25, 88.1], dtype=np.float32)
    assert (to_ticks(values) / TICKS == values.astype(np.float64)).all()
    assert to_ticks(np.array([1e-3], dtype=np.float32))[0] / TICKS == pytest.approx(1e-3, abs=3e-8)


def test_a_group_without_targets_has_no_mean() -> None:
    group = LossSummary.of(np.zeros(2, dtype=np.int64), np.zeros(2, dtype=np.int64))
    assert group.to_json() == {
        "documents": 0,
        "tokens": 0,
        "nll_sum": 0.0,
        "nll_per_token": None,
        "nll_per_document": None,
        "perplexity": None,
    }
    huge = LossSummary.of(np.array([TICKS * 1000]), np.array([1]))
    assert huge.nll_per_token == 1000
    assert huge.perplexity is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"position_bands": (8, 8)}, r"position_bands must rise from above 0, got \[8, 8\]"),
        ({"position_bands": (0, 8)}, r"position_bands must rise from above 0, got \[0, 8\]"),
        ({"contexts": (8, 7)}, "contexts must be even and at least 2, got 7"),
        ({"contexts": (0,)}, "contexts must be even and at least 2, got 0"),
    ],
)
def test_impossible_options_are_refused(
    decoder: Decoder, documents: list[np.ndarray], options: dict[str, object], message: str
) -> None:
    scorer = Scorer(decoder, trained_length=64)
    with pytest.raises(ValueError, match=message):
        heldout_loss(scorer, documents, **options)
    with pytest.raises(ValueError, match="none of 1 held-out documents has a token to predict"):
        heldout_loss(scorer, documents[:1])

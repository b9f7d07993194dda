"""Scores of rows in batches against one row at a time."""

import logging

import numpy as np
import pytest
import torch
from torch import Tensor

from dataset_decomposition import scoring
from dataset_decomposition.config import ModelConfig
from dataset_decomposition.model import Decoder
from dataset_decomposition.scoring import Scorer

TINY = ModelConfig(vocab_size=19, dim=16, layers=2, heads=2, ffn_dim=24)
EOT = 18


@pytest.fixture
def decoder() -> Decoder:
    torch.manual_seed(0)
    return Decoder(TINY).eval()


def rows(*lengths: int) -> list[np.ndarray]:
    random = np.random.default_rng(5)
    return [random.integers(0, 18, length).astype(np.uint16) for length in lengths]


def test_losses_in_batches_equal_one_row_at_a_time(decoder: Decoder) -> None:
    given = rows(9, 1, 30, 2, 9, 17)
    found = {row.number: row for row in Scorer(decoder, trained_length=64).losses(given)}
    assert sorted(found) == [0, 2, 3, 4, 5]
    for index, row in found.items():
        tokens = torch.from_numpy(given[index].astype(np.int64))
        with torch.no_grad():
            scores = decoder(tokens[None])[0].log_softmax(dim=-1)
        for position in range(len(tokens) - 1):
            target = int(tokens[position + 1])
            assert row.nll[position] == pytest.approx(-scores[position, target].item(), rel=1e-4)
            assert row.greedy[position] == (int(scores[position].argmax()) == target)
        assert row.nll.shape == row.greedy.shape == (len(tokens) - 1,)


def test_batches_are_as_big_as_allowed_and_no_bigger(decoder: Decoder) -> None:
    shapes: list[tuple[int, ...]] = []

    def record(_: object, arguments: tuple[Tensor]) -> None:
        shapes.append(tuple(arguments[0].shape))

    decoder.register_forward_pre_hook(record)
    scorer = Scorer(decoder, trained_length=64, batch_tokens=20)
    assert {row.number for row in scorer.losses(rows(6, 41, 6, 6, 6, 11))} == set(range(6))
    assert shapes == [(4, 5), (1, 10), (1, 40)]


def naive_continuation(decoder: Decoder, prompt: np.ndarray, count: int) -> list[int]:
    tokens = [int(token) for token in prompt]
    for _ in range(count):
        with torch.no_grad():
            tokens.append(int(decoder(torch.tensor([tokens]))[0, -1].argmax()))
    return tokens[len(prompt) :]


def test_continuations_of_different_lengths_equal_one_prompt_at_a_time(decoder: Decoder) -> None:
    with torch.no_grad():
        decoder.head.weight *= 4  # far from ties
    prompts = rows(3, 14, 1, 8, 8)
    scorer = Scorer(decoder, trained_length=64)
    found = scorer.continuations(
        prompts, max_new_tokens=7, eot_id=99, is_finished=lambda tokens: False
    )
    expected = [naive_continuation(decoder, prompt, 7) for prompt in prompts]
    assert [tokens.tolist() for tokens in found] == expected
    assert len({tuple(tokens) for tokens in expected}) > 1


def test_a_continuation_ends_when_told_or_at_the_end_of_text() -> None:
    class Counting(torch.nn.Module):
        """Says the next id after each token."""

        head = torch.nn.Identity()

        def forward(self, tokens_BL: Tensor, *, project: bool) -> Tensor:
            return torch.nn.functional.one_hot((tokens_BL + 1) % 19, 19).float()

    scorer = Scorer(Counting(), trained_length=64)
    found = scorer.continuations(
        [np.array([15]), np.array([0]), np.array([4, 9])],
        max_new_tokens=5,
        eot_id=EOT,
        is_finished=lambda tokens: len(tokens) == 4 and tokens[0] == 1,
    )
    assert [tokens.tolist() for tokens in found] == [[16, 17], [1, 2, 3, 4], [10, 11, 12, 13, 14]]


def test_projecting_some_targets_at_a_time_changes_nothing(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = rows(9, 30, 2, 17)
    scorer = Scorer(decoder, trained_length=64)
    whole = {row.number: row for row in scorer.losses(given)}
    monkeypatch.setattr(scoring, "PROJECTED_TOKENS", 7)
    for row in scorer.losses(given):
        assert row.nll == pytest.approx(whole[row.number].nll, rel=1e-5)
        assert (row.greedy == whole[row.number].greedy).all()


def test_longer_rows_than_trained_are_scored_after_one_warning(
    decoder: Decoder, caplog: pytest.LogCaptureFixture
) -> None:
    scorer = Scorer(decoder, trained_length=8)
    with caplog.at_level(logging.WARNING):
        assert len(list(scorer.losses(rows(9)))) == 1
        assert not caplog.records
        assert len(list(scorer.losses(rows(10, 40)))) == 2
        list(scorer.losses(rows(50)))
    (record,) = caplog.records
    assert "the longest of the training had 8" in record.getMessage()


def test_bfloat16_stays_close_and_is_used(decoder: Decoder) -> None:
    (exact,) = Scorer(decoder, trained_length=64).losses(rows(20))
    (rounded,) = Scorer(decoder, trained_length=64, bf16=True).losses(rows(20))
    assert rounded.nll == pytest.approx(exact.nll, abs=0.1)
    assert not np.array_equal(rounded.nll, exact.nll)


def test_weights_that_are_not_finite_and_empty_batches_are_refused(decoder: Decoder) -> None:
    with torch.no_grad():
        decoder.head.weight[3] = float("nan")
    with pytest.raises(ValueError, match="the loss of row 0 is not finite"):
        list(Scorer(decoder, trained_length=64).losses(rows(5)))
    with pytest.raises(ValueError, match="batch_tokens must be at least 1, got 0"):
        Scorer(decoder, trained_length=64, batch_tokens=0)

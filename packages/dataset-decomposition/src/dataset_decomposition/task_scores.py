"""Scores of a model on tasks (spec section 4); the paper's scoring rules are not published.

Ours, as in llm-foundry: the choice with the lowest mean loss of its tokens wins (`mc_acc_mean`; the
lowest sum, `mc_acc_sum`, is shown beside it), and a continuation is right when each of its tokens
is the most likely one (`lm_acc`), which is what greedy decoding would give. Context and
continuation are tokenized apart. No token stands before a context, as in training; before an empty
one stands the end of text. Contexts longer than the trained length are not cut.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from dataset_decomposition.mdqa import (
    MAX_NEW_TOKENS,
    Question,
    first_line,
    has_first_line,
    subspan_em,
)
from dataset_decomposition.scoring import Row, Scorer
from dataset_decomposition.tasks import Continuation, MultipleChoice, Task, join
from dataset_decomposition.tokenizer import Tokenizer


class ContinuationLoss(NamedTuple):
    """What a model says of a text after a context.

    Attributes:
        nll: Summed loss in nats.
        tokens: Number of tokens.
        is_greedy: Whether each token is the most likely one.
    """

    nll: float
    tokens: int
    is_greedy: bool


@dataclass(frozen=True)
class TaskScore:
    """Result of one task.

    Attributes:
        name: The task's name.
        shots: Solved examples before each question.
        examples: Number of questions.
        metrics: Shares of right answers by name; the first is the one that enters averages.
    """

    name: str
    shots: int
    examples: int
    metrics: dict[str, float]

    @property
    def score(self) -> float:
        """The share that enters averages."""
        return next(iter(self.metrics.values()))


def score_task(scorer: Scorer, tokenizer: Tokenizer, task: Task) -> TaskScore:
    """Answer a task's questions."""
    match task.examples[0]:
        case MultipleChoice():
            questions = cast(Sequence[MultipleChoice], task.examples)
            metrics = _multiple_choice(scorer, tokenizer, task.preamble, questions)
        case Continuation():
            texts = cast(Sequence[Continuation], task.examples)
            metrics = _continuation(scorer, tokenizer, task.preamble, texts)
        case Question():
            documents = cast(Sequence[Question], task.examples)
            metrics = _documents(scorer, tokenizer, task.preamble, documents)
    return TaskScore(task.name, task.shots, len(task.examples), metrics)


def continuation_losses(
    scorer: Scorer, tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]]
) -> list[ContinuationLoss]:
    """Score the second text of each pair after the first; nothing is put between them."""
    contexts = encode(tokenizer, [context for context, _ in pairs])
    continuations = encode(tokenizer, [continuation for _, continuation in pairs])
    rows: list[Row] = [
        np.concatenate((context if context.size else [tokenizer.eot_id], continuation))
        for context, continuation in zip(contexts, continuations, strict=True)
    ]
    found: list[ContinuationLoss | None] = [None] * len(rows)
    for row in scorer.losses(rows):
        count = continuations[row.number].size
        found[row.number] = ContinuationLoss(
            float(row.nll[row.nll.size - count :].sum(dtype=np.float64)),
            count,
            bool(row.greedy[row.greedy.size - count :].all()),
        )
    return [ContinuationLoss(0.0, 0, True) if loss is None else loss for loss in found]


def continue_texts(
    scorer: Scorer,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    is_finished: Callable[[str], bool],
) -> list[str]:
    """Return what the model says after each prompt, the most likely token each time."""
    rows = [row if row.size else np.array([tokenizer.eot_id]) for row in encode(tokenizer, prompts)]
    said = scorer.continuations(
        rows,
        max_new_tokens=max_new_tokens,
        eot_id=tokenizer.eot_id,
        is_finished=lambda tokens: is_finished(tokenizer.decode(tokens)),
    )
    return [tokenizer.decode(tokens) for tokens in said]


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[NDArray[np.int64]]:
    """Return each text's tokens, int64, without the end of text."""
    return [tokens[:-1].astype(np.int64) for tokens in tokenizer.encode(texts)]


def _multiple_choice(
    scorer: Scorer, tokenizer: Tokenizer, preamble: str, questions: Sequence[MultipleChoice]
) -> dict[str, float]:
    pairs = [
        join(preamble + context, continuation)
        for question in questions
        for context, continuation in zip(question.contexts, question.continuations, strict=True)
    ]
    losses = continuation_losses(scorer, tokenizer, pairs)
    sums = np.array([loss.nll for loss in losses])
    means = sums / np.array([loss.tokens for loss in losses])
    bounds = pairwise(np.cumsum([0, *(len(question.contexts) for question in questions)]))
    right_by_mean, right_by_sum = 0, 0
    for question, (start, end) in zip(questions, bounds, strict=True):
        right_by_mean += int(means[start:end].argmin()) == question.gold
        right_by_sum += int(sums[start:end].argmin()) == question.gold
    return {
        "mc_acc_mean": right_by_mean / len(questions),
        "mc_acc_sum": right_by_sum / len(questions),
    }


def _continuation(
    scorer: Scorer, tokenizer: Tokenizer, preamble: str, texts: Sequence[Continuation]
) -> dict[str, float]:
    pairs = [join(preamble + text.context, text.continuation) for text in texts]
    losses = continuation_losses(scorer, tokenizer, pairs)
    return {"lm_acc": sum(loss.is_greedy for loss in losses) / len(losses)}


def _documents(
    scorer: Scorer, tokenizer: Tokenizer, preamble: str, questions: Sequence[Question]
) -> dict[str, float]:
    said = continue_texts(
        scorer,
        tokenizer,
        [preamble + question.prompt for question in questions],
        max_new_tokens=MAX_NEW_TOKENS,
        is_finished=has_first_line,
    )
    right = [
        subspan_em(first_line(text), question.answers)
        for text, question in zip(said, questions, strict=True)
    ]
    return {"subspan_em": sum(right) / len(right)}

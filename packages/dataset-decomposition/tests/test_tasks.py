"""Tasks: reading, prompts, scores against one answer at a time, averages against the paper."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dataset_decomposition import lm_eval_adapter
from dataset_decomposition.averages import REGULAR, averages, long_average, regular_average
from dataset_decomposition.config import ModelConfig
from dataset_decomposition.mdqa import (
    Passage,
    Question,
    first_line,
    has_first_line,
    normalise,
    subspan_em,
)
from dataset_decomposition.model import Decoder
from dataset_decomposition.scoring import Scorer
from dataset_decomposition.task_scores import continue_texts, score_task
from dataset_decomposition.tasks import Continuation, MultipleChoice, find_tasks, join, read_task
from dataset_decomposition.tokenizer import ByteTokenizer

TOKENIZER = ByteTokenizer()


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    torch.manual_seed(1)
    decoder = Decoder(ModelConfig(vocab_size=257, dim=16, layers=2, heads=2, ffn_dim=24)).eval()
    with torch.no_grad():
        decoder.head.weight *= 4  # far from ties
    return decoder


@pytest.fixture(scope="module")
def scorer(decoder: Decoder) -> Scorer:
    return Scorer(decoder, trained_length=1024, batch_tokens=300)


def write(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def naive_losses(decoder: Decoder, context: str, continuation: str) -> tuple[list[float], bool]:
    """Score a continuation alone, one byte at a time."""
    tokens, losses, is_greedy = list(context.encode()) or [256], [], True
    for token in continuation.encode():
        with torch.no_grad():
            scores = decoder(torch.tensor([tokens]))[0, -1].double().log_softmax(dim=0)
        losses.append(-scores[token].item())
        is_greedy &= int(scores.argmax()) == token
        tokens.append(token)
    return losses, is_greedy


def naive_text(decoder: Decoder, prompt: str, count: int) -> str:
    tokens = list(prompt.encode())
    for _ in range(count):
        with torch.no_grad():
            token = int(decoder(torch.tensor([tokens]))[0, -1].argmax())
        if token == 256:
            break
        tokens.append(token)
    return TOKENIZER.decode(np.array(tokens[len(prompt.encode()) :]))


def test_the_choice_of_lowest_loss_is_right_by_sum_and_by_mean(
    decoder: Decoder, scorer: Scorer, tmp_path: Path
) -> None:
    random = np.random.default_rng(4)
    words = ["a", "of it", "much longer than the others", "xyz", "no", "q" * 9]
    records = [
        {
            "query": f"Question {number}: ",
            "choices": [str(word) for word in random.permutation(words)[: 2 + number % 3]],
            "gold": number % 2,
            "category": "ignored",
        }
        for number in range(40)
    ]
    score = score_task(scorer, TOKENIZER, read_task(write(tmp_path / "t.jsonl", *records)))
    right = {"mc_acc_mean": 0, "mc_acc_sum": 0}
    for record in records:
        losses = [
            naive_losses(decoder, record["query"].rstrip(), f" {choice}")[0]
            for choice in record["choices"]
        ]
        sums = [sum(loss) for loss in losses]
        means = [sum(loss) / len(loss) for loss in losses]
        right["mc_acc_sum"] += sums.index(min(sums)) == record["gold"]
        right["mc_acc_mean"] += means.index(min(means)) == record["gold"]
    assert right["mc_acc_sum"] != right["mc_acc_mean"]
    assert score.metrics == {name: count / 40 for name, count in right.items()}
    assert score.score == score.metrics["mc_acc_mean"]
    assert score.examples == 40


def test_a_choice_of_contexts_is_scored_by_what_follows(
    decoder: Decoder, scorer: Scorer, tmp_path: Path
) -> None:
    record = {"context_options": ["The cat", "A much longer dog"], "continuation": "ran off."}
    losses = [
        sum(naive_losses(decoder, context, " ran off.")[0]) for context in record["context_options"]
    ]
    best = losses.index(min(losses))
    path = write(tmp_path / "t.jsonl", {**record, "gold": best}, {**record, "gold": 1 - best})
    assert score_task(scorer, TOKENIZER, read_task(path)).metrics["mc_acc_sum"] == 0.5


class Bigrams(torch.nn.Module):
    """Says after each byte the one that a table names, and nothing else."""

    head = torch.nn.Identity()

    def __init__(self, text: str) -> None:
        super().__init__()
        self.successor = torch.arange(257)
        for token, following in pairwise(text.encode()):
            self.successor[token] = following

    def forward(self, tokens_BL: Tensor, *, project: bool) -> Tensor:
        return torch.nn.functional.one_hot(self.successor[tokens_BL], 257).float()


def bigrams(text: str) -> Scorer:
    return Scorer(Bigrams(text), trained_length=1024)


def test_a_continuation_is_right_when_greedy_decoding_says_it(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.jsonl",
        {"context": "Once", "continuation": "upon"},
        {"context": "Once", "continuation": "upx"},
        {"context": "Once ", "continuation": "up"},
        {"context": "One", "continuation": "xpon"},
    )
    score = score_task(bigrams("e upon"), TOKENIZER, read_task(path))
    assert score.metrics == {"lm_acc": 0.5}


def test_a_continuations_score_is_that_of_the_text_alone(
    decoder: Decoder, scorer: Scorer, tmp_path: Path
) -> None:
    pairs = [("one", " two"), ("", "three"), ("four \n", "five six"), ("seven", " 8")]
    found = lm_eval_adapter.loglikelihood(scorer, TOKENIZER, pairs)
    for (context, continuation), (log_likelihood, is_greedy) in zip(pairs, found, strict=True):
        bare = context.rstrip()
        losses, naive_greedy = naive_losses(decoder, bare, context[len(bare) :] + continuation)
        assert log_likelihood == pytest.approx(-sum(losses), rel=1e-5)
        assert is_greedy == naive_greedy
    ((_, is_greedy),) = lm_eval_adapter.loglikelihood(
        bigrams("e upon"), TOKENIZER, [("Once", " upon")]
    )
    assert is_greedy


def question(text: str, *answers: str, **extra: object) -> dict[str, object]:
    passages = [{"title": "T", "text": "body", "isgold": True}, {"title": "", "text": "other"}]
    return {"question": text, "answers": list(answers), "ctxs": passages, **extra}


def test_the_answer_to_documents_is_the_first_line_that_is_not_empty(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.jsonl", question("Who?", "The Wo!", "nobody"), question("What?", "xy", id=7)
    )
    task = read_task(path)
    model = bigrams(":\n wo")
    assert score_task(model, TOKENIZER, task).metrics == {"subspan_em": 0.5}
    (asked, _) = task.examples
    assert isinstance(asked, Question)
    assert asked.prompt.endswith(
        "\n\nDocument [1](Title: T) body\nDocument [2](Title: ) other\n\nQuestion: Who?\nAnswer:"
    )


def test_answers_of_different_lengths_equal_one_prompt_at_a_time(
    decoder: Decoder, scorer: Scorer
) -> None:
    prompts = ["short", "a much longer prompt than that", "x", "middle one"]
    found = continue_texts(
        scorer, TOKENIZER, prompts, max_new_tokens=6, is_finished=lambda text: False
    )
    assert found == [naive_text(decoder, prompt, 6) for prompt in prompts]


def test_solved_examples_come_from_the_first_lines_and_are_not_scored(tmp_path: Path) -> None:
    choices = {"choices": ["good", "bad"], "gold": 0}
    path = write(tmp_path / "t.jsonl", *({"query": f"Q{n}", **choices} for n in range(4)))
    task = read_task(path, shots=2)
    assert task.preamble == "Q0 good\nQ1 good\n"
    assert [example.contexts[0] for example in task.examples] == ["Q2", "Q3"]
    assert read_task(path).shots == 0
    path = write(tmp_path / "arc_easy.jsonl", *({"query": "Q", **choices} for _ in range(5)))
    assert read_task(path).shots == 3
    assert len(read_task(path).examples) == 2


def test_solved_examples_stand_before_each_question(
    decoder: Decoder, scorer: Scorer, tmp_path: Path
) -> None:
    solved = {"query": "1+1=", "choices": ["2", "3"], "gold": 0}
    asked = {"query": "2+2=", "choices": ["4", "yes it is"], "gold": 0}
    losses = [
        sum(naive_losses(decoder, "1+1= 2\n2+2=", f" {choice}")[0]) for choice in asked["choices"]
    ]
    asked["gold"] = losses.index(min(losses))
    task = read_task(write(tmp_path / "t.jsonl", solved, asked), shots=1)
    assert score_task(scorer, TOKENIZER, task).metrics["mc_acc_sum"] == 1.0
    document = Question("Q?", ("A", "B"), (Passage("t", "x"),))
    assert document.solved() == f"{document.prompt} A"
    assert MultipleChoice(("c", "d"), ("e", "f"), 1).solved() == "d f"
    assert Continuation("c\n", "d").solved() == "c\nd"


@pytest.mark.parametrize(
    ("context", "continuation", "expected"),
    [
        ("a", "b", ("a", " b")),
        ("a ", "b", ("a", " b")),
        ("a", " b", ("a", " b")),
        ("a\n", " b", ("a\n", "b")),
        ("", " b", ("", "b")),
    ],
)
def test_one_space_begins_the_continuation(
    context: str, continuation: str, expected: tuple[str, str]
) -> None:
    assert join(context, continuation) == expected


def test_answers_are_compared_without_case_punctuation_and_articles() -> None:
    assert normalise("  The U.S.A.,  an (old)\tcountry! ") == "usa old country"
    assert normalise("theatre and Thea") == "theatre and thea"
    assert subspan_em("It was Anne-Marie the 2nd.", ["Bob", "anne marie 2nd", "annemarie 2nd"])
    assert not subspan_em("It was Anne-Marie.", ["anne marie"])
    assert not subspan_em("anything", ["The"])
    assert first_line("\n \n  yes, it is \nno") == "yes, it is"
    assert first_line(" \n") == ""
    assert [has_first_line(text) for text in ("\n\n", "\nyes", "\nyes\n", "")] == [
        False,
        False,
        True,
        False,
    ]


# Paper Tables 5, 1 and 2: CSR, LU, RC, WK, regular average.
REGULAR_ROWS = [
    (60.6, 62.5, 41.5, 41.3, 51.5),
    (60.2, 64.1, 42.8, 41.8, 52.4),
    (60.3, 64.0, 44.6, 41.8, 52.7),
    (60.6, 62.1, 44.7, 40.0, 51.7),
    (62.8, 65.2, 45.3, 44.2, 54.4),
    (62.4, 65.4, 43.8, 43.9, 54.0),
    (61.9, 64.3, 43.1, 43.5, 53.3),
    (60.8, 66.4, 43.2, 44.7, 54.0),
    (62.2, 65.2, 43.4, 44.0, 53.8),
    (60.9, 64.2, 46.6, 42.9, 53.6),
    (62.7, 65.0, 45.4, 44.7, 54.5),
    (60.9, 64.3, 46.5, 44.1, 54.0),
]
# Paper Table 5: MDQA with 10, 20 and 30 documents, TOEFL, QuALITY, long average.
LONG_ROWS = [
    (29.0, 23.8, 20.5, 26.2, 32.0, 27.5),
    (24.4, 20.0, 16.0, 29.2, 32.0, 27.1),
    (25.6, 19.8, 16.9, 29.2, 33.1, 27.7),
    (26.7, 20.0, 22.0, 28.7, 34.6, 28.7),
    (32.3, 26.9, 24.6, 30.7, 34.2, 30.9),
]


@pytest.mark.parametrize("row", REGULAR_ROWS)
def test_published_regular_averages(row: tuple[float, ...]) -> None:
    *groups, published = row
    # Group means are rounded to 0.05, and so is the average.
    found = regular_average(dict(zip(REGULAR, groups, strict=True)))
    assert found == pytest.approx(published, abs=0.1)


def test_published_averages_weigh_tasks_not_groups() -> None:
    def far_off(average: Any) -> int:
        errors = (
            average(dict(zip(REGULAR, groups, strict=True))) - row for *groups, row in REGULAR_ROWS
        )
        return sum(abs(error) > 0.1 for error in errors)

    assert far_off(regular_average) == 0
    assert far_off(lambda groups: sum(groups.values()) / 4) > 0
    assert [len(tasks) for tasks in REGULAR.values()] == [3, 4, 3, 4]


@pytest.mark.parametrize("row", LONG_ROWS)
def test_published_long_averages(row: tuple[float, ...]) -> None:
    *mdqa, toefl, quality, published = row
    assert long_average(sum(mdqa) / 3, toefl, quality) == pytest.approx(published, abs=0.05)


def test_averages_need_all_their_tasks() -> None:
    random = np.random.default_rng(0)
    names = [name for tasks in REGULAR.values() for name in tasks]
    scores = dict(zip(names, random.uniform(size=14), strict=True))
    found = averages({**scores, "mine": 0.3})
    assert set(found) == {"CSR", "LU", "RC", "WK", "regular"}
    assert found["regular"] == pytest.approx(sum(scores.values()) / 14)
    del scores["boolq"]
    assert set(averages(scores)) == {"CSR", "LU", "WK"}
    long = {"mdqa_10": 0.3, "mdqa_20": 0.2, "mdqa_30": 0.1, "toefl": 0.5}
    assert averages(long) == {"mdqa": pytest.approx(0.2)}
    assert averages({**long, "quality": 0.8})["long"] == pytest.approx(0.5)


GOOD = {"query": "q", "choices": ["a", "b"], "gold": 0}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "expected a JSON object, got list"),
        ('"caf\xe9"', "not UTF-8"),
        ({"prompt": "q"}, "unknown form with keys prompt; expected query, choices, gold; context_"),
        ({}, r"unknown form with keys \(none\)"),
        ({**GOOD, "gold": 2}, "gold must be a whole number from 0 to 1, got 2"),
        ({**GOOD, "gold": -1}, "gold must be a whole number from 0 to 1, got -1"),
        ({**GOOD, "gold": "0"}, "gold must be a whole number from 0 to 1, got '0'"),
        ({**GOOD, "gold": True}, "gold must be a whole number from 0 to 1, got True"),
        ({**GOOD, "choices": ["a"]}, r"choices must be a list of at least 2, got \['a'\]"),
        ({**GOOD, "choices": ["a", " "]}, "choices must be a text with something in it, got ' '"),
        ({**GOOD, "query": 5}, "query must be a text with something in it, got 5"),
        ({"context": "a", "continuation": ""}, "continuation must be a text with something"),
        ({"context": "a", "continuation": "b"}, "the form is Continuation, that of the first line"),
        (question("q"), r"answers must be a list of at least 1, got \[\]"),
        (question("q", "a", ctxs=[]), "ctxs must be a list of documents"),
        (question("q", "a", ctxs=[{"title": "t"}]), "a document of ctxs needs title and text"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: object, message: str) -> None:
    path = write(tmp_path / "t.jsonl", GOOD)
    text = line if isinstance(line, str) else json.dumps(line)
    path.write_bytes(path.read_bytes() + b"\n" + text.encode("latin-1"))
    with pytest.raises(ValueError, match=rf"t\.jsonl:3: {message}"):
        read_task(path)


def test_missing_and_empty_tasks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder of tasks at .*nowhere"):
        find_tasks(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"holds no task; expected one \.jsonl file for each"):
        find_tasks(tmp_path)
    path = write(tmp_path / "t.jsonl")
    with pytest.raises(ValueError, match="has 0 examples; it needs more than the 0 that"):
        read_task(path)
    write(path, GOOD, GOOD)
    with pytest.raises(ValueError, match="has 2 examples; it needs more than the 2 that"):
        read_task(path, shots=2)
    with pytest.raises(ValueError, match="shots must not be negative, got -1"):
        read_task(path, shots=-1)
    assert find_tasks(tmp_path) == [path]

"""The real `lm_eval` on local tasks: its figures are those of `evaluate` and of arithmetic."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dataset_decomposition import lm_eval_adapter
from dataset_decomposition.config import ModelConfig
from dataset_decomposition.model import Decoder
from dataset_decomposition.scoring import Scorer
from dataset_decomposition.task_scores import score_task
from dataset_decomposition.tasks import read_task
from dataset_decomposition.tokenizer import ByteTokenizer

NEEDS_EXTRA = "needs lm_eval: install dataset-decomposition[lm-eval]"
TOKENIZER = ByteTokenizer()
METRICS = {
    "choice": ("acc", "acc_norm"),
    "rolling": ("word_perplexity", "byte_perplexity"),
    "generation": ("exact_match",),
}
FIELDS: dict[str, dict[str, Any]] = {
    "choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{query}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "gold",
    },
    "rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
    },
    "generation": {
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 12, "do_sample": False},
    },
}


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    torch.manual_seed(1)
    decoder = Decoder(ModelConfig(vocab_size=257, dim=16, layers=1, heads=2, ffn_dim=24)).eval()
    with torch.no_grad():
        decoder.head.weight *= 4  # far from ties
    return decoder


def words(random: np.random.Generator, count: int) -> str:
    letters = (
        random.integers(97, 123, random.integers(1, 7)).astype(np.uint8) for _ in range(count)
    )
    return " ".join(word.tobytes().decode() for word in letters)


def write_task(folder: Path, name: str, records: list[dict[str, Any]]) -> Path:
    """Write the records, and the task of lm_eval that reads them; YAML takes JSON."""
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(record) + "\n" for record in records))
    task = {
        "task": f"local_{name}",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        **FIELDS[name],
        "metric_list": [{"metric": metric} for metric in METRICS[name]],
    }
    (folder / f"local_{name}.yaml").write_text(json.dumps(task))
    return data


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the harness's own libraries
def test_lm_eval_gives_the_figures_of_evaluate(
    decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    lm_eval = pytest.importorskip("lm_eval", reason=NEEDS_EXTRA)
    from lm_eval.tasks import TaskManager

    scorer = Scorer(decoder, trained_length=64)
    random = np.random.Generator(np.random.Philox(key=3))
    questions = [
        {
            "query": words(random, 5),
            "choices": [words(random, 1) for _ in range(4)],
            "gold": int(random.integers(4)),
        }
        for _ in range(200)
    ]
    choice = write_task(tmp_path, "choice", questions)
    texts = [words(random, 30) for _ in range(5)]
    write_task(tmp_path, "rolling", [{"text": text} for text in texts])
    prompts = [words(random, 4) for _ in range(6)]
    options = FIELDS["generation"]["generation_kwargs"]
    said = lm_eval_adapter.generate_until(scorer, TOKENIZER, [(p, options) for p in prompts])
    answers = [text if number % 3 else "another" for number, text in enumerate(said)]
    generation = [{"prompt": p, "answer": a} for p, a in zip(prompts, answers, strict=True)]
    write_task(tmp_path, "generation", generation)

    found = lm_eval.simple_evaluate(
        model=lm_eval_adapter.make_lm(scorer, TOKENIZER),
        tasks=[f"local_{name}" for name in FIELDS],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        use_cache=str(tmp_path / "responses"),
        bootstrap_iters=0,
        log_samples=True,
    )
    results = found["results"]

    ours = score_task(scorer, TOKENIZER, read_task(choice, shots=0)).metrics
    assert 0 < ours["mc_acc_sum"] < 1
    assert results["local_choice"]["acc,none"] == ours["mc_acc_sum"]
    # acc_norm divides by the choice's characters, the space before it not counted.
    by_character = [
        max(range(4), key=lambda c, s=sample: s["resps"][c][0][0] / len(s["doc"]["choices"][c]))
        for sample in found["samples"]["local_choice"]
    ]
    golds = [sample["doc"]["gold"] for sample in found["samples"]["local_choice"]]
    right = [choice == gold for choice, gold in zip(by_character, golds, strict=True)]
    assert results["local_choice"]["acc_norm,none"] == pytest.approx(np.mean(right))

    total = sum(lm_eval_adapter.loglikelihood_rolling(scorer, TOKENIZER, texts))
    per_word = math.exp(-total / sum(len(text.split()) for text in texts))
    assert results["local_rolling"]["word_perplexity,none"] == pytest.approx(per_word)
    assert results["local_generation"]["exact_match,none"] == pytest.approx(4 / 6)
    assert len(set(said)) == 6

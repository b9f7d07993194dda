"""The methods that `lm_eval` calls, without it."""

import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from dataset_decomposition import lm_eval_adapter
from dataset_decomposition.config import ModelConfig
from dataset_decomposition.model import Decoder
from dataset_decomposition.scoring import Scorer
from dataset_decomposition.tokenizer import ByteTokenizer

TOKENIZER = ByteTokenizer()


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    torch.manual_seed(1)
    decoder = Decoder(ModelConfig(vocab_size=257, dim=16, layers=1, heads=2, ffn_dim=24)).eval()
    with torch.no_grad():
        decoder.head.weight *= 4  # far from ties
    return decoder


def test_rolling_likelihood_scores_each_token_once_in_windows(decoder: Decoder) -> None:
    texts = ["short", "", "exactly8", "a text that is longer than the trained length"]
    scorer = Scorer(decoder, trained_length=8)
    found = lm_eval_adapter.loglikelihood_rolling(scorer, TOKENIZER, texts)
    for text, log_likelihood in zip(texts, found, strict=True):
        tokens = [256, *text.encode()]
        expected = 0.0
        for position in range(len(tokens) - 1):
            start = 0 if position < 8 else (position // 4 - 1) * 4
            with torch.no_grad():
                scores = decoder(torch.tensor([tokens[start : position + 1]]))[0, -1]
            expected += scores.double().log_softmax(dim=0)[tokens[position + 1]].item()
        assert log_likelihood == pytest.approx(expected, rel=1e-5)


def naive_text(decoder: Decoder, prompt: str, count: int) -> str:
    tokens = list(prompt.encode())
    for _ in range(count):
        with torch.no_grad():
            tokens.append(int(decoder(torch.tensor([tokens]))[0, -1].argmax()))
    return TOKENIZER.decode(np.array(tokens[len(prompt.encode()) :]))


def test_generation_ends_before_the_first_stop(decoder: Decoder) -> None:
    scorer = Scorer(decoder, trained_length=64)
    texts = [naive_text(decoder, prompt, 8) for prompt in ("one", "another")]
    stop = texts[1][5:7]
    requests = [
        ("one", {"until": ["\0never"], "max_gen_toks": 8, "do_sample": False, "temperature": 0.0}),
        ("another", {"until": [stop, texts[1][6:8]], "max_gen_toks": 8}),
        ("another", {"until": texts[1][0], "max_gen_toks": 8}),
        ("another", {"max_gen_toks": 3}),
    ]
    found = lm_eval_adapter.generate_until(scorer, TOKENIZER, requests)
    assert found == [texts[0], texts[1][: texts[1].find(stop)], "", texts[1][:3]]


def test_options_of_generation_are_read_as_the_harness_reads_them(decoder: Decoder) -> None:
    scorer = Scorer(decoder, trained_length=64)
    options = [
        {"max_gen_toks": 2, "max_new_tokens": 5, "until": ["", "\0never"]},
        {"max_new_tokens": 2, "max_gen_toks": None, "until": None},
        {"max_tokens": 2, "do_sample": False, "temperature": 1.0, "num_beams": 1},
        {"max_completion_tokens": 2, "temperature": 0.0},
    ]
    found = lm_eval_adapter.generate_until(scorer, TOKENIZER, [("one", o) for o in options])
    assert found == [naive_text(decoder, "one", 2)] * 4
    for refused in ({"do_sample": True}, {"temperature": 0.5}, {"num_beams": 4}):
        with pytest.raises(ValueError, match="decoding is greedy only, a task asks for"):
            lm_eval_adapter.generate_until(scorer, TOKENIZER, [("one", refused)])


def test_the_class_hands_requests_on(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    class LM:
        """The base class's part that matters: it takes no arguments."""

    package, api, model = (ModuleType(n) for n in ("lm_eval", "lm_eval.api", "lm_eval.api.model"))
    model.LM = LM  # type: ignore[attr-defined]
    for module in (package, api, model):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    scorer = Scorer(decoder, trained_length=64)
    lm = lm_eval_adapter.make_lm(scorer, TOKENIZER)
    assert isinstance(lm, LM)

    def request(*args: object) -> SimpleNamespace:
        return SimpleNamespace(args=args)

    pairs = [("one", " two")]
    expected = lm_eval_adapter.loglikelihood(scorer, TOKENIZER, pairs)
    assert lm.loglikelihood([request(*pairs[0])]) == expected
    rolling = lm_eval_adapter.loglikelihood_rolling(scorer, TOKENIZER, ["text"])
    assert lm.loglikelihood_rolling([request("text")]) == rolling
    said = lm.generate_until([request("one", {"max_gen_toks": 2})])
    assert said == [naive_text(decoder, "one", 2)]
    with pytest.raises(ValueError, match="leave out apply_chat_template"):
        lm.apply_chat_template([{"role": "user", "content": "one"}])


def test_a_missing_lm_eval_names_the_extra(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec("lm_eval") is not None:
        monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ModuleNotFoundError, match=r"install dataset-decomposition\[lm-eval\]"):
        lm_eval_adapter.make_lm(Scorer(decoder, trained_length=64), TOKENIZER)

"""EleutherAI's `lm_eval` on our models, through the extra `lm-eval`.

```python
info = read_info(data)
lm = make_lm(load_scorer(run_folder, info), load_tokenizer(data, info))
results = lm_eval.simple_evaluate(model=lm, tasks=["piqa"])
```

The interface is `lm_eval.api.model.LM`'s since 0.4: three methods told lists of requests. On the
same questions `acc` is `evaluate`'s `mc_acc_sum`; `acc_norm` divides by characters, where its
`mc_acc_mean` divides by tokens. Context and continuation are tokenized apart, as there.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dataset_decomposition.heldout_loss import TICKS, windowed_ticks
from dataset_decomposition.scoring import Scorer
from dataset_decomposition.task_scores import continuation_losses, continue_texts, encode
from dataset_decomposition.tokenizer import Tokenizer

_LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""The harness's names for the longest continuation, the first one given counts."""
_DEFAULT_LIMIT = 256


def make_lm(scorer: Scorer, tokenizer: Tokenizer) -> Any:
    """Return an `lm_eval.api.model.LM`.

    Raises:
        ModuleNotFoundError: `lm_eval` is not installed.
    """
    try:
        from lm_eval.api.model import LM  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "lm_eval is not installed: install dataset-decomposition[lm-eval]"
        ) from error

    class DecoderLM(LM):
        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            return loglikelihood(scorer, tokenizer, [request.args for request in requests])

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            return loglikelihood_rolling(scorer, tokenizer, [r.args[0] for r in requests])

        def generate_until(self, requests: list[Any]) -> list[str]:
            return generate_until(scorer, tokenizer, [request.args for request in requests])

        @property
        def tokenizer_name(self) -> str:
            """What the harness keys its cache of requests by."""
            return tokenizer.fingerprint

        def apply_chat_template(self, *_: Any, **__: Any) -> str:
            raise ValueError(
                "the model is no chat model and has no chat template; leave out apply_chat_template"
            )

    return DecoderLM()


def loglikelihood(
    scorer: Scorer, tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]]
) -> list[tuple[float, bool]]:
    """Return of each pair the second's log-likelihood after the first and whether greedy says it.

    A context's trailing white space begins the continuation, where tokenizers put it.
    """
    moved = [(c.rstrip(), c[len(c.rstrip()) :] + text) for c, text in pairs]
    return [(-loss.nll, loss.is_greedy) for loss in continuation_losses(scorer, tokenizer, moved)]


def loglikelihood_rolling(
    scorer: Scorer, tokenizer: Tokenizer, texts: Sequence[str]
) -> list[float]:
    """Return each text's log-likelihood after an end of text, in `heldout_loss.windows`."""
    documents = [np.append(tokenizer.eot_id, tokens) for tokens in encode(tokenizer, texts)]
    context = max(2, scorer.trained_length // 2 * 2)
    return (-windowed_ticks(scorer, documents, context) / TICKS).tolist()


def generate_until(
    scorer: Scorer, tokenizer: Tokenizer, requests: Sequence[tuple[str, Mapping[str, Any]]]
) -> list[str]:
    """Return the greedy continuation of each context up to the first of its options' `until`.

    Raises:
        ValueError: A request asks for sampling or beams.
    """
    alike: dict[tuple[tuple[str, ...], int], list[int]] = defaultdict(list)
    for index, (_, options) in enumerate(requests):
        _check_greedy(options)
        alike[_stops(options), _max_new_tokens(options)].append(index)
    found = [""] * len(requests)
    for (stops, limit), indices in alike.items():
        said = continue_texts(
            scorer,
            tokenizer,
            [requests[index][0] for index in indices],
            max_new_tokens=limit,
            is_finished=lambda said, stops=stops: any(stop in said for stop in stops),
        )
        for index, text in zip(indices, said, strict=True):
            found[index] = text[: min((text.find(s) for s in stops if s in text), default=None)]
    return found


def _check_greedy(options: Mapping[str, Any]) -> None:
    """Refuse what greedy decoding is not; without `do_sample` the temperature decides."""
    samples = options.get("do_sample")
    if samples is None:
        samples = float(options.get("temperature") or 0) > 0
    if samples or int(options.get("num_beams") or 1) > 1:
        raise ValueError(f"decoding is greedy only, a task asks for {dict(options)}")


def _stops(options: Mapping[str, Any]) -> tuple[str, ...]:
    until = options.get("until") or ()
    return tuple(filter(None, (until,) if isinstance(until, str) else until))


def _max_new_tokens(options: Mapping[str, Any]) -> int:
    named = (options[name] for name in _LIMITS if options.get(name) is not None)
    return int(next(named, _DEFAULT_LIMIT))

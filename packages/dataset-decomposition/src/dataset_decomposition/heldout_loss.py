"""Loss of held-out documents, each scored alone: by position, by document length, by context.

The paper reports tasks only; this needs no task data and is exact (spec section 4). A document of
`n + 1` tokens, its end of text included, has `n` targets; the target at position `p` (from 0) is
predicted from `p + 1` tokens.

Losses are summed as whole numbers of 2^-24 nats, fp32's spacing between 1 and 2. Whole numbers add
up the same in any order and grouping: the parts of a table give its total exactly.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dataset_decomposition.scoring import Row, Scorer

TICKS = 1 << 24
"""Units of a summed loss in one nat."""


@dataclass(frozen=True)
class LossSummary:
    """Losses of a group of targets.

    Attributes:
        documents: Documents with a target in the group.
        tokens: Targets in the group.
        ticks: Summed loss in units of 2^-24 nats.
        nll_per_document: Mean over documents of the mean loss of their targets in the group, in
            nats; None without any.
    """

    documents: int
    tokens: int
    ticks: int
    nll_per_document: float | None

    @classmethod
    def of(cls, ticks: NDArray[np.int64], tokens: NDArray[np.int64]) -> "LossSummary":
        """Summarise losses and targets of each document, both int64 `[N]`."""
        has_any = tokens > 0
        means = ticks[has_any] / tokens[has_any] / TICKS
        return cls(
            documents=int(has_any.sum()),
            tokens=int(tokens.sum()),
            ticks=int(ticks.sum()),
            nll_per_document=float(means.mean()) if means.size else None,
        )

    @property
    def nll_per_token(self) -> float | None:
        """Mean loss of a target in nats; None without any."""
        return self.ticks / self.tokens / TICKS if self.tokens else None

    @property
    def perplexity(self) -> float | None:
        """Exponential of `nll_per_token`; None without targets or beyond what a float holds."""
        nll = self.nll_per_token
        return None if nll is None or nll > 700 else math.exp(nll)

    def to_json(self) -> dict[str, Any]:
        """Return all figures, the summed loss in nats."""
        return {
            "documents": self.documents,
            "tokens": self.tokens,
            "nll_sum": self.ticks / TICKS,
            "nll_per_token": self.nll_per_token,
            "nll_per_document": self.nll_per_document,
            "perplexity": self.perplexity,
        }


@dataclass(frozen=True)
class HeldoutLoss:
    """All figures of a set of documents.

    Attributes:
        total: All targets.
        by_position: By band of positions, `"0-64"` for 0 to 63; add up to `total`.
        by_length: By `floor(log2(tokens))` of the document; add up to `total`.
        by_context: By context length, every target once each.
        curve: By position from `2^k - 1` to `2^(k + 1) - 2`, keyed by k; add up to `total`.
        unscored: Documents of one token, which have no target.
    """

    total: LossSummary
    by_position: Mapping[str, LossSummary]
    by_length: Mapping[int, LossSummary]
    by_context: Mapping[int, LossSummary]
    curve: Mapping[int, LossSummary]
    unscored: int

    def to_json(self) -> dict[str, Any]:
        """Return all figures as JSON objects."""
        tables = ("by_position", "by_length", "by_context", "curve")
        return {
            "total": self.total.to_json(),
            "unscored": self.unscored,
            **{
                name: {str(key): group.to_json() for key, group in getattr(self, name).items()}
                for name in tables
            },
        }


def heldout_loss(
    scorer: Scorer,
    documents: Sequence[Row],
    *,
    position_bands: Sequence[int] = (64, 256),
    contexts: Sequence[int] = (),
) -> HeldoutLoss:
    """Score each document alone, whole, and once more in windows of each context length.

    Args:
        scorer: The model.
        documents: Tokens of whole documents.
        position_bands: Positions at which a new band begins, rising, after 0.
        contexts: Even window lengths; see `windows`.

    Raises:
        ValueError: Bands or contexts are impossible, or no document has a target.
    """
    edges = _checked_edges(position_bands)
    _check_contexts(contexts)
    targets = np.array([len(document) - 1 for document in documents], dtype=np.int64)
    if not (targets > 0).any():
        raise ValueError(
            f"none of {len(documents)} held-out documents has a token to predict; "
            "prepare the data with other held-out documents"
        )
    curve_edges = (1 << np.arange(int(targets.max()).bit_length(), dtype=np.int64)) - 1
    bands = np.zeros((len(documents), edges.size), dtype=np.int64)
    curve = np.zeros((len(documents), curve_edges.size), dtype=np.int64)
    for row in scorer.losses(documents):
        ticks = to_ticks(row.nll)
        bands[row.number] = _band_sums(ticks, edges)
        curve[row.number] = _band_sums(ticks, curve_edges)
    totals = bands.sum(axis=1)
    return HeldoutLoss(
        total=LossSummary.of(totals, targets),
        by_position=dict(zip(_labels(edges), _by_band(bands, targets, edges), strict=True)),
        by_length=_by_length(totals, targets),
        by_context={
            context: LossSummary.of(_in_context(scorer, documents, totals, context), targets)
            for context in sorted(set(contexts))
        },
        curve=dict(enumerate(_by_band(curve, targets, curve_edges))),
        unscored=int((targets == 0).sum()),
    )


class Window(NamedTuple):
    """A part of a document that a model sees alone.

    Attributes:
        start: First position; the model sees the tokens from here on.
        stop: End of the positions.
        first: First position whose target is scored here.
    """

    start: int
    stop: int
    first: int


def windows(num_targets: int, context: int) -> Iterator[Window]:
    """Yield windows of at most `context` positions that score each target exactly once.

    They start every `context / 2` positions up to the first that reaches the end. The first scores
    all its targets; each later one scores from its middle on, so that every target past the first
    window is predicted from `context / 2 + 1` to `context` tokens.
    """
    half = context // 2
    yield Window(0, min(context, num_targets), 0)
    for start in range(half, num_targets - half, half):
        yield Window(start, min(start + context, num_targets), start + half)


def to_ticks(nll: NDArray[np.float32]) -> NDArray[np.int64]:
    """Round losses in nats to whole units of 2^-24."""
    return np.rint(nll.astype(np.float64) * TICKS).astype(np.int64)


def windowed_ticks(scorer: Scorer, documents: Sequence[Row], context: int) -> NDArray[np.int64]:
    """Return each document's summed loss in windows of an even `context`, in ticks, int64 `[N]`."""
    rows: list[Row] = []
    origins: list[tuple[int, int]] = []
    for number, document in enumerate(documents):
        for window in windows(len(document) - 1, context):
            rows.append(document[window.start : window.stop + 1])
            origins.append((number, window.first - window.start))
    sums = np.zeros(len(documents), dtype=np.int64)
    for row in scorer.losses(rows):
        number, first = origins[row.number]
        sums[number] += to_ticks(row.nll[first:]).sum()
    return sums


def _in_context(
    scorer: Scorer, documents: Sequence[Row], totals: NDArray[np.int64], context: int
) -> NDArray[np.int64]:
    """Score again what does not fit one window; the others keep their `totals`."""
    sums = totals.copy()
    long = [number for number, document in enumerate(documents) if len(document) - 1 > context]
    sums[long] = windowed_ticks(scorer, [documents[number] for number in long], context)
    return sums


def _checked_edges(position_bands: Sequence[int]) -> NDArray[np.int64]:
    edges = np.array([0, *position_bands], dtype=np.int64)
    if (np.diff(edges) < 1).any():
        raise ValueError(f"position_bands must rise from above 0, got {list(position_bands)}")
    return edges


def _check_contexts(contexts: Sequence[int]) -> None:
    for context in contexts:
        if context < 2 or context % 2:
            raise ValueError(f"contexts must be even and at least 2, got {context}")


def _band_sums(ticks: NDArray[np.int64], edges: NDArray[np.int64]) -> NDArray[np.int64]:
    running = np.concatenate(([0], np.cumsum(ticks)))
    bounds = np.minimum(np.append(edges, ticks.size), ticks.size)
    return np.diff(running[bounds])


def _by_band(
    sums: NDArray[np.int64], targets: NDArray[np.int64], edges: NDArray[np.int64]
) -> list[LossSummary]:
    """Summarise the columns of `sums` `[N, bands]`, the last band open."""
    ends = np.append(edges[1:], np.iinfo(np.int64).max)
    counts = np.maximum(np.minimum(targets[:, None], ends) - edges, 0)
    return [LossSummary.of(sums[:, k], counts[:, k]) for k in range(edges.size)]


def _labels(edges: NDArray[np.int64]) -> list[str]:
    ends = [str(end) for end in edges[1:]]
    return [f"{start}-{end}" for start, end in zip(edges, ends, strict=False)] + [f"{edges[-1]}+"]


def _by_length(totals: NDArray[np.int64], targets: NDArray[np.int64]) -> dict[int, LossSummary]:
    exponents = np.array([int(count + 1).bit_length() - 1 for count in targets])
    return {
        int(k): LossSummary.of(totals[exponents == k], targets[exponents == k])
        for k in np.unique(exponents[targets > 0])
    }

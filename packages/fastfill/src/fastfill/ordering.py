"""In which order a gallery is backfilled (spec 2.5); numpy only.

No policy but the oracle `distance` is given new embeddings: an order that needs them has done the
backfill already.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tenfold.keyed import generator

logger = logging.getLogger(__name__)

Order = NDArray[np.int64]
_PART = 65_536


@dataclass(frozen=True, kw_only=True)
class OrderInputs:
    """What policies look at; a policy needs some of it, see `needs`.

    Args:
        size: Items N of the gallery.
        s: Predicted log-variances `[N]`.
        z: Transformed embeddings `[N, d_n]`.
        head: The new model's classifier `[K, d_n]`.
        old: Old embeddings `[N, d_o]`.
        old_head: The old model's classifier `[K, d_o]`.
        hits: How often each item was found by queries `[N]`.
        groups: Group of each item `[N]`, numbers or texts.
        column: What the user ranks by `[N]`, larger first.
        new: New embeddings `[N, d_n]`, for `distance` alone.
        seed: Of the random order.
        centres: Items that `kcenter` spreads; the rest follows by distance to them.
    """

    size: int
    s: NDArray[np.floating] | None = None
    z: NDArray[np.floating] | None = None
    head: NDArray[np.floating] | None = None
    old: NDArray[np.floating] | None = None
    old_head: NDArray[np.floating] | None = None
    hits: NDArray[np.number] | None = None
    groups: NDArray[np.generic] | None = None
    column: NDArray[np.number] | None = None
    new: NDArray[np.floating] | None = None
    seed: int = 0
    centres: int = 1024

    def __post_init__(self) -> None:
        if self.size < 1 or self.centres < 1:
            raise ValueError(f"size and centres must be >= 1, got {self.size} and {self.centres}")
        for name in ("s", "z", "old", "hits", "groups", "column", "new"):
            value = getattr(self, name)
            if value is not None and len(value) != self.size:
                raise ValueError(f"{name} has {len(value)} entries for {self.size} items")
        for name in ("s", "hits", "column"):
            value = getattr(self, name)
            if value is not None and (value.ndim != 1 or not np.isfinite(value).all()):
                raise ValueError(f"{name} must be one finite number an item")
        if self.hits is not None and self.hits.min() < 0:
            raise ValueError(f"hits must be >= 0, got {self.hits.min()}")


def order(policy: str, inputs: OrderInputs) -> Order:
    """Return all rows of the gallery, what to backfill first at the front, `[N]` int64.

    Ties keep the gallery's order. Where the policy goes by s and s is the same for all items, the
    entropy of the new model's classes takes its place, with a warning.

    Args:
        policy: `sigma` (most uncertain first, the paper's), `random`, `distance` (an oracle),
            `confidence` and `old_entropy` of the old model, `entropy` of the new classifier on z,
            `kcenter`, `traffic` (expected loss over all queries: hits times variance), `quota`
            (groups in proportion, by s inside) or `column`.
        inputs: What the policies look at.

    Raises:
        ValueError: The policy is unknown, something that it needs is missing, or it is given new
            embeddings and is not `distance`.
    """
    missing = sorted(name for name in needs(policy) if getattr(inputs, name) is None)
    if missing:
        raise ValueError(f"order {policy} needs {', '.join(missing)}: give it or choose another")
    if inputs.new is not None and policy != "distance":
        raise ValueError(f"order {policy} must not see new embeddings; leave `new` out")
    return _POLICIES[policy].rows(inputs).astype(np.int64)


def needs(policy: str) -> frozenset[str]:
    """Return the names of the inputs that a policy needs besides `size`.

    Raises:
        ValueError: There is no such policy.
    """
    if policy not in _POLICIES:
        raise ValueError(f"order must be one of {', '.join(_POLICIES)}, got {policy!r}")
    return frozenset(_POLICIES[policy].inputs)


def entropy(vectors: NDArray[np.floating], head: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the entropy in nats of the classes of each vector, `[N]`."""
    return _by_part(vectors, head, lambda log_p: -(np.exp(log_p) * log_p).sum(1))


def confidence(vectors: NDArray[np.floating], head: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the probability of the most likely class of each vector, `[N]`."""
    return _by_part(vectors, head, lambda log_p: np.exp(log_p.max(1)))


def _by_part(
    vectors: NDArray[np.floating],
    head: NDArray[np.floating],
    measure: Callable[[NDArray[np.float64]], NDArray[np.float64]],
) -> NDArray[np.float64]:
    if head.ndim != 2 or vectors.ndim != 2 or head.shape[1] != vectors.shape[1]:
        raise ValueError(
            f"a classifier of shape {head.shape} does not take vectors of shape {vectors.shape}"
        )
    rows = max(1, (1 << 24) // len(head))  # 128 MiB of logits
    measured = np.empty(len(vectors))
    weight = head.T.astype(np.float64)
    for start in range(0, len(vectors), rows):
        logits = np.asarray(vectors[start : start + rows], dtype=np.float64) @ weight
        logits -= logits.max(1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(1, keepdims=True))
        measured[start : start + rows] = measure(logits)
    return measured


def _descending(values: NDArray[Any]) -> Order:
    return np.argsort(-np.asarray(values, dtype=np.float64), kind="stable")


def _sigma(inputs: OrderInputs) -> Order:
    return _descending(_priority(inputs))


def _priority(inputs: OrderInputs) -> NDArray[np.float64]:
    s = np.asarray(inputs.s, dtype=np.float64)
    if inputs.size == 1 or np.ptp(s) > 0:
        return s
    if inputs.z is None or inputs.head is None:
        raise ValueError(
            f"s is {s[0]:g} for all items, which orders nothing, and the order by entropy needs z "
            "and head: give them or choose another order"
        )
    logger.warning("s is %g for all items: ordering by the entropy of the new classes", s[0])
    return entropy(inputs.z, inputs.head)


def _random(inputs: OrderInputs) -> Order:
    return generator("order", inputs.seed).permutation(inputs.size)


def _distance(inputs: OrderInputs) -> Order:
    assert inputs.new is not None
    assert inputs.z is not None
    if inputs.new.shape != inputs.z.shape:
        raise ValueError(f"new has shape {inputs.new.shape}, z {inputs.z.shape}: one space, please")
    parts = [
        np.square(np.subtract(inputs.new[i : i + _PART], inputs.z[i : i + _PART], dtype=np.float64))
        for i in range(0, inputs.size, _PART)
    ]
    return _descending(np.concatenate([part.sum(1) for part in parts]))


def _confidence(inputs: OrderInputs) -> Order:
    assert inputs.old is not None
    assert inputs.old_head is not None
    return _descending(-confidence(inputs.old, inputs.old_head))


def _old_entropy(inputs: OrderInputs) -> Order:
    assert inputs.old is not None
    assert inputs.old_head is not None
    return _descending(entropy(inputs.old, inputs.old_head))


def _entropy(inputs: OrderInputs) -> Order:
    assert inputs.z is not None
    assert inputs.head is not None
    return _descending(entropy(inputs.z, inputs.head))


def _kcenter(inputs: OrderInputs) -> Order:
    """Take the item farthest from those taken, again and again; then the rest, farthest first."""
    assert inputs.z is not None
    z = np.asarray(inputs.z, dtype=np.float32)
    squares = np.einsum("nd,nd->n", z, z)
    nearest = squares - 2 * z @ z.mean(0)  # to the mean, but for a constant
    chosen = np.empty(min(inputs.centres, inputs.size), dtype=np.int64)
    for place in range(len(chosen)):
        row = int(nearest.argmax())
        to_row = np.maximum(squares - 2 * (z @ z[row]) + squares[row], 0)
        nearest = to_row if place == 0 else np.minimum(nearest, to_row)
        chosen[place] = row
        nearest[chosen[: place + 1]] = -np.inf  # never again, also among equal items
    rest = _descending(nearest)[: inputs.size - len(chosen)]
    return np.concatenate([chosen, rest])


def _traffic(inputs: OrderInputs) -> Order:
    """Order by hits times variance; items never found come last, among themselves by s."""
    s = _priority(inputs)
    with np.errstate(divide="ignore"):
        expected = np.log(np.asarray(inputs.hits, dtype=np.float64)) + s
    return np.lexsort((-s, -expected))


def _quota(inputs: OrderInputs) -> Order:
    """Keep the share of each group in every stretch of the order; inside a group by s."""
    groups, sizes = np.unique(np.asarray(inputs.groups), return_inverse=True, return_counts=True)[
        1:
    ]
    by_group = np.lexsort((-_priority(inputs), groups))
    starts = np.cumsum(sizes) - sizes
    place = np.empty(inputs.size)
    place[by_group] = np.arange(inputs.size) - starts[groups[by_group]]
    return np.lexsort((groups, (place + 0.5) / sizes[groups]))


def _column(inputs: OrderInputs) -> Order:
    assert inputs.column is not None
    return _descending(inputs.column)


@dataclass(frozen=True)
class _Policy:
    rows: Callable[[OrderInputs], Order]
    inputs: tuple[str, ...]


_POLICIES: Mapping[str, _Policy] = {
    "sigma": _Policy(_sigma, ("s",)),
    "random": _Policy(_random, ()),
    "distance": _Policy(_distance, ("z", "new")),
    "confidence": _Policy(_confidence, ("old", "old_head")),
    "old_entropy": _Policy(_old_entropy, ("old", "old_head")),
    "entropy": _Policy(_entropy, ("z", "head")),
    "kcenter": _Policy(_kcenter, ("z",)),
    "traffic": _Policy(_traffic, ("hits", "s")),
    "quota": _Policy(_quota, ("groups", "s")),
    "column": _Policy(_column, ("column",)),
}

POLICIES = tuple(_POLICIES)
"""Names of the orders."""

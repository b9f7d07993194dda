"""What curves are drawn of: cached features, transformations, tables by item id."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastfill.card import check_same
from fastfill.config import Metric
from fastfill.evaluation.curve import Curve, curves
from fastfill.evaluation.distances import as_metric
from fastfill.evaluation.metrics import Scores, retrieval
from fastfill.evaluation.report import Series
from fastfill.feature_cache import FeatureCache
from fastfill.ordering import OrderInputs, needs, order
from tenfold.devices import choose_device
from tenfold.keyed import generator


@dataclass(frozen=True)
class Arm:
    """A gallery before the backfill.

    Args:
        name: Of the transformation.
        z: Embeddings in the new space `[N, d_n]`.
        s: Their log-variances `[N]`, None where there are none.
        compatible: They are the old embeddings themselves; where widths differ, new embeddings are
            cut to theirs or filled with zeros, as the losses of compatible training do (BCT 2.7).
    """

    name: str
    z: NDArray[np.float32]
    s: NDArray[np.float32] | None
    compatible: bool = field(default=False, kw_only=True)

    def fitted(self, new: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return new embeddings `[n, d_n]`, or a classifier of them, to compare with `z`."""
        missing = self.z.shape[1] - new.shape[1]
        if not self.compatible or not missing:
            return new
        return np.pad(new, ((0, 0), (0, missing))) if missing > 0 else new[:, :missing]


@dataclass(frozen=True)
class Tables:
    """What the user knows about the items, `[N]` each: hit counts, groups, a column."""

    hits: NDArray[np.float64] | None = None
    groups: NDArray[np.str_] | None = None
    column: NDArray[np.float64] | None = None


class Evaluation:
    """Cached features whose items are queries and gallery, each query left out of its own ranking.

    Args:
        cache: Features of old and new model.
        metric: `auto` takes the new model's.
        ks: Sizes of result lists for CMC.
        queries: Items that are queries, drawn without replacement; 0 for all.
        seed: Of that draw and of random orders.
        steps: Points of a curve between none and all.
        device: Where distances are computed.

    Raises:
        ValueError: The cache is empty, or `queries` is more than its items.
    """

    def __init__(
        self,
        cache: FeatureCache,
        *,
        metric: str = "auto",
        ks: Sequence[int] = (1, 5),
        queries: int = 0,
        seed: int = 0,
        steps: int = 20,
        device: str = "cpu",
    ) -> None:
        self.cache, self.ks, self.seed, self.steps = cache, tuple(ks), seed, steps
        self.device = str(choose_device(device))
        self.metric: Metric = cache.cards.new.metric if metric == "auto" else as_metric(metric)
        self.labels = cache.labels
        self.size = len(self.labels)
        if not self.size or not 0 <= queries <= self.size:
            raise ValueError(f"queries must lie in 0..{self.size}, the cached items, got {queries}")
        rows = generator("queries", seed).permutation(self.size)[: queries or self.size]
        self.rows = np.sort(rows)

    @cached_property
    def new(self) -> NDArray[np.float32]:
        """New embeddings."""
        return self.cache.new()

    @cached_property
    def old(self) -> NDArray[np.float32]:
        """Old embeddings."""
        return self.cache.old()

    @cached_property
    def before(self) -> Scores:
        """Of the old model, on the old gallery and near in its own sense."""
        return retrieval(
            self.old[self.rows],
            self.old,
            self.labels[self.rows],
            self.labels,
            metric=self.cache.cards.old.metric,
            self_rows=self.rows,
            ks=self.ks,
            device=self.device,
        )

    def orders(
        self, arm: Arm, policies: Sequence[str], *, seeds: int, tables: Tables
    ) -> dict[str, list[NDArray[np.int64]]]:
        """Return the orders of each policy: several permutations for `random`, else one.

        Raises:
            ValueError: A policy is unknown or lacks what it needs.
        """
        found: dict[str, list[NDArray[np.int64]]] = {}
        for policy in policies:
            count = seeds if policy == "random" else 1
            found[policy] = [
                order(policy, self._inputs(arm, policy, tables, self.seed + number))
                for number in range(count)
            ]
        return found

    def series(
        self, arm: Arm, policies: Sequence[str], *, seeds: int, tables: Tables
    ) -> list[Series]:
        """Return the curves of an arm, one series a policy.

        Raises:
            ValueError: As `orders`; or z has another width than the new embeddings.
        """
        orders = self.orders(arm, policies, seeds=seeds, tables=tables)
        named = {f"{p} {n}": each for p, found in orders.items() for n, each in enumerate(found)}
        new = arm.fitted(self.new)
        drawn = curves(
            new[self.rows],
            arm.z,
            new,
            self.labels,
            named,
            steps=self.steps,
            metric=self.metric,
            ks=self.ks,
            self_rows=self.rows,
            old=self.before,
            device=self.device,
        )
        return series_of(arm.name, orders, drawn)

    def _inputs(self, arm: Arm, policy: str, tables: Tables, seed: int) -> OrderInputs:
        wanted = needs(policy)
        new_head = "head" in wanted or "s" in wanted  # for s that is the same for all items
        head = self.cache.head if new_head else None
        return OrderInputs(
            size=self.size,
            s=arm.s,
            z=arm.z,
            head=None if head is None else arm.fitted(head),
            old=self.old if "old" in wanted else None,
            old_head=self.cache.old_head if "old_head" in wanted else None,
            hits=tables.hits,
            groups=tables.groups,
            column=tables.column,
            new=arm.fitted(self.new) if "new" in wanted else None,
            seed=seed,
        )


def series_of(
    arm: str, orders: dict[str, list[NDArray[np.int64]]], drawn: dict[str, Curve]
) -> list[Series]:
    """Gather curves named `<policy> <number>` into one series a policy."""
    return [
        Series(arm, policy, tuple(drawn[f"{policy} {number}"] for number in range(len(found))))
        for policy, found in orders.items()
    ]


def load_arms(cache: FeatureCache, paths: Sequence[Path], *, device: str = "cpu") -> list[Arm]:
    """Pass the old embeddings of a cache through each transformation.

    Without one the old embeddings stay as they are, as with compatible training.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A transformation is of other models than the cache, or two have one name.
    """
    from fastfill.transform import transform_all
    from fastfill.weights import load_transformation

    old, new = cache.cards.old, cache.cards.new
    if not paths:
        return [Arm("compatible", cache.old(), None, compatible=True)]
    stems = [path.stem for path in paths]
    names = stems if len(set(stems)) == len(stems) else [str(path) for path in paths]
    if len(set(names)) < len(names):
        raise ValueError(f"h names a transformation twice: {', '.join(names)}")
    arms: list[Arm] = []
    for name, path in zip(names, paths, strict=True):
        h, card = load_transformation(path)
        check_same(card.old, old, what=f"old model of {path}")
        check_same(card.new, new, what=f"new model of {path}")
        side = cache.side() if h.side_dim else None
        z, s = transform_all(h.to(choose_device(device)), cache.old(), side)
        arms.append(Arm(name, z, s))
    return arms


def read_by_id(path: Path, ids: Sequence[str], column: str) -> list[str]:
    """Return a column of a CSV file with the heading `id,<column>` in the order of `ids`.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: It has another heading, an id twice, or lacks an item.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: expected a CSV file with id,{column}")
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        if not {"id", column} <= set(reader.fieldnames or ()):
            raise ValueError(f"{path} must have the heading id,{column}, got {reader.fieldnames}")
        try:
            rows = [(row["id"], row[column]) for row in reader]
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}") from None
    values = dict(rows)
    if len(values) < len(rows):
        raise ValueError(f"{path} has an id twice: {len(rows)} lines, {len(values)} ids")
    missing = [each for each in ids if values.get(each) is None]
    if missing:
        raise ValueError(f"{path} lacks {len(missing)} items, the first is {missing[0]!r}")
    return [values[each] for each in ids]


def read_numbers(path: Path, ids: Sequence[str], column: str) -> NDArray[np.float64]:
    """Return a column of numbers, as `read_by_id`.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: As `read_by_id`, or an entry is no number.
    """
    try:
        return np.array([float(value) for value in read_by_id(path, ids, column)])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error

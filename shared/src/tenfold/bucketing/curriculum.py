"""Buckets, and the odds with which a curriculum draws them (dataset decomposition, Table 2, B.2).

Not here: the draw itself (`schedule`) and how many steps each bucket gives (`quotas`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from tenfold.bucketing.counts import checked_count

OddsMode = Literal["per_batch", "times_size"]
FixedOrder = Literal["natural", "sequential"]
NAMES = "uniform, natural, grow_linear, grow_p<base>, shrink_p<base>, sequential"


@dataclass(frozen=True)
class Bucket:
    """Items of one kind and equal cost.

    Attributes:
        key: Unique name; row order is keyed by it.
        item_cost: Cost of one item in the unit of `cost_per_step`: tokens, pixels, time steps.
        num_items: Items that exist; 0 is allowed and gives no steps.
    """

    key: str
    item_cost: int
    num_items: int

    def __post_init__(self) -> None:
        if not self.key:
            raise ValueError("Bucket.key must not be empty; give each bucket a unique name")
        for field, least in (("item_cost", 1), ("num_items", 0)):
            value = checked_count(
                f"{field} of bucket {self.key!r}",
                getattr(self, field),
                least=least,
                hint="costs are in the unit of cost_per_step, items those that exist",
            )
            object.__setattr__(self, field, value)


OddsFunction = Callable[[Sequence[Bucket]], Sequence[float]]


@dataclass(frozen=True)
class Curriculum:
    """Odds of each bucket at each step, and the number of portions in which the data is used.

    Each cycle holds an equal part of every bucket's steps and uses it up; a bucket that has run dry
    leaves the draw until the next cycle (Algorithm 1).

    Attributes:
        odds: Positive number per bucket key, a function of the buckets that returns them in order,
            `"natural"`: a plain shuffle of the cycle's steps, or `"sequential"`: always the
            cheapest bucket that still has steps.
        cycles: Number of equal portions.
        mode: `"per_batch"` uses the odds as they are (paper); `"times_size"` multiplies them by the
            bucket's number of steps (official code). It does not matter to the two named orders.
    """

    odds: Mapping[str, float] | OddsFunction | FixedOrder
    cycles: int = 1
    mode: OddsMode = "per_batch"

    def __post_init__(self) -> None:
        cycles = checked_count("cycles", self.cycles, least=1, hint="1 means no cycles")
        object.__setattr__(self, "cycles", cycles)
        if self.mode not in get_args(OddsMode):
            raise ValueError(
                f"Curriculum.mode must be one of {get_args(OddsMode)}, got {self.mode!r}; "
                "'per_batch' is the paper's"
            )
        if isinstance(self.odds, str) and self.odds not in get_args(FixedOrder):
            raise ValueError(
                f"Curriculum.odds must be a mapping, a function or one of {get_args(FixedOrder)}, "
                f"got {self.odds!r}; Curriculum.named() takes the names of presets"
            )

    @classmethod
    def uniform(cls, *, cycles: int = 1, mode: OddsMode = "per_batch") -> Self:
        """Give every bucket the same odds."""
        return cls(partial(_powers, base=1.0), cycles, mode)

    @classmethod
    def natural(cls, *, cycles: int = 1) -> Self:
        """Shuffle the steps of each cycle, every order equally likely.

        A bucket's odds are then its number of steps that are left. The number that it started with
        would not do: rare buckets would stay behind and pile up at the end of the cycle.
        """
        return cls("natural", cycles)

    @classmethod
    def grow_linear(cls, *, cycles: int = 1, mode: OddsMode = "per_batch") -> Self:
        """Cheap buckets first: odds n, n-1, ..., 1 from the cheapest bucket to the costliest."""
        return cls(_linear, cycles, mode)

    @classmethod
    def grow_p2(cls, *, cycles: int = 1, mode: OddsMode = "per_batch") -> Self:
        """Cheap buckets first: odds halve per bucket. The paper recommends it with 8 cycles."""
        return cls.grow_p(2, cycles=cycles, mode=mode)

    @classmethod
    def grow_p(cls, base: float, *, cycles: int = 1, mode: OddsMode = "per_batch") -> Self:
        """Cheap buckets first: odds base^(n-1), ..., base, 1."""
        return cls(partial(_powers, base=_checked_base(base)), cycles, mode)

    @classmethod
    def shrink_p(cls, base: float, *, cycles: int = 1, mode: OddsMode = "per_batch") -> Self:
        """Costly buckets first: odds 1, base, ..., base^(n-1)."""
        return cls(partial(_powers, base=_checked_base(base), shrink=True), cycles, mode)

    @classmethod
    def sequential(cls, *, cycles: int = 1) -> Self:
        """Sort each cycle by cost, cheapest first: the limit of `grow_p` for a growing base."""
        return cls("sequential", cycles)

    @classmethod
    def named(cls, name: str, *, cycles: int = 1, mode: OddsMode = "per_batch") -> Self:
        """Return the preset that a configuration file names, such as `grow_p2` or `shrink_p100`.

        Raises:
            ValueError: The name is not one of `NAMES`.
        """
        for prefix, powers in (("grow_p", cls.grow_p), ("shrink_p", cls.shrink_p)):
            base = name.removeprefix(prefix)
            if base != name and base.replace(".", "", 1).isdigit():
                return powers(float(base), cycles=cycles, mode=mode)
        if name in ("uniform", "grow_linear"):
            return getattr(cls, name)(cycles=cycles, mode=mode)
        if name in ("natural", "sequential"):
            return getattr(cls, name)(cycles=cycles)
        raise ValueError(f"curriculum {name!r} is unknown; use one of {NAMES}")

    def resolve(self, buckets: Sequence[Bucket]) -> Self:
        """Return the same curriculum with its odds as numbers per bucket key.

        Raises:
            ValueError: A bucket has no odds, or odds stand for a bucket that does not exist.
        """
        if isinstance(self.odds, str):
            return self
        keys = [bucket.key for bucket in buckets]
        if callable(self.odds):
            values = list(self.odds(buckets))
            if len(values) != len(keys):
                raise ValueError(
                    f"the odds function returned {len(values)} odds for {len(keys)} buckets; "
                    "return one number per bucket"
                )
            return replace(self, odds=dict(zip(keys, map(float, values), strict=True)))
        if different := set(keys) ^ set(self.odds):
            raise ValueError(
                f"Curriculum.odds and the buckets differ in {sorted(different)}; "
                f"give odds for exactly {keys}"
            )
        return replace(self, odds={key: float(self.odds[key]) for key in keys})

    def weights(
        self, buckets: Sequence[Bucket], quotas: NDArray[np.int64]
    ) -> NDArray[np.float64] | FixedOrder:
        """Return the draw weights, float64[buckets], or the name of an order that needs none.

        Args:
            buckets: All buckets of the plan.
            quotas: int64[buckets], steps that each bucket gives; the odds of a bucket without steps
                do not matter.

        Raises:
            ValueError: Odds of a bucket that gives steps are not positive and finite.
        """
        odds = self.resolve(buckets).odds
        if not isinstance(odds, Mapping):
            assert not callable(odds), "resolve() makes numbers of a function"
            return odds
        for bucket, quota in zip(buckets, quotas, strict=True):
            value = odds[bucket.key]
            if quota and not 0 < value < math.inf:
                raise ValueError(
                    f"odds of bucket {bucket.key!r} must be positive and finite, got {value}; "
                    "leave a bucket out with wanted={key: 0}, sort by cost with "
                    "Curriculum.sequential()"
                )
        values = np.array([odds[bucket.key] for bucket in buckets], dtype=np.float64)
        weights = np.where(quotas > 0, values, 1.0)
        return weights * quotas.astype(np.float64) if self.mode == "times_size" else weights


def _ranks(buckets: Sequence[Bucket]) -> list[int]:
    """Rank by cost; buckets of equal cost (several sources) share a rank and so their odds."""
    costs = sorted({bucket.item_cost for bucket in buckets})
    return [costs.index(bucket.item_cost) for bucket in buckets]


def _linear(buckets: Sequence[Bucket]) -> list[float]:
    ranks = _ranks(buckets)
    return [float(max(ranks) + 1 - rank) for rank in ranks]


def _powers(buckets: Sequence[Bucket], *, base: float, shrink: bool = False) -> list[float]:
    ranks = np.array(_ranks(buckets))
    with np.errstate(over="ignore"):  # infinite odds are refused, with a remedy, by `weights`
        return np.power(base, ranks if shrink else ranks.max() - ranks).tolist()


def _checked_base(base: float) -> float:
    if not 1 < base < math.inf:
        raise ValueError(f"base must be finite and > 1, got {base}; Curriculum.uniform() is base 1")
    return float(base)

"""How many steps each bucket gives to a run of a stated length (spec 2.4, paper Table 1)."""

from collections.abc import Mapping
from typing import Literal

Mixture = Literal["natural", "equal"] | dict[str, float]


def step_shares(mixture: Mixture, available: Mapping[str, int]) -> dict[str, float]:
    """Return each bucket's share of the steps.

    Args:
        mixture: `"natural"`: in proportion to the steps that a bucket can give in one pass;
            `"equal"`: the same for all that can give one; or shares by bucket key.
        available: Steps that each bucket can give in one pass.

    Raises:
        ValueError: A named bucket does not exist, or no share is positive.
    """
    if isinstance(mixture, dict):
        if unknown := sorted(set(mixture) - set(available)):
            raise ValueError(
                f"data.mixture names {unknown}, the data has the buckets {sorted(available)}"
            )
        shares = {key: float(mixture.get(key, 0.0)) for key in available}
    else:
        shares = {
            key: float(steps if mixture == "natural" else steps > 0)
            for key, steps in available.items()
        }
    if min(shares.values()) < 0 or not sum(shares.values()):
        raise ValueError(f"data.mixture needs shares >= 0 with a positive sum, got {shares}")
    return shares


def apportion(shares: Mapping[str, float], total: int) -> dict[str, int]:
    """Split `total` steps in proportion to `shares` by largest remainder, earlier keys first."""
    whole = sum(shares.values())
    exact = {key: total * share / whole for key, share in shares.items()}
    counts = {key: int(value) for key, value in exact.items()}
    by_remainder = sorted(exact, key=lambda key: counts[key] - exact[key])
    for key in by_remainder[: total - sum(counts.values())]:
        counts[key] += 1
    return counts

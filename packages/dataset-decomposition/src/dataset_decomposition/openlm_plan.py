"""The official planner's numbers: whole shards for every GPU and loader worker (spec 2.8).

Ours plans in batches and needs none of this; it is here for runs of the official training code and
to compare with published ones. Only the result is reproduced, by a closed form.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from dataset_decomposition.decompose import bucket_length
from dataset_decomposition.settings import OPENLM_SHARD_ROWS, OPENLM_SHARD_TOKENS


@dataclass(frozen=True)
class OpenLMPlan:
    """What the official planner prints, by bucket exponent, shortest first.

    Attributes:
        factors: Units of each bucket in a cycle; a unit is one shard for every GPU and worker.
        sequences_per_cycle: `--source-num-seq-per-epoch`.
        weights: `--train-data-mix-weights`: odds times factor.
        tokens_per_cycle: `--train-num-samples`.
        cycles: `--epochs`.
        passes: Passes over each bucket's shards in the whole run; above 1 data repeats.
        warnings: What the official planner says, or leaves unsaid.
    """

    factors: dict[int, int]
    sequences_per_cycle: dict[int, int]
    weights: dict[int, int]
    tokens_per_cycle: int
    cycles: int
    passes: dict[int, float]
    warnings: tuple[str, ...]

    @property
    def tokens(self) -> int:
        """Tokens of the whole run."""
        return self.tokens_per_cycle * self.cycles


def openlm_plan(
    shards: Mapping[int, int],
    odds: Mapping[int, float],
    *,
    tokens: int,
    cycles: int,
    gpus: int,
    workers: int = 1,
) -> OpenLMPlan:
    """Plan as the official planner does.

    Each bucket's natural share of a cycle is rounded to units; then the longest bucket's units move
    until the total reaches the asked tokens or passes them. A total that fits no number of units
    ends beyond the asked one as seen from the rounded shares, which need not be the nearest.

    Args:
        shards: Full shards of 2^20 tokens by bucket exponent.
        odds: Odds of the curriculum by bucket exponent.
        tokens: Tokens asked for, over all cycles.
        cycles: Cycles, which the official code runs as epochs.
        gpus: Data-parallel ranks.
        workers: Loader workers of each rank.

    Raises:
        ValueError: A number is not positive, a bucket is shorter than an official shard allows, or
            the longest bucket has too few units to give up.
    """
    for name, value in (("tokens", tokens), ("cycles", cycles), ("gpus", gpus)):
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")
    _check_shards(shards)
    unit = OPENLM_SHARD_TOKENS * gpus * workers
    factors = _factors(shards, tokens, unit * cycles)
    total = sum(factors.values()) * unit
    passes = {
        k: factor * gpus * workers * cycles / shards[k] if factor else 0.0
        for k, factor in factors.items()
    }
    return OpenLMPlan(
        factors=factors,
        sequences_per_cycle={k: n * unit // bucket_length(k) for k, n in factors.items()},
        weights={k: int(n * odds[k]) for k, n in factors.items()},
        tokens_per_cycle=total,
        cycles=cycles,
        passes=passes,
        warnings=tuple(_warnings(tokens, total * cycles, passes)),
    )


def _factors(shards: Mapping[int, int], tokens: int, unit: int) -> dict[int, int]:
    """Return units by bucket: rounded natural shares, then the longest bucket's moved."""
    available = sum(shards.values())
    wanted = tokens / unit
    factors = {k: round(wanted * shards[k] / available) for k in sorted(shards)}
    rounded, longest = sum(factors.values()), max(factors)
    reached = -(-tokens // unit) if rounded < wanted else tokens // unit
    factors[longest] += reached - rounded
    if factors[longest] < 0 or not reached:
        raise ValueError(
            f"{tokens:,} tokens are {wanted:.2f} units of {unit:,} (a shard for every GPU, worker "
            "and cycle), which do not split over the buckets; ask for more tokens, fewer cycles or "
            "fewer GPUs, or plan in batches with compat=batches"
        )
    return factors


def _check_shards(shards: Mapping[int, int]) -> None:
    if not sum(shards.values()):
        raise ValueError(
            f"no bucket fills one official shard of {OPENLM_SHARD_TOKENS:,} tokens; plan in "
            "batches with compat=batches"
        )
    shortest = min(shards)
    if OPENLM_SHARD_ROWS * bucket_length(shortest) < OPENLM_SHARD_TOKENS:
        raise ValueError(
            f"official shards of bucket D_{shortest} hold fewer than 2^20 tokens, which this "
            "planner does not reproduce; plan in batches with compat=batches"
        )


def _warnings(asked: int, total: int, passes: Mapping[int, float]) -> list[str]:
    found = []
    if total != asked:
        found.append(f"{asked:,} tokens fit no whole number of shards; {total:,} instead")
    found += [f"D_{k} is passed over {count:.2f} times" for k, count in passes.items() if count > 1]
    return found

"""Batches of one kind at a time, in an order that is a pure function of a small plan.

Items of equal cost (tokens, pixels, time steps) lie in buckets; each optimiser step takes one
bucket and as many of its items as `cost_per_step` pays for (dataset decomposition, arXiv
2405.13226, sections 2.2-2.3 and Algorithm 1). All ranks derive the same bucket for the same step
without talking.

The plan needs numpy only; the names that need torch are imported when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from tenfold.bucketing.curriculum import Bucket, Curriculum
from tenfold.bucketing.passes import PassPosition, supply
from tenfold.bucketing.plan import BucketPlan, BucketStats
from tenfold.bucketing.reader import BadRecordError, Reader

if TYPE_CHECKING:
    from tenfold.bucketing.lockstep import assert_lockstep
    from tenfold.bucketing.sampler import BucketBatchSampler
    from tenfold.bucketing.stream import BucketStream

__all__ = [
    "BadRecordError",
    "Bucket",
    "BucketBatchSampler",
    "BucketPlan",
    "BucketStats",
    "BucketStream",
    "Curriculum",
    "PassPosition",
    "Reader",
    "assert_lockstep",
    "supply",
]

_NEEDS_TORCH = {
    "BucketBatchSampler": "sampler",
    "BucketStream": "stream",
    "assert_lockstep": "lockstep",
}


def __getattr__(name: str) -> object:
    if name not in _NEEDS_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_NEEDS_TORCH[name]}"), name)

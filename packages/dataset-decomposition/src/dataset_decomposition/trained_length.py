"""Up to which position a model has been trained; rotary embeddings go on beyond it unlearnt."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dataset_decomposition.manifest import bucket_of
from tenfold.bucketing import BucketPlan

_log = logging.getLogger(__name__)


def trained_length(keys: Iterable[str]) -> int:
    """Return the tokens to predict in a row of the longest of these buckets, `D_<exponent>`.

    The keys of `used` in the state of a run's data module are the buckets that it has trained.
    """
    return max(1 << bucket_of(Path(key)) for key in keys)


def warn_of_untrained(
    max_targets: int, plan: BucketPlan | None, saved: Mapping[str, Any] | None
) -> None:
    """Warn when documents are scored at positions that no trained row has.

    Args:
        max_targets: Longest scored part of a document.
        plan: What is trained, if anything.
        saved: State of the data module in the checkpoint, if there is one.
    """
    used = [*(saved or {}).get("used", ())]
    if plan is not None:
        used += [key for key, bucket in plan.stats().items() if bucket.steps]
    if used and max_targets > (trained := trained_length(used)):
        _log.warning(
            "held-out documents are scored up to %d tokens, but the longest bucket in training has "
            "%d: no position beyond is trained; set data.heldout_tokens to at most that",
            *(max_targets, trained),
        )

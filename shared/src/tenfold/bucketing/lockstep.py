"""Proof, before the first step, that all ranks hold the same plan.

Under synchronous data parallelism a step lasts as long as its slowest rank (dataset decomposition,
arXiv 2405.13226), and ranks with different bucket orders hang or train on the wrong mixture.
"""

import hashlib
import json

import torch
import torch.distributed as dist

from tenfold.bucketing.plan import BucketPlan


def assert_lockstep(plan: BucketPlan, group: dist.ProcessGroup | None = None) -> None:
    """Compare the plan's fields over the ranks of a group with one all_gather.

    Does nothing in a single process. Every rank raises, and shows its own value of the first field.

    Args:
        plan: This rank's plan.
        group: The data-parallel group; None is the default group.

    Raises:
        ValueError: Plans differ; the message names the fields and which ranks hold each value.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size(group) == 1:
        return
    described = plan.describe()
    # The schedule follows from the other fields: it is the culprit only if they all agree.
    names = [name for name in described if name != "schedule"] + ["schedule"]
    hashes = torch.tensor([_hash(described[name]) for name in names], device=_device(group))
    gathered = [torch.empty_like(hashes) for _ in range(dist.get_world_size(group))]
    dist.all_gather(gathered, hashes, group=group)
    by_rank = torch.stack(gathered).tolist()
    differing = [
        f"{name} ({_camps([row[place] for row in by_rank])})"
        for place, name in enumerate(names)
        if len({row[place] for row in by_rank}) > 1
    ]
    if differing:
        first = differing[0].split(" ", 1)[0]
        raise ValueError(
            f"the ranks have different plans: {'; '.join(differing)}; rank {dist.get_rank(group)} "
            f"has {first} = {described[first]}; give all ranks the same data and settings"
        )


def _hash(value: object) -> int:
    digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


def _camps(values: list[int]) -> str:
    """Write which ranks agree: `ranks 0, 1, 3 | 2`."""
    camps: dict[int, list[str]] = {}
    for rank, value in enumerate(values):
        camps.setdefault(value, []).append(str(rank))
    return "ranks " + " | ".join(", ".join(ranks) for ranks in camps.values())


def _device(group: dist.ProcessGroup | None) -> torch.device:
    """Return a device on which this group can gather: the CPU unless its backend lacks it."""
    if "cpu:" in dist.get_backend_config(group):
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())

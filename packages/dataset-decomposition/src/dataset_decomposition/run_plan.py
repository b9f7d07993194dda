"""The plan that a run follows: with steps left out, or made anew over the rows that are left.

Spec 9: after a loss spike a run goes on without some steps of its plan; with other data options it
goes on with a new plan. Both are pure functions of the options and of what the checkpoint says.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dataset_decomposition.manifest import Shard
from tenfold.bucketing import BucketPlan, PassPosition
from tenfold.bucketing.cursor import StepCursor
from tenfold.bucketing.skips import Range, check_same_until, written

logger = logging.getLogger(__name__)

Build = Callable[[int, Mapping[str, PassPosition]], BucketPlan]
"""Plans the optimiser steps from the given one on, over the rows that earlier plans have left."""


@dataclass(frozen=True)
class RunPlan:
    """A plan, and the optimiser step at which it begins.

    Its steps are numbered from there: a plan made at optimiser step 100 has the steps 100, 101, ...

    Attributes:
        whole: The plan with all its steps.
        plan: What is trained of it.
        start: Optimiser step of the plan's first step; 0 unless it is a later plan of the run.
    """

    whole: BucketPlan
    plan: BucketPlan
    start: int = 0

    @property
    def end(self) -> int:
        """Return the optimiser steps after which the run has followed its plan to the end."""
        return self.start + len(self.plan)

    @property
    def skipped(self) -> list[Range]:
        """Return the steps that are left out, in the numbers of the option."""
        return [(first + self.start, end + self.start) for first, end in self.plan.skipped]

    def planned_step(self, step: int) -> int:
        """Return the number in the plan of what an optimiser step trains, from `start` on."""
        return self.start + self.plan.planned_step(step - self.start)

    def bucket(self, step: int) -> str:
        """Return the key of the bucket that an optimiser step trains."""
        return self.plan.buckets[self.plan.steps[step - self.start]].key

    def state(self, step: int, data_hash: str) -> dict[str, Any]:
        """Return what a checkpoint of this optimiser step must hold, as JSON values."""
        used = self.whole.positions(self.planned_step(step) - self.start)
        return {
            "step": step,
            "start": self.start,
            "fingerprint": self.whole.fingerprint,
            "plan": self.whole.describe(),
            "skipped": [list(one) for one in self.skipped],
            "used": {key: asdict(position) for key, position in used.items()},
            "data_hash": data_hash,
        }


def hash_shards(shards: Mapping[str, Sequence[Shard]]) -> str:
    """Return the SHA-256 of the manifests by bucket key: it says whether rows are the same."""
    listed = {key: [asdict(shard) for shard in of_bucket] for key, of_bucket in shards.items()}
    return hashlib.sha256(json.dumps(listed, sort_keys=True).encode()).hexdigest()


def parse_ranges(texts: Sequence[str]) -> list[Range]:
    """Read `data.skip_steps`: `"a:b"` is the steps a to b - 1, `"a"` is one step.

    Raises:
        ValueError: A text is neither, or holds no step.
    """
    ranges: list[Range] = []
    for text in texts:
        first, colon, end = str(text).strip().partition(":")
        numbers = (first, end) if colon else (first,)
        if not all(number.isascii() and number.isdigit() for number in numbers):
            raise ValueError(
                f"data.skip_steps takes ranges a:b or single steps, got {text!r}; "
                '"120:140" leaves out the steps 120 to 139'
            )
        begin = int(first)
        ranges.append((begin, int(end) if colon else begin + 1))
        if ranges[-1][1] <= begin:
            raise ValueError(f"data.skip_steps: the range {text} holds no step; the end is not in")
    return ranges


def begin_run(build: Build, skips: Sequence[Range]) -> RunPlan:
    """Plan a run from its first step.

    Raises:
        ValueError: The data cannot give what is asked, or the ranges do not fit the plan.
    """
    return _leave_out(build(0, {}), skips, start=0)


def go_on(
    saved: Mapping[str, Any],
    build: Build,
    *,
    skips: Sequence[Range],
    new_plan_from_step: int | None,
    data_hash: str,
) -> RunPlan:
    """Plan what follows a checkpoint.

    Args:
        saved: `RunPlan.state` of the checkpoint.
        build: Makes a plan of the current options.
        skips: Steps to leave out.
        new_plan_from_step: `data.new_plan_from_step`.
        data_hash: Of the current data set.

    Raises:
        ValueError: The options give another plan than the checkpoint's and none is asked for, or
            what is asked for contradicts the checkpoint.
    """
    step, start = saved["step"], saved["start"]
    if new_plan_from_step not in (None, start):
        return _new_plan(saved, build, skips, start=new_plan_from_step, data_hash=data_hash)
    if start and new_plan_from_step is None:
        raise ValueError(
            f"the checkpoint follows a plan made at step {start}; go on with "
            f"data.new_plan_from_step={start}, or {step} for another plan from here on"
        )
    if data_hash != saved["data_hash"]:
        raise ValueError(
            f"the data set has changed since the checkpoint of step {step}; restore it, or go on "
            f"with data.new_plan_from_step={step}: all rows of the changed one then count as unused"
        )
    skipped = [(first, end) for first, end in saved["skipped"]]
    before = _leave_out(_same_plan(saved, build), skipped, start=start)
    run = _leave_out(before.whole, skips, start=start)
    try:
        check_same_until(before.planned_step(step - 1) + 1, before.skipped, run.skipped)
    except ValueError as error:
        raise ValueError(f"data.skip_steps: {error}") from error
    return run


def _new_plan(
    saved: Mapping[str, Any],
    build: Build,
    skips: Sequence[Range],
    *,
    start: int,
    data_hash: str,
) -> RunPlan:
    if start != saved["step"]:
        raise ValueError(
            f"data.new_plan_from_step={start}, but the checkpoint stands at step {saved['step']} "
            f"of a plan made at step {saved['start']}; set it to {saved['step']}, or resume from "
            f"the checkpoint of step {start}"
        )
    continued = {key: PassPosition(**position) for key, position in saved["used"].items()}
    if data_hash != saved["data_hash"]:
        logger.warning("the data set has changed: all of its rows count as unused")
        continued = {}
    try:
        plan = build(start, continued)
    except ValueError as error:
        raise ValueError(
            f"data.new_plan_from_step={start}, over the rows that are left: {error}"
        ) from error
    return _leave_out(plan, skips, start=start)


def _same_plan(saved: Mapping[str, Any], build: Build) -> BucketPlan:
    """Plan as the saved run did, and check that it is the same plan."""
    start, described = saved["start"], saved["plan"]
    continued = {key: PassPosition(**begin) for key, begin in described["continued"].items()}
    plan = build(start, continued)
    position = {"step": saved["step"] - start, "fingerprint": saved["fingerprint"]}
    try:
        StepCursor(plan).load_state_dict(position, described=described)
    except ValueError as error:
        raise ValueError(
            f"{error}, or go on with data.new_plan_from_step={saved['step']}: a new plan of the "
            "rows that are left"
        ) from error
    return plan


def _leave_out(whole: BucketPlan, skips: Sequence[Range], *, start: int) -> RunPlan:
    """Apply ranges that count as the option does."""
    if early := [one for one in skips if one[0] < start]:
        raise ValueError(
            f"data.skip_steps {written(early)} lies before data.new_plan_from_step={start}; take "
            "it out: the checkpoint knows what earlier plans have left out"
        )
    try:
        plan = whole.without((first - start, end - start) for first, end in skips)
    except ValueError as error:
        at = f" (numbered from {start})" if start else ""
        raise ValueError(f"data.skip_steps {written(skips)}: {error}{at}") from error
    return RunPlan(whole, plan, start)

"""Where a run stands in its plan: the state that sampler and stream share.

The position is the step that *training* has consumed. Loader workers read ahead of it, so the
readers cannot know it; the trainer's side moves it with `advance`.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tenfold.bucketing.plan import BucketPlan

logger = logging.getLogger(__name__)


class StepCursor:
    """Position in a plan, with the state dict of a resumable loader.

    Attributes:
        plan: The plan.
        step: Optimiser steps consumed so far, skipped ones included. An iteration starts here.
    """

    def __init__(self, plan: BucketPlan) -> None:
        self.plan = plan
        self.step = 0

    def advance(self, steps: int = 1) -> None:
        """Record that training finished further optimiser steps; running iterators go on."""
        self._move_to(self.step + steps)

    def skip(self, steps: int) -> None:
        """Leave out steps of the plan, for example those of a loss spike.

        Takes effect when the next iteration starts. Trainer steps and plan steps then differ by the
        number skipped: checkpoint `state_dict()`, not the trainer's step.
        """
        if steps < 0:
            raise ValueError(f"skip takes a number of steps >= 0, got {steps}; it cannot go back")
        self._move_to(self.step + steps)

    def state_dict(self) -> dict[str, Any]:
        """Return `{"step": consumed, "fingerprint": plan}`; nothing about ranks or workers."""
        return {"step": self.step, "fingerprint": self.plan.fingerprint}

    def load_state_dict(
        self, state: Mapping[str, Any], *, described: Mapping[str, Any] | None = None
    ) -> None:
        """Go on from a saved position; takes effect when the next iteration starts.

        Args:
            state: What `state_dict` returned, in a run with any number of ranks, accumulation steps
                and workers. A data module may build it from the trainer's own step.
            described: `plan.describe()` of the saved run, if kept, to name the fields that differ.

        Raises:
            ValueError: The state belongs to another plan, has other fields or a step outside the
                plan.
        """
        if set(state) != {"step", "fingerprint"}:
            raise ValueError(
                f"a bucketing state has the fields step and fingerprint, got {sorted(state)}; "
                "pass what state_dict() returned"
            )
        if state["fingerprint"] != self.plan.fingerprint:
            named = _named(differences(described, self.plan.describe()) if described else ())
            raise ValueError(
                f"the saved position belongs to another plan: saved fingerprint "
                f"{state['fingerprint']}, current {self.plan.fingerprint}"
                f"{named}; restore the data and settings of the saved run"
            )
        self._move_to(int(state["step"]))

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: the plan spans the whole run, repeats included, and never reshuffles.

        Later epochs are not refused, because a run that a trainer has stopped by its step count
        comes back with the epoch counted as done. They go on from `step`.
        """
        if epoch > 0:
            logger.warning(
                "set_epoch(%d) has no effect: a BucketPlan spans the run; going on at step %d",
                epoch,
                self.step,
            )

    def _move_to(self, step: int) -> None:
        if not 0 <= step <= len(self.plan):
            raise ValueError(
                f"step {step} is outside the plan's {len(self.plan)} steps; plan a longer run "
                "with wanted="
            )
        self.step = step


def differences(saved: Any, current: Any, name: str = "") -> Iterator[str]:
    """Name where two plan descriptions differ, as `field: saved -> current`."""
    if isinstance(saved, Mapping) and isinstance(current, Mapping):
        for key in sorted(set(saved) | set(current)):
            yield from differences(saved.get(key), current.get(key), f"{name}.{key}".lstrip("."))
    elif isinstance(saved, list) and isinstance(current, list) and len(saved) == len(current):
        for index, pair in enumerate(zip(saved, current, strict=True)):
            yield from differences(*pair, f"{name}[{index}]")
    elif saved != current:
        yield f"{name}: {saved} -> {current}"


def _named(differing: Iterable[str]) -> str:
    """Write the fields that differ; the schedule follows from the others, which are the cause."""
    fields = list(differing)
    causes = [text for text in fields if not text.startswith("schedule")] or fields
    return f" ({'; '.join(causes)})" if causes else ""

"""What Lightning's loops need to be told when a run goes on from one of our checkpoints.

A checkpoint is written before the validation of its step, and may be taken up with another number
of micro-batches a step (lightning 2.6; the tests of `fit` watch that it stays so).
"""

import math
from typing import Any

import lightning


def go_on_in_epoch(trainer: lightning.Trainer) -> None:
    """Take back the end of the epoch where a shorter run has ended and this one has more batches.

    Data without a length have more as long as the run has steps to go.

    Lightning believes the checkpoint's word that its batch was the last one of the data, and would
    count empty epochs. Call it when training starts: before, the number of batches is not known.
    """
    fit_loop = trainer.fit_loop
    batches = fit_loop.epoch_loop.batch_progress
    length = fit_loop.max_batches
    if math.isinf(length):
        has_more = trainer.global_step < trainer.max_steps
    else:
        has_more = batches.current.ready < length
    if not (batches.is_last_batch and has_more):
        return
    batches.is_last_batch = False
    for epochs in (fit_loop.epoch_progress.total, fit_loop.epoch_progress.current):
        epochs.processed -= 1  # pyright: ignore[reportAttributeAccessIssue]
        epochs.completed -= 1


def validate_first(trainer: lightning.Trainer) -> None:
    """Run the validation of the checkpoint's step, before the next training batch.

    Lightning takes it for done. It is run whether or not the step would be validated by the present
    interval and length: the last step of a shorter run need not be.
    """
    val_loop = trainer.fit_loop.epoch_loop.val_loop
    val_loop.restarting = False  # the saved progress is that of the validation before
    trainer.validating = True
    val_loop.run()
    trainer.training = True


def count_micro_batches(loops: dict[str, Any], *, step: int, accumulate: int) -> None:
    """Write the counters of a run that took `accumulate` micro-batches for each of its steps.

    Raises:
        ValueError: The run is beyond its first epoch, where the counters begin anew.
    """
    fit_loop = loops["fit_loop"]
    if fit_loop["epoch_progress"]["current"]["completed"]:
        raise ValueError(
            "trainer.accumulate_grad_batches cannot change after the first epoch of the data; "
            "resume with the old value"
        )
    batches = step * accumulate
    progress = fit_loop["epoch_loop.batch_progress"]
    for counter in (progress["total"], progress["current"]):
        # As Lightning leaves them when a checkpoint is written at the end of a batch.
        counter.update(ready=batches, started=batches, processed=batches, completed=batches - 1)

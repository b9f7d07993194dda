"""What Lightning's loops need to be told when a run goes on from one of our checkpoints.

A checkpoint is written before the validation of its step, and may be taken up with another number
of micro-batches a step. Both are mended in the checkpoint's loop counters before Lightning reads
them (lightning 2.6; the tests of `fit` watch that it stays so).
"""

from typing import Any


def rerun_validation(loops: dict[str, Any]) -> None:
    """Let the validation that is due at the checkpoint's step run, where Lightning would skip it.

    The counters are those of a validation stopped in its first batch, which Lightning begins anew.
    It then ends the training batch a second time, so one batch less has been counted before.
    """
    loops["fit_loop"]["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1
    total = loops["fit_loop"]["epoch_loop.val_loop.batch_progress"]["total"]
    total.update(ready=1, started=1, processed=0, completed=0)
    current = loops["fit_loop"]["epoch_loop.val_loop.batch_progress"]["current"]
    current.update(ready=0, started=0, processed=0, completed=0)


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

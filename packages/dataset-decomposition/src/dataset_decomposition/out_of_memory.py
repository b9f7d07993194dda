"""What to change when a training step does not fit into the device's memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class StepSize:
    """The micro-batch that a rank was training on.

    Attributes:
        rows: Rows of the micro-batch.
        length: Targets of each.
        longest: Targets of a row of the longest bucket.
        accumulation: Micro-batches of an optimiser step.
        chunk_tokens: Targets whose logits exist at a time, 0 for all.
    """

    rows: int
    length: int
    longest: int
    accumulation: int
    chunk_tokens: int

    def advice(self) -> str:
        """Return what to change, accumulation first; every step must still split evenly."""
        longest_rows = self.rows * self.length // self.longest
        options = [] if self.chunk_tokens else ["set loss.chunk_tokens (4096, say)"]
        if longest_rows > 1:
            factor = next(n for n in range(2, longest_rows + 1) if longest_rows % n == 0)
            more = self.accumulation * factor
            options.insert(0, f"set trainer.accumulate_grad_batches to {more}")
        else:
            options.append(
                "spread the model over more devices or lower --max_bucket: a micro-batch of the "
                f"longest bucket is one row of {self.longest:,} already"
            )
        return ", or ".join(options)


def out_of_memory(size: StepSize, *, updating: bool = False) -> ValueError:
    """Return an error that says what was trained on and what to change.

    Args:
        size: The micro-batch.
        updating: Whether it was the optimiser that found no room, which needs the same after any.
    """
    place, remedy = "in", size.advice()
    if updating:
        place = "in the optimiser's step after"
        remedy = f"shard optimiser and model over devices (FSDP), or {remedy}"
    return ValueError(
        f"out of memory {place} bucket D_{size.length.bit_length() - 1}, micro-batch of "
        f"{size.rows} rows of {size.length:,} tokens, trainer.accumulate_grad_batches "
        f"{size.accumulation}: {remedy}"
    )


@contextmanager
def explain_out_of_memory(size: StepSize) -> Iterator[None]:
    """Turn the device's error into `out_of_memory`'s.

    Raises:
        ValueError: Memory ran out; the device's own message is its cause.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise out_of_memory(size) from error

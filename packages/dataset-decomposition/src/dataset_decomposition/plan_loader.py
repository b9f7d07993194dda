"""The training loader, whose position is its data module's."""

from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader

from dataset_decomposition.module import TrainBatch
from tenfold.bucketing import BucketStream

if TYPE_CHECKING:
    from dataset_decomposition.data import DecompositionData


class PlanLoader(DataLoader[TrainBatch]):
    """Loader whose position is its data module's, restored before it is made.

    Lightning takes a loader with these two methods for resumable.
    """

    def __init__(self, data: "DecompositionData", stream: BucketStream[TrainBatch]) -> None:
        super().__init__(
            stream,
            batch_size=None,
            num_workers=data.workers,
            pin_memory=torch.cuda.is_available(),
        )
        self._data = data
        self._stream = stream

    def __len__(self) -> int:
        """Return the micro-batches of the whole run: Lightning's count begins before a new plan."""
        assert self._data.run_plan is not None
        return self._data.run_plan.end * self._stream.accum

    def state_dict(self) -> dict[str, Any]:
        """Return the data module's state."""
        return self._data.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that the stream stands where the checkpoint says."""
        assert self._data.run_plan is not None
        step = self._data.run_plan.start + self._stream.step
        assert state_dict["step"] == step, (state_dict["step"], step)

"""A data loader whose position is the trainer's step."""

from typing import Any, TypeVar

from torch.utils.data import DataLoader

Batch = TypeVar("Batch", covariant=True)


class StepLoader(DataLoader[Batch]):
    """A `DataLoader` that the data module makes anew from the trainer's step when a run resumes.

    It has no state of its own. Lightning takes a loader with these two methods for resumable; a
    plain one makes it warn that data may repeat.
    """

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the checkpoint's step says it all."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing: the loader was made from the restored step."""

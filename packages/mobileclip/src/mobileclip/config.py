"""Options of the model."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape of the classifier.

    Args:
        hidden: Width of the hidden layer; 0 leaves a linear classifier.
    """

    hidden: int = 32

    def __post_init__(self) -> None:
        if self.hidden < 0:
            raise ValueError(f"model.hidden must be >= 0, got {self.hidden}")

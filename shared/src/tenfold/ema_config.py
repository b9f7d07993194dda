"""The moving average's configuration; standard library only, so that `--help` needs no torch."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EmaConfig:
    """Moving average of the weights, evaluated beside them.

    Args:
        momentum: Share of the new weights at each step, 0 for no average; 5e-4 in CVNets and in
            MobileCLIP's paper.
    """

    momentum: float = 0.0

    def __post_init__(self) -> None:
        """Check the range."""
        if not 0 <= self.momentum <= 1:
            raise ValueError(f"ema.momentum must lie in 0..1, got {self.momentum}")

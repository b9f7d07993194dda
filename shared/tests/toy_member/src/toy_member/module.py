"""A small network with dropout, so that a resume that loses the random state shows."""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import lightning
import torch
from torch import Tensor, nn

from tenfold.optim import OptimConfig, configure


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape.

    Args:
        dim: Width.
        nan_at: Step whose loss is NaN, none when negative.
    """

    dim: int = 4
    nan_at: int = -1

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"model.dim must be >= 1, got {self.dim}")


class ToyModule(lightning.LightningModule):
    """Regression.

    Args:
        model: Shape.
        optim: Optimiser.
    """

    unit = "samples"
    prediction_metadata: ClassVar = {"target": "sum"}

    def __init__(
        self,
        model: ModelConfig = ModelConfig(),
        optim: OptimConfig = OptimConfig(lr=0.1, total_steps=1),
    ) -> None:
        super().__init__()
        self.save_hyperparameters({"model": asdict(model), "optim": asdict(optim)})
        self.nan_at = model.nan_at
        self.optim_config = optim
        self.net = nn.Sequential(nn.Linear(2, model.dim), nn.Dropout(0.5), nn.Linear(model.dim, 1))

    def configure_optimizers(self) -> Any:
        """Return AdamW and its schedule."""
        return configure(self, self.optim_config)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Return the squared error."""
        loss = (self.net(batch["x"]) - batch["y"]).square().mean()
        if self.global_step == self.nan_at:
            loss = loss * torch.nan
        self.log("train/loss", loss, batch_size=8)
        self.log("train/loss_square", loss, batch_size=8)
        return loss

    def count_units(self, batch: dict[str, Any]) -> int:
        """Return the batch size."""
        return len(batch["x"])

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Log the error without dropout."""
        self._score("val/error", batch)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Log the error without dropout."""
        self._score("test/error", batch)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor | list[str]]:
        """Return the predictions and what they are of."""
        return {"y": self.net(batch["x"]), "keys": batch["keys"]}

    def _score(self, name: str, batch: dict[str, Any]) -> None:
        error = (self.net(batch["x"]) - batch["y"]).square().mean()
        self.log(name, error, batch_size=len(batch["x"]))

"""Contrastive pre-training, TF-C or TS-TCC, of the same network that bioFAME pre-trains.

`network` is what fine-tuning, probe and kNN start from. Not here: the losses (`losses_tfc.py`,
`losses_tstcc.py`), views (`contrastive_augment.py`), and further networks (`contrastive_tasks.py`).
"""

from typing import TYPE_CHECKING, Any

import lightning
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics import MeanMetric

from biofame.baselines.batches import check_channels, fixed_draws
from biofame.baselines.config import ContrastConfig
from biofame.baselines.contrastive_tasks import build_task
from biofame.config import ModelConfig
from biofame.data import subjects_seen, windows_of
from biofame.heads import average
from biofame.model import BioFame
from biofame.pretrain import check_data
from tenfold.optim import OptimConfig, configure
from tenfold.plain_configs import plain

if TYPE_CHECKING:
    from biofame.data import WindowBatch


class ContrastiveModule(lightning.LightningModule):
    """A network pre-trained by telling windows apart.

    Args:
        model: The network.
        contrast: Method and loss.
        optim: Optimiser and schedule.
    """

    unit = "windows"

    def __init__(
        self,
        model: ModelConfig = ModelConfig(),
        contrast: ContrastConfig = ContrastConfig(),
        optim: OptimConfig = OptimConfig(lr=3e-4, min_lr=3e-4, total_steps=1, name="adam"),
    ) -> None:
        super().__init__()
        self.save_hyperparameters(plain(model=model, contrast=contrast, optim=optim))
        self.model_config, self.optim_config = model, optim
        self.network = BioFame(model)
        self.task = build_task(model, contrast)
        names = ["loss", *(f"loss_{term}" for term in self.task.terms)]
        self.means = nn.ModuleDict({name: MeanMetric() for name in names})

    def setup(self, stage: str) -> None:
        """Check that the data are what the model is for.

        Raises:
            ValueError: They are not.
        """
        data = windows_of(self.trainer)
        if data is not None:
            check_data(data, self.model_config)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimiser over all networks and its schedule."""
        return configure(self, self.optim_config)

    def training_step(self, batch: "WindowBatch", batch_idx: int) -> Tensor:
        """Return the loss of a batch.

        Raises:
            ValueError: The batch has one window, or other channels than the model.
        """
        terms = self._terms(batch)
        for name, value in terms.items():
            self.log(f"train/{name}", value.detach(), batch_size=self.count_units(batch))
        return terms["loss"]

    def count_units(self, batch: "WindowBatch") -> int:
        """Return the number of windows of a micro-batch."""
        return len(batch["samples"])

    def validation_step(self, batch: "WindowBatch", batch_idx: int) -> None:
        """Measure the loss of held-out windows, with the same views in every validation."""
        self._score(batch, batch_idx)

    def test_step(self, batch: "WindowBatch", batch_idx: int) -> None:
        """Measure the loss of held-out windows."""
        self._score(batch, batch_idx)

    def on_validation_epoch_start(self) -> None:
        """Forget the last validation."""
        self._forget()

    def on_test_epoch_start(self) -> None:
        """Forget earlier measurements."""
        self._forget()

    def on_validation_epoch_end(self) -> None:
        """Log the losses."""
        self._log_means("val")

    def on_test_epoch_end(self) -> None:
        """Log the losses."""
        self._log_means("test")

    def predict_step(self, batch: "WindowBatch", batch_idx: int) -> dict[str, Tensor | list[str]]:
        """Return the mean of each window's tokens `[B, D]`, labels `[B]` and keys."""
        present = batch.get("present")
        tokens = self.network(
            batch["samples"], channels=batch["channels"], rate=batch["rate"], present_BC=present
        )
        embedding = average(tokens, present).float()
        return {"embedding": embedding, "label": batch["label"], "keys": batch["keys"]}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note whom the network has seen; fine-tuning warns if it is tested on them."""
        checkpoint["subjects"] = subjects_seen(self.trainer)

    def _terms(self, batch: "WindowBatch") -> dict[str, Tensor]:
        """Return the total as `loss` and its terms as `loss_<term>`."""
        check_channels(batch, self.model_config.channels)
        if self.count_units(batch) < 2:
            raise ValueError("data.batch_size must be >= 2 windows a rank to tell them apart")
        found = self.task(self.network, batch)._asdict()
        terms = {f"loss_{name}": found[name] for name in self.task.terms}
        return {"loss": found["total"]} | terms

    def _score(self, batch: "WindowBatch", number: int) -> None:
        size = self.count_units(batch)
        if size < 2:
            return  # the rest of a set: nothing to tell a single window from
        with fixed_draws(number, self.device):
            terms = self._terms(batch)
        for name, metric in self._metrics().items():
            metric.update(terms[name], weight=size)

    def _log_means(self, stage: str) -> None:
        found = {f"{stage}/{name}": metric.compute() for name, metric in self._metrics().items()}
        # The metrics have been joined over ranks: all have the same values.
        self.log_dict(found, rank_zero_only=True)

    def _forget(self) -> None:
        for metric in self._metrics().values():
            metric.reset()

    def _metrics(self) -> dict[str, MeanMetric]:
        return {name: m for name, m in self.means.items() if isinstance(m, MeanMetric)}

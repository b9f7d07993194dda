"""Optimiser of a trained trunk under new heads: two learning rates, one schedule."""

from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from dataset_reinforcement.transfer_config import TransferOptimConfig
from tenfold.optim import parameter_groups


def configure_transfer(
    trunk: nn.Module, module: nn.Module, config: TransferOptimConfig
) -> OptimizerLRSchedulerConfig:
    """Return what `configure_optimizers` may return.

    Args:
        trunk: The part of `module` that was trained before.
        module: Everything.
        config: Rates and schedule.
    """
    of_trunk = {id(parameter) for parameter in trunk.parameters()}
    groups = []
    for group in parameter_groups(module, weight_decay=config.weight_decay):
        for name, scale, wanted in (
            ("heads", 1.0, False),
            ("trunk", config.backbone_lr_scale, True),
        ):
            params = [p for p in group["params"] if (id(p) in of_trunk) == wanted]
            if params:
                rate = {"name": f"{name}_{group['name']}", "lr": config.lr * scale}
                groups.append({**group, **rate, "params": params})
    optimizer = SGD(groups, lr=config.lr, momentum=config.momentum)
    scheduler = LambdaLR(optimizer, config.factor)
    return {
        "optimizer": optimizer,
        "lr_scheduler": {"scheduler": scheduler, "interval": "step", "frequency": 1},
    }

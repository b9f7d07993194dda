"""AdamW, Adam or SGD, parameter groups and schedule, as `configure_optimizers` returns them.

Not here: the configuration itself and the curve (`tenfold.optim_config`, free of torch), layer-wise
learning rates (timm's `param_groups_layer_decay`).
"""

import logging
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from tenfold.optim_config import OptimConfig

if TYPE_CHECKING:
    from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig

__all__ = ["OptimConfig", "configure", "parameter_groups"]

logger = logging.getLogger(__name__)

NORMS = (
    nn.LayerNorm,
    nn.RMSNorm,
    nn.GroupNorm,
    # Common base of all batch and instance norms, synchronised ones included.
    nn.modules.batchnorm._NormBase,  # pyright: ignore[reportPrivateUsage]
)


def configure(module: nn.Module, config: OptimConfig) -> "OptimizerLRSchedulerConfig":
    """Return what `LightningModule.configure_optimizers` may return: optimiser and schedule.

    The update is fused where all parameters are on CUDA. The schedule reads its length from
    `config`, never from the trainer.

    Raises:
        ValueError: The module has no trainable parameter.
    """
    groups = parameter_groups(module, weight_decay=config.weight_decay, decay_all=config.decay_all)
    fused = all(parameter.is_cuda for group in groups for parameter in group["params"])
    optimizer = _optimizer(groups, config, fused=fused)

    def factor(step: int) -> float:
        return config.lr_at(step) / config.lr

    scheduler = LambdaLR(optimizer, factor)
    return {
        "optimizer": optimizer,
        "lr_scheduler": {"scheduler": scheduler, "interval": "step", "frequency": 1},
    }


def _optimizer(groups: list[dict[str, Any]], config: OptimConfig, *, fused: bool) -> Optimizer:
    common: dict[str, Any] = {
        "lr": config.lr,
        "weight_decay": config.weight_decay,
        "fused": fused or None,
    }
    if config.name == "sgd":
        optimizer = SGD(groups, momentum=config.momentum, nesterov=config.nesterov, **common)
    else:
        kind = AdamW if config.name == "adamw" else Adam
        optimizer = kind(groups, betas=config.betas, eps=config.eps, **common)
    # A fused optimiser announces that it can unscale fp16 gradients itself, and Lightning then
    # refuses to clip them under any mixed precision, bf16 included. Without the announcement the
    # scaler unscales first, as for every other optimiser, and clipping works.
    optimizer._step_supports_amp_scaling = False  # pyright: ignore[reportAttributeAccessIssue, reportPrivateUsage]
    return optimizer


def parameter_groups(
    module: nn.Module, *, weight_decay: float, decay_all: bool = False
) -> list[dict[str, Any]]:
    """Split the trainable parameters into the groups `decay` and `no_decay`, and log their sizes.

    Not decayed are the parameters of norm layers, biases, and whatever has fewer than two
    dimensions (gains, class tokens stored as vectors, logit scales); embeddings are decayed. It is
    the rule of open_clip. Every parameter stands in one group once, also when modules share it;
    frozen ones and empty groups are left out.

    Args:
        module: The module to train.
        weight_decay: The value of the group `decay`.
        decay_all: Whether all parameters go to `decay` (the Dataset Decomposition recipes).

    Returns:
        Groups for a torch optimiser with the keys `name`, `params` and `weight_decay`.

    Raises:
        ValueError: The module has no trainable parameter.
    """
    exempt: set[int] = set() if decay_all else _norm_parameters(module)
    groups: dict[str, list[nn.Parameter]] = {"decay": [], "no_decay": []}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        plain = parameter.ndim < 2 or name.endswith("bias") or id(parameter) in exempt
        groups["no_decay" if plain and not decay_all else "decay"].append(parameter)
    if not any(groups.values()):
        raise ValueError(
            f"{type(module).__name__} has no trainable parameter; unfreeze a part of it"
        )
    decays = {"decay": weight_decay, "no_decay": 0.0}
    return [_group(name, params, decays[name]) for name, params in groups.items() if params]


def _norm_parameters(module: nn.Module) -> set[int]:
    return {
        id(parameter)
        for part in module.modules()
        if isinstance(part, NORMS)
        for parameter in part.parameters(recurse=False)
    }


def _group(name: str, params: list[nn.Parameter], weight_decay: float) -> dict[str, Any]:
    size = sum(parameter.numel() for parameter in params)
    logger.info(
        "parameter group %s: %d tensors, %d values, weight decay %g",
        name,
        len(params),
        size,
        weight_decay,
    )
    return {"name": name, "params": params, "weight_decay": weight_decay}

"""Moving average of a network's weights: timm's, without gradients.

Floating-point buffers are averaged like the weights (running statistics of batch norm, as CVNets
does), others are copied. As part of the LightningModule it stands in the checkpoint whole.
"""

from timm.utils.model_ema import ModelEmaV3
from torch import nn


def moving_average(network: nn.Module, *, momentum: float) -> ModelEmaV3:
    """Return the average, equal to `network` until its first `update(network)`.

    Args:
        network: The network as it is now.
        momentum: Share of the new weights at each update.
    """
    average = ModelEmaV3(network, decay=1 - momentum)
    # Lightning warns of modules in eval mode when a run starts; it evaluates them so anyway.
    average.train()
    # DistributedDataParallel would wait for their gradients.
    return average.requires_grad_(False)

"""Token cross-entropy with z-loss (spec section 2.8), and the loss of whole documents.

Shapes: B rows, L positions, V vocabulary.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class TokenLoss(NamedTuple):
    """Two scalars; the training loss is `nll + weight * z`."""

    nll: Tensor
    z: Tensor


def token_loss(logits_BLV: Tensor, targets_BL: Tensor) -> TokenLoss:
    """Return mean cross-entropy and mean squared log-partition, in fp32 under autocast too.

    Args:
        logits_BLV: Unnormalised scores.
        targets_BL: Integer ids of the tokens to predict.
    """
    logits_NV = logits_BLV.flatten(0, 1).float()
    log_partition_N = torch.logsumexp(logits_NV, dim=-1)
    target_N = logits_NV.gather(1, targets_BL.reshape(-1, 1)).squeeze(1)
    return TokenLoss((log_partition_N - target_N).mean(), log_partition_N.square().mean())


def document_nll(logits_BLV: Tensor, targets_BL: Tensor, lengths_B: Tensor) -> Tensor:
    """Return the summed negative log-likelihood `[B]` of padded documents, fp32, in nats.

    Args:
        logits_BLV: Unnormalised scores.
        targets_BL: Integer ids; whatever stands from `lengths_B` on is padding and ignored.
        lengths_B: Number of targets of each row.
    """
    nll_BL = F.cross_entropy(logits_BLV.float().mT, targets_BL, reduction="none")
    real_BL = torch.arange(nll_BL.shape[1], device=nll_BL.device) < lengths_B[:, None]
    return nll_BL.masked_fill(~real_BL, 0.0).sum(dim=1)

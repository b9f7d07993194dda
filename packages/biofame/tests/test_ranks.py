"""Two real ranks under DDP, which raises where a parameter is unused, against one process."""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from biofame.config import DecoderConfig, HeadConfig, LossConfig, ModelConfig
from biofame.heads import Classifier
from biofame.losses import class_loss, one_hot
from biofame.mae import MaskedAutoencoder
from biofame.masking import Partition, draw_partition
from biofame.model import BioFame
from tenfold.testing import run_ranks

MODEL = ModelConfig(
    channels=("eeg", "emg"), tokens=4, patch=5, dim=8, depth=2, mlp=8, filters=3, dropout=0.0,
    mixer_heads=2, mixer_mlp=8, mixer_positional="both",
)  # fmt: skip
WINDOWS = 6


class PretrainLoss(nn.Module):
    def __init__(self, *, per_channel: bool) -> None:
        super().__init__()
        decoder = DecoderConfig(heads=2, mlp=8, dropout=0.0, per_channel=per_channel)
        self.autoencoder = MaskedAutoencoder(MODEL, decoder, LossConfig())

    def forward(self, samples: Tensor, partition: Partition) -> Tensor:
        return self.autoencoder.loss(self.autoencoder(samples, partition=partition)).total


class FinetuneLoss(nn.Module):
    def __init__(self, head: HeadConfig) -> None:
        super().__init__()
        self.classifier = Classifier(BioFame(replace(MODEL, operator="query")), head)

    def forward(self, samples: Tensor, labels: Tensor) -> Tensor:
        return class_loss(self.classifier(samples), one_hot(labels, 3))


def losses() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    heads = [
        HeadConfig(outputs=3, pooling="cls"),
        HeadConfig(outputs=3, pooling="cat"),
        HeadConfig(outputs=3, pooling="cls", freeze=True),
        HeadConfig(outputs=3, task="staging", context=2),
    ]
    own = {f"finetune {number}": FinetuneLoss(head) for number, head in enumerate(heads)}
    return own | {
        "pretrain": PretrainLoss(per_channel=True),
        "pretrain shared": PretrainLoss(per_channel=False),
    }


def batch_of(name: str) -> tuple[Tensor, ...]:
    torch.manual_seed(1)
    samples, labels = torch.randn(WINDOWS, 2, 20), torch.arange(WINDOWS) % 3
    if name.startswith("pretrain"):
        return samples, *draw_partition(WINDOWS, 2, 4, ratio=0.5, device=samples.device)
    if name == "finetune 3":
        return samples.unflatten(0, (-1, 2))[: WINDOWS // 2 - 1], labels.view(-1, 2)[:-1]
    return samples, labels


def gradients(rank: int, world_size: int) -> dict[str, dict[str, Tensor]]:
    found: dict[str, dict[str, Tensor]] = {}
    for name, module in losses().items():
        mine = [part[rank::world_size] for part in batch_of(name)]
        run = DistributedDataParallel(module) if world_size > 1 else module
        for _ in range(2):  # the second pass is where DDP complains of an unused parameter
            module.zero_grad()
            if name.startswith("pretrain"):
                run(mine[0], Partition(mine[1], mine[2])).backward()
            else:
                run(*mine).backward()
        named = module.named_parameters()
        found[name] = {n: p.grad for n, p in named if p.grad is not None}
    return found


def test_gradients_of_two_ranks_are_those_of_one() -> None:
    (alone,) = [gradients(0, 1)]
    for shared in run_ranks(gradients, 2):
        assert shared.keys() == alone.keys()
        for name, expected in alone.items():
            assert shared[name].keys() == expected.keys()
            for parameter, gradient in expected.items():
                assert torch.allclose(shared[name][parameter], gradient, atol=1e-6), parameter

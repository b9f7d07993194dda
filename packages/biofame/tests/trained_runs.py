"""Small trained runs on disk, as the verbs `pretrain` and `finetune` leave them."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from biofame.config import DecoderConfig, HeadConfig, LossConfig, ModelConfig
from biofame.heads import Classifier
from biofame.mae import MaskedAutoencoder
from biofame.model import BioFame
from tenfold import checkpoints
from tenfold.plain_configs import plain

MODEL = ModelConfig(
    channels=("eeg", "eog"),
    tokens=6,
    patch=4,
    dim=8,
    depth=2,
    mlp=8,
    filters=3,
    filter_std=1.0,
    mixer_heads=2,
    mixer_mlp=8,
    mixer_positional="both",
)


def shake_(module: nn.Module, *, seed: int = 1) -> None:
    """Give each parameter another value than the one it starts with."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)


def trained(config: ModelConfig = MODEL) -> BioFame:
    network = BioFame(config).eval()
    shake_(network)
    return network


def trained_classifier(head: HeadConfig, config: ModelConfig = MODEL) -> Classifier:
    classifier = Classifier(BioFame(config), head).eval()
    shake_(classifier)
    if head.task == "regression":
        classifier.standardise_targets(torch.tensor([[1.0] * head.outputs, [5.0] * head.outputs]))
    return classifier


def saved_pretraining(path: Path, network: BioFame, **changed: Any) -> Path:
    """Write a checkpoint as `pretrain` does, with some of its model's options changed."""
    autoencoder = MaskedAutoencoder(network.config, DecoderConfig(heads=2), LossConfig())
    autoencoder.network.load_state_dict(network.state_dict())
    state = {f"autoencoder.{name}": tensor for name, tensor in autoencoder.state_dict().items()}
    settings = plain(model=network.config)
    settings["model"].update(changed)
    checkpoints.save(path, {"state_dict": state, "hyper_parameters": settings, "global_step": 3})
    return path


def saved_finetuning(path: Path, classifier: Classifier, classes: tuple[str, ...] = ()) -> Path:
    """Write a checkpoint as `finetune` does."""
    state = {f"classifier.{name}": tensor for name, tensor in classifier.state_dict().items()}
    settings = plain(model=classifier.network.config, head=classifier.config)
    checkpoints.save(
        path, {"state_dict": state, "hyper_parameters": settings, "classes": list(classes)}
    )
    return path

"""Build the networks of a teacher, with their weights and the input that they were trained for."""

import hashlib
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dataset_reinforcement.config import IMAGENET_MEAN, IMAGENET_STD
from dataset_reinforcement.model import OURS, build_model
from dataset_reinforcement.teacher_config import RGB, MemberConfig
from dataset_reinforcement.weights import read_weights


class Inputs(NamedTuple):
    """Side in pixels, and mean and standard deviation per channel, that a network expects."""

    size: int
    mean: RGB
    std: RGB


def build_member(config: MemberConfig, *, num_classes: int) -> tuple[nn.Module, Inputs]:
    """Build a network with its weights.

    Raises:
        FileNotFoundError: The checkpoint is missing.
        ValueError: The model is unknown, its weights do not fit, or its head has another number of
            classes: a new head would answer at random.
    """
    inputs = _inputs(config)
    if config.pretrained:
        return _pretrained(config, num_classes, inputs.size), inputs
    assert config.checkpoint is not None
    network = build_model(config.model, num_classes=num_classes, image_size=inputs.size)
    weights = read_weights(config.checkpoint)
    if unlike := _unlike(network, weights):
        raise ValueError(
            f"teacher checkpoint {config.checkpoint} does not fit {config.model} of {num_classes} "
            f"classes: {unlike}"
        )
    network.load_state_dict(weights)
    return network, inputs


def weights_sha256(network: nn.Module) -> str:
    """Return the hex SHA-256 of all tensors of a network: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _inputs(config: MemberConfig) -> Inputs:
    if OURS.fullmatch(config.model):
        if config.size is None:
            raise ValueError(
                f"teacher.members: {config.model} needs its size, the side of the images that it "
                "was trained on"
            )
        return Inputs(config.size, config.mean or IMAGENET_MEAN, config.std or IMAGENET_STD)
    import timm  # seconds that our own small models need not pay
    from timm.data import resolve_data_config  # pyright: ignore[reportPrivateImportUsage]

    if not timm.is_model(config.model):
        build_model(config.model, num_classes=1, image_size=1)  # raises, with the nearest names
    default = timm.get_pretrained_cfg(config.model)
    # An architecture without published weights has no defaults of its own.
    known: dict[str, Any] = resolve_data_config(
        pretrained_cfg=default.to_dict() if default is not None else {"mean": IMAGENET_MEAN}
    )
    return Inputs(
        config.size or int(known["input_size"][-1]),
        config.mean or tuple(known["mean"]),
        config.std or tuple(known["std"]),
    )


def _pretrained(config: MemberConfig, num_classes: int, size: int) -> nn.Module:
    if OURS.fullmatch(config.model):
        raise ValueError(f"teacher.members: {config.model} has no published weights, only files")
    import timm

    default = timm.get_pretrained_cfg(config.model)
    if default is None or default.num_classes != num_classes:
        has = "unknown" if default is None else default.num_classes
        raise ValueError(
            f"teacher {config.model} has {has} classes, the images have {num_classes}: choose "
            "weights for these classes or fine-tune a checkpoint"
        )
    sized: dict[str, Any] = {"img_size": size} if default.fixed_input_size else {}
    return timm.create_model(config.model, pretrained=True, **sized)


def _unlike(network: nn.Module, weights: dict[str, Tensor]) -> str | None:
    """Say which tensor differs first."""
    own = network.state_dict()
    for name in sorted(own.keys() | weights.keys()):
        if name not in weights:
            return f"it lacks {name}"
        if name not in own:
            return f"it has {name}, the model has not"
        if own[name].shape != weights[name].shape:
            return f"{name} is {list(weights[name].shape)}, the model's {list(own[name].shape)}"
    return None


def _bytes(tensor: Tensor) -> memoryview:
    plain = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return plain.numpy().data

"""Build the networks of a teacher, with their weights and the input that they were trained for."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from dataset_reinforcement.class_names import check_same_names
from dataset_reinforcement.config import ModelConfig
from dataset_reinforcement.model import OURS, build_model
from dataset_reinforcement.teacher_config import RGB, MemberConfig
from dataset_reinforcement.weights import read_classifier


class Inputs(NamedTuple):
    """Side in pixels, and mean and standard deviation per channel, that a network expects."""

    size: int
    mean: RGB
    std: RGB


class BuiltMember(NamedTuple):
    """A network by its model's name, and the input that it was trained for."""

    name: str
    network: nn.Module
    inputs: Inputs


def build_member(
    config: MemberConfig, *, num_classes: int, classes: Sequence[str] = ()
) -> BuiltMember:
    """Build a network with its weights.

    Args:
        config: The member.
        num_classes: Outputs of its head.
        classes: Names of the classes of its views, which those of a checkpoint must be.

    Raises:
        FileNotFoundError: The checkpoint is missing.
        ValueError: The model is unknown, its weights do not fit, its input is not known or not
            that of the checkpoint, or it has other classes: a new head would answer at random.
    """
    if config.checkpoint is None:
        return _pretrained(config, num_classes)
    saved = read_classifier(config.checkpoint)
    if saved.config is not None:
        name, inputs = _trained(config, saved.config)
    else:
        name, inputs = _model_name(config), _inputs(config)
    network = build_model(name, num_classes=num_classes, image_size=inputs.size)
    if unlike := _unlike(network, saved.weights):
        raise ValueError(
            f"teacher checkpoint {config.checkpoint} does not fit {name} of {num_classes} "
            f"classes: {unlike}"
        )
    check_same_names(saved.classes, classes, f"teacher checkpoint {config.checkpoint}")
    network.load_state_dict(saved.weights)
    return BuiltMember(name, network, inputs)


def _trained(config: MemberConfig, saved: ModelConfig) -> tuple[str, Inputs]:
    """Return name and input of a checkpoint of `fit`; what was given must be the same."""
    inputs = Inputs(saved.image_size, saved.mean, saved.std)
    given = {"model": config.model, "size": config.size, "mean": config.mean, "std": config.std}
    for (name, value), trained in zip(given.items(), (saved.name, *inputs), strict=True):
        if value is not None and value != trained:
            raise ValueError(
                f"teacher.members: {name} is {value}, but {config.checkpoint} was trained with "
                f"{name} {trained}: leave {name} out"
            )
    return saved.name, inputs


def _model_name(config: MemberConfig) -> str:
    if config.model is None:
        raise ValueError(
            f"teacher.members: {config.checkpoint} is no checkpoint of `fit` and does not tell its "
            "model: give model"
        )
    return config.model


def _inputs(config: MemberConfig) -> Inputs:
    """Return the given input, completed by timm's own for the model."""
    name = _model_name(config)
    known: dict[str, Any] = {} if OURS.fullmatch(name) else _timm_inputs(name)
    given = {"size": config.size, "mean": config.mean, "std": config.std}
    known |= {key: value for key, value in given.items() if value is not None}
    if missing := [key for key in Inputs._fields if key not in known]:
        raise ValueError(
            f"teacher.members: {name} needs its {', '.join(missing)}: {config.checkpoint} does not "
            "tell on what images it was trained, nor does timm; give what it was trained with"
        )
    return Inputs(**known)


def _timm_inputs(name: str) -> dict[str, Any]:
    import timm  # seconds that our own small models need not pay
    from timm.data import resolve_data_config  # pyright: ignore[reportPrivateImportUsage]

    if not timm.is_model(name):
        build_model(name, num_classes=1, image_size=1)  # raises, with the nearest names
    default = timm.get_pretrained_cfg(name)
    if default is None:  # an architecture without published weights
        return {}
    known: dict[str, Any] = resolve_data_config(pretrained_cfg=default.to_dict())
    return {
        "size": int(known["input_size"][-1]),
        "mean": tuple(known["mean"]),
        "std": tuple(known["std"]),
    }


def _pretrained(config: MemberConfig, num_classes: int) -> BuiltMember:
    name = _model_name(config)
    if OURS.fullmatch(name):
        raise ValueError(f"teacher.members: {name} has no published weights, only files")
    import timm

    inputs = _inputs(config)
    default = timm.get_pretrained_cfg(name)
    if default is None or default.num_classes != num_classes:
        has = "unknown" if default is None else default.num_classes
        raise ValueError(
            f"teacher {name} has {has} classes, the images have {num_classes}: choose "
            "weights for these classes or fine-tune a checkpoint"
        )
    sized: dict[str, Any] = {"img_size": inputs.size} if default.fixed_input_size else {}
    return BuiltMember(name, timm.create_model(name, pretrained=True, **sized), inputs)


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

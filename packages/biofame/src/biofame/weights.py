"""A trained network from a run folder, a checkpoint or a file of weights, and its channels.

Nothing is unpickled, and nothing falls back to random weights: what does not fit is an error that
says how it differs.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from biofame.channel_rows import copy_rows
from biofame.config import HeadConfig, ModelConfig
from biofame.heads import Classifier
from biofame.model import BioFame
from tenfold import checkpoints
from tenfold.plain_configs import plain

Config = TypeVar("Config", ModelConfig, HeadConfig)
Module = TypeVar("Module", bound=nn.Module)

KINDS = {
    "autoencoder.network.": "pretrain",
    "classifier.network.": "finetune",
    "network.": "pretrain-contrastive",
}
"""What stands before a network's own names in the checkpoints of which verb."""

HEADER = "biofame"
LANDMARK = "tokenizer.projection.weight"
CHANNEL_TABLES = {"revin.weight": 1.0, "revin.bias": 0.0, "mixer.modality.table_KTD": 0.0}
"""Parameters with a row for each channel, and what a row holds that says nothing."""

FREE = ("channels", "dropout")
"""Fields that may differ between a checkpoint's model and the one wanted."""


class SavedClassifier(NamedTuple):
    """A classifier in `eval()` and the names of its outputs: classes, labels or numbers."""

    classifier: Classifier
    classes: tuple[str, ...]


@dataclass(frozen=True)
class _Content:
    """What a file holds: weights, their kind and prefix, and how the models were set."""

    state: Mapping[str, Tensor]
    kind: str
    prefix: str
    model: ModelConfig
    head: HeadConfig | None
    classes: tuple[str, ...]


def load_network(path: Path) -> BioFame:
    """Return a trained network in `eval()` on the CPU.

    Args:
        path: Run folder, checkpoint of `pretrain`, `pretrain-contrastive` or `finetune`, or a file
            of `save_network` or `save_classifier`.

    Raises:
        CheckpointError: Nothing is there, or it is damaged.
        ValueError: It holds something else than our network.
    """
    path = checkpoints.find(path)
    return _network(_read(path), source=path)


def load_classifier(path: Path) -> SavedClassifier:
    """Return a fine-tuned network with its head, in `eval()` on the CPU.

    Args:
        path: Run folder or checkpoint of `finetune`, or a file of `save_classifier`.

    Raises:
        CheckpointError: Nothing is there, or it is damaged.
        ValueError: It holds no head, or something else than our network.
    """
    loaded = load_either(path)
    if isinstance(loaded, BioFame):
        raise ValueError(
            f"{path} holds a network without a head; fine-tune it first: "
            f"biofame finetune --init.run {path}"
        )
    return loaded


def load_either(path: Path) -> BioFame | SavedClassifier:
    """Return a classifier where there is a head, else the network; see `load_network`."""
    path = checkpoints.find(path)
    content = _read(path)
    if content.head is None:
        return _network(content, source=path)
    with torch.device("meta"):
        classifier = Classifier(BioFame(content.model), content.head)
    prefix = content.prefix.removesuffix("network.")
    return SavedClassifier(_fill(classifier, content.state, prefix, source=path), content.classes)


def save_network(path: Path, network: BioFame) -> None:
    """Write a network as safetensors that `load_network` reads, atomically."""
    header = {"kind": "network", **plain(model=network.config)}
    checkpoints.save_weights(path, network.state_dict(), {HEADER: json.dumps(header)})


def save_classifier(path: Path, saved: SavedClassifier) -> None:
    """Write a classifier as safetensors that `load_classifier` reads, atomically."""
    classifier = saved.classifier
    configs = plain(model=classifier.network.config, head=classifier.config)
    header = {"kind": "classifier", **configs, "classes": list(saved.classes)}
    checkpoints.save_weights(path, classifier.state_dict(), {HEADER: json.dumps(header)})


def fit_channels(network: BioFame, channels: Sequence[str]) -> BioFame:
    """Return a copy of a network whose parameters are exactly of `channels`.

    Channels that it knows bring their parameters, by name; others start with neutral ones, with
    which the network computes what it does for unknown channels.

    Args:
        network: Stays as it is.
        channels: Names, in the order of the windows to come.

    Raises:
        ValueError: A channel is named twice, or there is none.
    """
    known, wanted = network.config.channels, tuple(channels)
    with torch.device("meta"):
        fitted = BioFame(replace(network.config, channels=wanted))
    state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    for name, neutral in CHANNEL_TABLES.items():
        if name in state:
            state[name] = copy_rows(state[name], known, wanted, neutral=neutral)
    fitted.load_state_dict(state, assign=True)
    return fitted.train(network.training)


def check_same(saved: ModelConfig, wanted: ModelConfig, *, source: Path | str) -> None:
    """Check that a checkpoint's model is the one wanted, but for channels and dropout.

    Raises:
        ValueError: They differ; the message names every field with both values.
    """
    differing = differing_fields(saved, wanted, free=FREE)
    if differing:
        raise ValueError(
            f"{source} holds another model: {differing}; leave these options out to take the "
            "checkpoint's"
        )


def differing_fields(saved: Any, wanted: Any, *, free: Collection[str]) -> str:
    """Return what differs between two configurations of a model, but for the `free` fields."""
    is_, should = asdict(saved), asdict(wanted)
    return "; ".join(
        f"model.{name} {is_[name]}, wanted {should[name]}"
        for name in is_
        if name not in free and is_[name] != should[name]
    )


def _network(content: _Content, *, source: Path) -> BioFame:
    with torch.device("meta"):
        network = BioFame(content.model)
    return _fill(network, content.state, content.prefix, source=source)


def _read(path: Path) -> _Content:
    if path.suffix == ".safetensors":
        return _read_weights(path)
    saved = checkpoints.load(path)
    state = _without_compilation(saved.get("state_dict"))
    prefixes = [prefix for prefix in KINDS if f"{prefix}{LANDMARK}" in state]
    settings = saved.get("hyper_parameters")
    if len(prefixes) != 1 or not isinstance(settings, Mapping):
        known = ", ".join(KINDS.values())
        raise ValueError(f"{path} is no checkpoint of {known}; it holds {_outline(state)}")
    kind = KINDS[prefixes[0]]
    return _content(state, kind, prefixes[0], settings, saved.get("classes"), source=path)


def _read_weights(path: Path) -> _Content:
    from safetensors import safe_open

    state = checkpoints.load_weights(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    try:
        header = json.loads(metadata[HEADER])
        kind, classes = header["kind"], header.get("classes")
    except (KeyError, TypeError, json.JSONDecodeError):
        raise ValueError(
            f"{path} does not say how its model is set; files of `biofame export --format "
            f"safetensors` do. It holds {_outline(state)}"
        ) from None
    prefix = "network." if kind == "classifier" else ""
    return _content(state, kind, prefix, header, classes, source=path)


def _content(
    state: Mapping[str, Tensor],
    kind: str,
    prefix: str,
    settings: Mapping[str, Any],
    classes: Sequence[str] | None,
    *,
    source: Path,
) -> _Content:
    model = _config(ModelConfig, settings.get("model"), source=f"{source}: model")
    head = None
    if kind in ("finetune", "classifier"):
        head = _config(HeadConfig, settings.get("head"), source=f"{source}: head")
    return _Content(state, kind, prefix, model, head, tuple(classes or ()))


def _config(kind: type[Config], values: object, *, source: str) -> Config:
    """Return the dataclass of plain values; JSON has lists where it has tuples."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{source} is not recorded, got {values!r}")
    unknown = sorted(set(values) - {field.name for field in fields(kind)})
    if unknown:
        raise ValueError(f"{source} has options that this version does not know: {unknown}")
    options: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
    return kind(**options)


def _fill(module: Module, state: Mapping[str, Tensor], prefix: str, *, source: Path) -> Module:
    """Give a module on the device `meta` its weights, all of them or none."""
    own = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
    wanted = module.state_dict()
    wrong = [f"{name} is missing" for name in wanted if name not in own]
    wrong += [f"{name} is not the model's" for name in own if name not in wanted]
    wrong += [
        f"{name} is {tuple(own[name].shape)}, should be {tuple(wanted[name].shape)}"
        for name in wanted
        if name in own and own[name].shape != wanted[name].shape
    ]
    if wrong:
        raise ValueError(f"{source} does not fit its own settings: {'; '.join(wrong)}")
    module.load_state_dict(own, assign=True)
    return module.eval()


def _without_compilation(state: object) -> dict[str, Tensor]:
    if not isinstance(state, Mapping):
        return {}
    return {str(name).replace("_orig_mod.", ""): tensor for name, tensor in state.items()}


def _outline(state: Mapping[str, Tensor]) -> str:
    shown = ", ".join(list(state)[:3])
    return f"{len(state)} tensors: {shown}, ..." if state else "no weights"

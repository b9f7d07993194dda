"""Files of maps and backbones: safetensors whose metadata hold the card, as JSON. No pickle.

Also read: checkpoints and run folders of `fit` and `fit-backbone`. A checkpoint of `fit` holds the
card under `CARD_KEY`.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from fastfill.backbone import Backbone
from fastfill.card import ModelCard, TransformCard, check_same
from fastfill.closed_form import LinearMap
from fastfill.config import BackboneConfig, Metric
from fastfill.models import build_backbone
from fastfill.transform import EmbeddingMap, Transformation
from tenfold import checkpoints
from tenfold.digests import weights_sha256
from tenfold.plain_configs import plain

Card = TypeVar("Card", ModelCard, TransformCard)

TRANSFORM_FORMAT = "fastfill-transform-1"
BACKBONE_FORMAT = "fastfill-backbone-1"
CARD_KEY = "transform_card"
"""Where a checkpoint of `fit` holds its card."""

NETWORK = "network."
"""Prefix of the network's weights in a checkpoint."""


def save_transformation(path: Path, h: EmbeddingMap, card: TransformCard) -> None:
    """Write a map and its card to a `.safetensors` file, atomically.

    Raises:
        ValueError: The card describes another map.
    """
    _load_into(_map_of(card), h.state_dict(), source="the map")
    checkpoints.save_weights(path, h.state_dict(), _metadata(TRANSFORM_FORMAT, card.to_json()))


def load_transformation(path: Path) -> tuple[EmbeddingMap, TransformCard]:
    """Return a map in `eval()` on the CPU and its card, from a file, checkpoint or run folder.

    Raises:
        CheckpointError: Nothing is there, it is damaged, or no checkpoint of the run verifies.
        ValueError: It holds something else, or its weights are not what its card describes.
    """
    found = checkpoints.find(path)
    if found.suffix == ".ckpt":
        content = checkpoints.load(found)
        value, state = content.get(CARD_KEY), _network(content, source=found)
        if value is None:
            raise ValueError(f"{found} is no checkpoint of `fit`: it has no {CARD_KEY}")
    else:
        value = _read_metadata(found, TRANSFORM_FORMAT)["card"]
        state = checkpoints.load_weights(found)
    card = _card(TransformCard, value, source=found)
    h = _map_of(card)
    _load_into(h, state, source=str(found))
    return h.eval(), card


def save_backbone(path: Path, backbone: Backbone, card: ModelCard) -> None:
    """Write an embedding network and its card to a `.safetensors` file, atomically.

    Raises:
        ValueError: The card is not this network's, see `backbone_card`.
    """
    own = backbone_card(backbone, name=card.name, metric=card.metric)
    check_same(card, dataclasses.replace(own, normalized=card.normalized), what="the card")
    config = dataclasses.replace(backbone.config, init_from=None)  # a path means nothing elsewhere
    checkpoints.save_weights(
        path,
        backbone.state_dict(),
        _metadata(BACKBONE_FORMAT, card.to_json(), config=plain(model=config)["model"]),
    )


def load_backbone(path: Path) -> tuple[Backbone, ModelCard]:
    """Return an embedding network in `eval()` on the CPU and its card.

    A checkpoint or run folder of `fit-backbone` has no card: it is made from the weights, named
    after the file, with the metric l2.

    Raises:
        CheckpointError: Nothing is there, it is damaged, or no checkpoint of the run verifies.
        ValueError: It holds something else, or its weights are not those of its card.
    """
    found = checkpoints.find(path)
    if found.suffix == ".ckpt":
        content = checkpoints.load(found)
        parameters = content.get("hyper_parameters", {})
        backbone = _backbone_of(parameters.get("model"), source=found)
        _load_into(backbone, _network(content, source=found), source=str(found))
        return backbone.eval(), backbone_card(backbone, name=path.name)
    metadata = _read_metadata(found, BACKBONE_FORMAT)
    card = _card(ModelCard, metadata["card"], source=found)
    backbone = _backbone_of(_parse(metadata.get("config"), source=found), source=found)
    _load_into(backbone, checkpoints.load_weights(found), source=str(found))
    own = backbone_card(backbone, name=str(found), metric=card.metric)
    check_same(card, dataclasses.replace(own, normalized=card.normalized), what=str(found))
    return backbone.eval(), card


def backbone_card(backbone: Backbone, *, name: str, metric: Metric = "l2") -> ModelCard:
    """Return the card of an embedding network as its weights are now."""
    return ModelCard(
        name=name,
        dim=backbone.dim,
        metric=metric,
        weights_sha256=weights_sha256(backbone),
        num_classes=backbone.num_classes,
    )


def _map_of(card: TransformCard) -> EmbeddingMap:
    if card.kind != "fastfill":
        return LinearMap(card.old.dim, card.new.dim)
    return Transformation(
        card.old.dim,
        card.new.dim,
        side_dim=card.side.dim if card.side is not None else 0,
        inner=card.inner,
        per_dimension=card.per_dimension,
    )


def _backbone_of(config: object, *, source: Path) -> Backbone:
    if not isinstance(config, Mapping) or "arch" not in config:
        raise ValueError(f"{source} does not name its architecture: it is no backbone of ours")
    known = {field.name for field in dataclasses.fields(BackboneConfig)} - {"init_from"}
    values = {name: value for name, value in config.items() if name in known}
    try:
        return build_backbone(BackboneConfig(**values))
    except (TypeError, AttributeError) as error:  # values of another type than the options'
        raise ValueError(
            f"{source} has a damaged description of its architecture: {error}"
        ) from None


def _network(content: Mapping[str, Any], *, source: Path) -> dict[str, Tensor]:
    state = content.get("state_dict")
    if not isinstance(state, Mapping):
        raise ValueError(f"{source} holds no weights")
    return {
        name.removeprefix(NETWORK): tensor
        for name, tensor in state.items()
        if name.startswith(NETWORK)
    }


def _load_into(network: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Copy weights into a network whose names and shapes they must have exactly."""
    expected = network.state_dict()
    for name in (*expected, *state):
        if name not in state or name not in expected:
            where = "lacks" if name not in state else "has, unexpectedly,"
            raise ValueError(f"{source} {where} {name}: it is not what its card describes")
        if state[name].shape != expected[name].shape:
            raise ValueError(
                f"{source}: {name} is {list(state[name].shape)}, its card describes "
                f"{list(expected[name].shape)}"
            )
    network.load_state_dict(state)


def _metadata(kind: str, card: Mapping[str, Any], **more: Any) -> dict[str, str]:
    values = {"card": card, **more}
    return {"format": kind} | {name: json.dumps(v, sort_keys=True) for name, v in values.items()}


def _read_metadata(path: Path, kind: str) -> dict[str, str]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise checkpoints.CheckpointError(f"{path} cannot be read: {reason}") from error
    if metadata.get("format") != kind or "card" not in metadata:
        raise ValueError(
            f"{path} is no file of format {kind} (it says {metadata.get('format', 'nothing')}); "
            "give a file that this package wrote, a checkpoint, or a run folder"
        )
    return metadata


def _parse(text: str | None, *, source: Path) -> object:
    try:
        return json.loads(text or "null")
    except json.JSONDecodeError:
        raise ValueError(f"{source} has a description that is not JSON") from None


def _card(kind: type[Card], value: Mapping[str, Any] | str, *, source: Path) -> Card:
    try:
        return kind.from_json(value)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None

"""Networks of open_clip with their weights, or an error: never a randomly initialised one."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model
from torch import Tensor, nn

LOCAL = "local-dir:"
_HUB = "hf-hub:"


class LoadedNetwork(NamedTuple):
    """A network with its weights.

    Attributes:
        name: `ViT-L-14/openai`: model and weights, without folders.
        network: In eval mode, on the CPU.
        tokenize: From a list of n texts to token ids `[n, L]`.
        inputs: What it expects of an image: open_clip's `size`, `mean`, `std`, `interpolation` and
            `resize_mode`.
    """

    name: str
    network: nn.Module
    tokenize: Callable[[list[str]], Tensor]
    inputs: dict[str, Any]


def load_network(model: str, pretrained: str = "", *, size: int | None = None) -> LoadedNetwork:
    """Build a network of open_clip and load its weights strictly.

    OpenAI's weights and some others need QuickGELU, which open_clip's plain names lack; whether a
    tag needs it is looked up, as the activations would be wrong otherwise.

    Args:
        model: Name in open_clip, `local-dir:<folder>` or `hf-hub:<repository>`.
        pretrained: Tag or file; a `local-dir:<folder>` takes the model's place.
        size: Side of the images, None for the model's own.

    Raises:
        FileNotFoundError: Weights or a folder are missing.
        ValueError: The model is unknown, or its weights do not fit.
    """
    name = _network_name(model, pretrained)
    if pretrained.startswith(LOCAL):
        model, pretrained = pretrained, ""
    _check_sources(model, pretrained)
    try:
        with warnings.catch_warnings():
            # A file says nothing of its activations; for tags they are set below.
            warnings.filterwarnings("ignore", "QuickGELU mismatch", UserWarning)
            network = open_clip.create_model(
                model,
                pretrained or None,
                force_quick_gelu=needs_quick_gelu(model, pretrained),
                force_image_size=size,
                require_pretrained=True,
            )
        tokenizer = open_clip.get_tokenizer(model)
    except Exception as error:  # open_clip, torch and the hub raise many types
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{name} cannot be loaded: {reason}") from error
    inputs = dict(open_clip.get_model_preprocess_cfg(network))
    return LoadedNetwork(name, network.eval(), tokenizer, inputs)


def needs_quick_gelu(model: str, pretrained: str) -> bool:
    """Return whether open_clip notes that the weights of a tag were trained with QuickGELU."""
    return bool(get_pretrained_cfg(_built_in(model), pretrained).get("quick_gelu", False))


def _check_sources(model: str, pretrained: str) -> None:
    """Say what is missing in our words; open_clip warns of a folder without weights at most."""
    if model.startswith(LOCAL):
        folder = Path(model.removeprefix(LOCAL))
        if not (folder / "open_clip_config.json").is_file():
            raise FileNotFoundError(f"{folder} is no open_clip folder: no open_clip_config.json")
        if not any(path.suffix in (".safetensors", ".bin", ".pth") for path in folder.iterdir()):
            raise FileNotFoundError(f"{folder} holds no weights: expected a safetensors file")
    elif not model.startswith(_HUB):
        if open_clip.get_model_config(_built_in(model)) is None:
            raise ValueError(
                f"open_clip knows no model {model!r}; open_clip.list_models() names them"
            )
        if not get_pretrained_cfg(_built_in(model), pretrained) and not Path(pretrained).is_file():
            tags = ", ".join(list_pretrained_tags_by_model(_built_in(model))) or "none"
            raise FileNotFoundError(
                f"{model}: {pretrained!r} is neither a file nor one of its tags: {tags}"
            )


def _network_name(model: str, pretrained: str) -> str:
    if pretrained.startswith(LOCAL):
        return f"{model}/{Path(pretrained.removeprefix(LOCAL)).name}"
    if model.startswith(LOCAL):
        return LOCAL + Path(model.removeprefix(LOCAL)).name
    if not pretrained:
        return model
    return f"{model}/{Path(pretrained).name}"


def _built_in(model: str) -> str:
    return model.replace("/", "-")

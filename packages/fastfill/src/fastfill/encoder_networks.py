"""Networks that embed, wherever they come from: own files, timm, open_clip.

Each comes with its own preprocessing. Weights that cannot be had are an error, never a randomly
initialised network.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as TF

from fastfill.card import ModelCard
from fastfill.originals import Kind
from fastfill.weights import load_backbone
from tenfold.digests import weights_sha256

TIMM, OPEN_CLIP = "timm:", "open_clip:"
CROP_SHARE = 224 / 256
"""Part of an image's shorter side that the centre crop of the published recipes keeps."""


@dataclass(frozen=True, eq=False, kw_only=True)
class EncoderNetwork:
    """A frozen network on the CPU and how it wants its input.

    Attributes:
        name: Model and weights, without folders.
        kind: What it embeds.
        network: Holds all weights.
        embed: From prepared items `[n, ...]` to `[n, d]`, raw.
        prepare: One image or text to a tensor.
        prepare_view: One image that is all to be seen, as of an augmented view.
        size: Side of its input, 0 for texts.
        weights_sha256: Digest of all weights.
        head: Classifier `[K, d]` without bias, where there is one.
    """

    name: str
    kind: Kind
    network: nn.Module
    embed: Callable[[Tensor], Tensor]
    prepare: Callable[[Any], Tensor]
    prepare_view: Callable[[Any], Tensor]
    size: int
    weights_sha256: str
    head: NDArray[np.float32] | None = None


def own_network(path: Path) -> tuple[EncoderNetwork, ModelCard]:
    """Load a backbone of `fit-backbone`: a run folder, checkpoint or weights; and its card."""
    backbone, card = load_backbone(path)
    backbone.eval().requires_grad_(False)
    channels, _, size = backbone.input_size

    def pixels(image: Image.Image) -> Tensor:
        return TF.pil_to_tensor(image.convert("L") if channels == 1 else image)

    head = backbone.head.weight.detach().float().cpu().numpy().copy()
    network = EncoderNetwork(
        name=card.name,
        kind="image",
        network=backbone,
        embed=backbone.embed_uint8,
        prepare=lambda image: pixels(published_crop(image, size)),
        prepare_view=lambda image: pixels(_square(image, size)),
        size=size,
        weights_sha256=card.weights_sha256,
        head=head,
    )
    return network, card


def published_crop(image: Image.Image, size: int) -> Image.Image:
    """Return an image `size` x `size` as the published recipes evaluate it.

    The shorter side is scaled to 256/224 of `size` and the centre cut out (ImageNet); images whose
    shorter side is not above `size` are scaled whole (CIFAR).
    """
    if min(image.size) <= size:
        return _square(image, size)
    resized = v2.Resize(round(size / CROP_SHARE))(image)
    return v2.CenterCrop(size)(resized)


def timm_network(spec: str) -> EncoderNetwork:
    """Load `timm:<model>` with its published weights, or `timm:<model>:<weights file>`.

    A classifier in the weights counts as head where it has no bias and takes the embedding as it
    is; most of timm's have a bias and are left out.

    Raises:
        FileNotFoundError: The weights file is missing.
        ValueError: The model is unknown, or its weights cannot be had or do not fit.
    """
    import timm
    from timm.data.config import resolve_model_data_config
    from timm.data.transforms_factory import create_transform

    model, _, file = spec.removeprefix(TIMM).partition(":")
    if file and not Path(file).is_file():
        raise FileNotFoundError(f"{spec}: weights {file} do not exist")
    try:
        network: Any = timm.create_model(model, pretrained=not file)
        if file:
            network = _with_state(network, timm, model, _read_state(Path(file)))
    except Exception as error:  # timm, torch and the hub raise many types
        raise _cannot_load(spec, error) from error
    head = _plain_head(network.get_classifier())
    network.reset_classifier(0)
    network.eval().requires_grad_(False)
    config = resolve_model_data_config(network)
    see: Any = create_transform(**config, is_training=False)
    size = int(config["input_size"][-1])
    return EncoderNetwork(
        name=f"{model}/{Path(file).name}" if file else model,
        kind="image",
        network=network,
        embed=network,
        prepare=see,
        prepare_view=_view(size, config["interpolation"], config["mean"], config["std"]),
        size=size,
        weights_sha256=weights_sha256(network),
        head=head if head is not None and head.shape[1] == network.num_features else None,
    )


def open_clip_network(spec: str) -> EncoderNetwork:
    """Load a tower of `open_clip:<model>:<tag or file>`, its text tower with `:text` behind.

    Raises:
        FileNotFoundError: The weights are neither a file nor a tag of the model.
        ValueError: The model is unknown, or its weights cannot be had or do not fit.
    """
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2

    plain = spec.removeprefix(OPEN_CLIP)
    kind: Kind = "text" if plain.endswith(":text") else "image"
    model, _, weights = plain.removesuffix(":text").partition(":")
    _check_open_clip(spec, model, weights)
    try:
        with warnings.catch_warnings():
            # A file says nothing of its activations; for tags they are looked up below.
            warnings.filterwarnings("ignore", "QuickGELU mismatch", UserWarning)
            network = open_clip.create_model(
                model,
                weights,
                force_quick_gelu=_needs_quick_gelu(model, weights),
                require_pretrained=True,
            )
        tokenize = open_clip.get_tokenizer(model)
        config = dict(open_clip.get_model_preprocess_cfg(network))
        see: Any = image_transform_v2(PreprocessCfg(**config), is_train=False)
    except Exception as error:  # open_clip, torch and the hub raise many types
        raise _cannot_load(spec, error) from error
    network.eval().requires_grad_(False)
    towers: Any = network
    size = config["size"] if isinstance(config["size"], int) else int(config["size"][0])
    look = _view(size, config["interpolation"], config["mean"], config["std"])
    is_text = kind == "text"
    return EncoderNetwork(
        name=f"{model}/{Path(weights).name}" + (":text" if is_text else ""),
        kind=kind,
        network=network,
        embed=towers.encode_text if is_text else towers.encode_image,
        prepare=(lambda text: tokenize([text])[0]) if is_text else see,
        prepare_view=look,
        size=0 if is_text else size,
        # One space for both towers: texts may ask for images.
        weights_sha256=weights_sha256(network),
    )


def _view(
    size: int, interpolation: str, mean: tuple[float, ...], std: tuple[float, ...]
) -> Callable[[Image.Image], Tensor]:
    mode: Literal["bicubic", "bilinear"] = "bilinear" if interpolation == "bilinear" else "bicubic"
    return v2.Compose(
        [
            v2.Resize((size, size), interpolation=InterpolationMode(mode)),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(mean), list(std)),
        ]
    )


def _square(image: Image.Image, size: int) -> Image.Image:
    if image.size == (size, size):
        return image
    return image.resize((size, size), Image.Resampling.BILINEAR)


def _with_state(network: Any, timm: Any, model: str, state: dict[str, Tensor]) -> Any:
    """Return the network with weights from a file, which may lack a classifier or have another."""
    prefix = network.pretrained_cfg.get("classifier") or "classifier"
    own = {key for key in state if key.startswith(f"{prefix}.")}
    weight = state.get(f"{prefix}.weight")
    if weight is not None and len(weight) != network.num_classes:
        network = timm.create_model(model, num_classes=len(weight))
    if weight is None:
        network.reset_classifier(0)
    elif f"{prefix}.bias" not in own and isinstance(network.get_classifier(), nn.Linear):
        network.get_classifier().bias = None
    network.load_state_dict(state)
    return network


def _plain_head(classifier: object) -> NDArray[np.float32] | None:
    if not isinstance(classifier, nn.Linear) or classifier.bias is not None:
        return None
    return classifier.weight.detach().float().numpy().copy()


def _read_state(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    state = torch.load(path, map_location="cpu", weights_only=True)
    return state.get("state_dict", state)


def _check_open_clip(spec: str, model: str, weights: str) -> None:
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    if open_clip.get_model_config(model) is None:
        raise ValueError(f"open_clip knows no model {model!r}; open_clip.list_models() names them")
    if not get_pretrained_cfg(model, weights) and not Path(weights).is_file():
        tags = ", ".join(list_pretrained_tags_by_model(model)) or "none"
        raise FileNotFoundError(
            f"{spec}: {weights!r} is neither a file nor one of the model's tags: {tags}"
        )


def _needs_quick_gelu(model: str, weights: str) -> bool:
    # OpenAI's weights and others need it, which the plain names lack.
    from open_clip.pretrained import get_pretrained_cfg

    return bool(get_pretrained_cfg(model, weights).get("quick_gelu", False))


def _cannot_load(spec: str, error: Exception) -> ValueError:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return ValueError(f"{spec} cannot be loaded: {reason}")

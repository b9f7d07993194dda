"""Encoders: any model by name, from images or texts to vectors with a card.

Vectors are float32; those of models from elsewhere are brought to length 1 where their metric is
cosine, as is the custom for them, while own backbones give what they were trained to give.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from fastfill.card import ModelCard
from fastfill.config import Metric
from fastfill.encoder_networks import (
    OPEN_CLIP,
    TIMM,
    EncoderNetwork,
    open_clip_network,
    own_network,
    timm_network,
)
from fastfill.originals import Kind
from tenfold.back_off import BackOff
from tenfold.devices import choose_device

BATCH_SIZE = 256


class Encoder:
    """A frozen model on a device.

    Args:
        network: The network; it is moved to `device`.
        card: What the vectors are; `normalized` brings them to length 1.
        device: Where it runs.
        batch_size: Items at once, halved when memory runs out.

    Attributes:
        card: Name, width, metric and fingerprint.
        kind: What it embeds, `image` or `text`.
        size: Side of its input, 0 for texts.
        head: Its classifier `[K, d]`, which has no bias; None without one.
    """

    def __init__(
        self,
        network: EncoderNetwork,
        card: ModelCard,
        *,
        device: torch.device | str = "cpu",
        batch_size: int = BATCH_SIZE,
    ) -> None:
        self.card = card
        self.kind: Kind = network.kind
        self.size = network.size
        self.head = network.head
        self.device = torch.device(device)
        self._network = network
        network.network.to(self.device)
        self._run = BackOff(self._rows, batch_size, name=card.name)

    def embed_images(
        self, images: Sequence[Image.Image] | Tensor, *, whole: bool = False
    ) -> NDArray[np.float32]:
        """Embed images by the model's own preprocessing.

        Args:
            images: PIL images, or uint8 `[n, 3, H, W]`.
            whole: Scale the whole image to the input's size instead of the model's crop, as for
                views that are crops already.

        Returns:
            `[n, d]`.

        Raises:
            ValueError: The model takes texts, or these are no images.
        """
        self._require("image")
        return self.embed_prepared([self.prepare(item, whole=whole) for item in _pil(images)])

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts, each cut to the model's context length.

        Returns:
            `[n, d]`.

        Raises:
            ValueError: The model takes images, or these are no texts.
        """
        self._require("text")
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"texts must be a list of str, got {texts!r:.60}")
        return self.embed_prepared([self.prepare(text) for text in texts])

    def prepare(self, original: Image.Image | str, *, whole: bool = False) -> Tensor:
        """Return what the network sees of one original; any thread may call this."""
        if isinstance(original, Image.Image) and original.mode != "RGB":
            original = original.convert("RGB")
        look = self._network.prepare_view if whole else self._network.prepare
        return look(original)

    def embed_prepared(self, prepared: Sequence[Tensor]) -> NDArray[np.float32]:
        """Embed what `prepare` gave.

        Returns:
            `[n, d]`.
        """
        if not prepared:
            return np.zeros((0, self.card.dim), dtype=np.float32)
        return np.ascontiguousarray(self._run(torch.stack(list(prepared))).numpy())

    def logits(self, embeddings: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the classifier's answer `[n, K]` to embeddings `[n, d]`.

        Raises:
            ValueError: The model has no classifier.
        """
        if self.head is None:
            raise ValueError(f"{self.card.name} has no classifier")
        return np.asarray(embeddings, dtype=np.float32) @ self.head.T

    @torch.inference_mode()
    def _rows(self, batch: Tensor) -> Tensor:
        rows = self._network.embed(batch.to(self.device)).float()
        return (F.normalize(rows, dim=-1) if self.card.normalized else rows).cpu()

    def _require(self, kind: Kind) -> None:
        if self.kind != kind:
            raise ValueError(f"{self.card.name} embeds {self.kind}s, got {kind}s")


def load_encoder(
    name: str,
    *,
    device: str = "cpu",
    metric: Metric | None = None,
    batch_size: int = BATCH_SIZE,
) -> Encoder:
    """Load a model by name.

    - a path: run folder of `fit-backbone`, checkpoint, or `.safetensors`
    - `timm:<model>`: published weights; `timm:<model>:<file>`: weights of a file
    - `open_clip:<model>:<tag or file>`: the image tower; with `:text` behind it the text tower

    Args:
        name: As above.
        device: `auto`, `cpu`, `cuda` or `cuda:<n>`.
        metric: What is near; by default what an own model's card says, `l2` for timm's models and
            `cosine` for open_clip's.
        batch_size: Items at once, halved when memory runs out.

    Raises:
        FileNotFoundError: Weights are missing.
        ValueError: The name, device or metric is malformed, or weights cannot be had.
    """
    if metric is not None and metric not in get_args(Metric):
        raise ValueError(f"metric must be one of {', '.join(get_args(Metric))}, got {metric!r}")
    place = choose_device(device)
    if not name.startswith((TIMM, OPEN_CLIP)):
        network, card = own_network(_path(name))
        card = replace(card, metric=metric or card.metric)
        return Encoder(network, card, device=place, batch_size=batch_size)
    load: Callable[[str], EncoderNetwork]
    load, usual = (timm_network, "l2") if name.startswith(TIMM) else (open_clip_network, "cosine")
    network = load(name)
    card = ModelCard(
        name=network.name,
        dim=_width(network),
        metric=metric or usual,
        weights_sha256=network.weights_sha256,
        num_classes=0 if network.head is None else len(network.head),
        normalized=(metric or usual) == "cosine",
    )
    return Encoder(network, card, device=place, batch_size=batch_size)


def _width(network: EncoderNetwork) -> int:
    probe: Any = "" if network.kind == "text" else Image.new("RGB", (network.size, network.size))
    with torch.inference_mode():
        rows = network.embed(network.prepare(probe)[None])
    if rows.ndim != 2:
        raise ValueError(
            f"{network.name} gives {list(rows.shape[1:])} an image, expected one vector: choose a "
            "model that pools"
        )
    return rows.shape[1]


def _pil(images: Sequence[Image.Image] | Tensor) -> Sequence[Image.Image]:
    if isinstance(images, Tensor):
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(
                f"images must be uint8 [n, 3, H, W], got {images.dtype} {list(images.shape)}"
            )
        return [TF.to_pil_image(image) for image in images.cpu()]
    if not all(isinstance(image, Image.Image) for image in images):
        raise ValueError("images must be PIL images or a uint8 tensor [n, 3, H, W]")
    return images


def _path(name: str) -> Path:
    path = Path(name)
    if not path.exists():
        raise FileNotFoundError(
            f"model {name} does not exist: expected a run folder, a checkpoint, a .safetensors, "
            f"{TIMM}<model> or {OPEN_CLIP}<model>:<tag>"
        )
    return path

"""CoCa writes synthetic captions (spec 2.1; the official generator's settings are the defaults).

open_clip's own `generate` draws from torch's global generator for a whole batch. Here each caption
has its own keyed numbers, so that it is the same in any batch and after any restart.

Shapes: n images, S captions each, L tokens, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from open_clip.coca_model import CoCa
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor

from mobileclip.generate.nucleus import sample_top_p
from mobileclip.generate.open_clip_networks import load_network
from mobileclip.generate.teacher_config import Precision
from tenfold import keyed

START, END = "<start_of_text>", "<end_of_text>"


@dataclass(frozen=True, kw_only=True)
class CaptionerConfig:
    """A CoCa of open_clip and how it samples.

    Args:
        model: Name in open_clip, `local-dir:<folder>` or `hf-hub:<repository>`.
        pretrained: Tag or file of its weights; empty for the other forms of `model`.
        num: Captions of an image, S.
        top_p: Share of the probability that tokens are drawn from.
        seq_len: Tokens of a caption with start and end, at most.
        min_seq_len: Tokens before the caption may end.
        precision: `bf16` runs the network under autocast.
        batch: Images at once; halved when memory runs out.

    Raises:
        ValueError: A value is out of range.
    """

    model: str = "coca_ViT-L-14"
    pretrained: str = "mscoco_finetuned_laion2B-s13B-b90k"
    num: int = 5
    top_p: float = 0.9
    seq_len: int = 30
    min_seq_len: int = 5
    precision: Precision = "fp32"
    batch: int = 64

    def __post_init__(self) -> None:
        for name in ("num", "batch", "min_seq_len"):
            if getattr(self, name) < 1:
                raise ValueError(f"captioner.{name} must be >= 1, got {getattr(self, name)}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"captioner.top_p must lie in (0, 1], got {self.top_p}")
        if self.seq_len <= self.min_seq_len:
            raise ValueError(
                f"captioner.seq_len must be > min_seq_len {self.min_seq_len}, got {self.seq_len}"
            )
        if self.precision not in get_args(Precision):
            raise ValueError(f"captioner.precision must be fp32 or bf16, got {self.precision!r}")


@dataclass(frozen=True, eq=False)
class Prompt:
    """What captions are drawn from.

    Attributes:
        pixels: As `Captioner.prepare` gives them.
        uid: Of the image; keys the draws.
        attempt: Counts up where captions came out empty.
    """

    pixels: Tensor
    uid: str
    attempt: int = 0


class Captioner:
    """A frozen CoCa.

    Args:
        network: The CoCa.
        tokenizer: Turns its tokens into text.
        inputs: open_clip's `size`, `mean`, `std`, `interpolation` and `resize_mode`.
        config: How it samples.
        name: Model and weights.
        seed: Keys the draws with the image's uid and the caption's number.
        device: Where it runs.

    Raises:
        ValueError: `seq_len` exceeds the context of the network.
    """

    def __init__(
        self,
        network: CoCa,
        tokenizer: SimpleTokenizer,
        *,
        inputs: dict[str, Any],
        config: CaptionerConfig,
        name: str,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        # One token of the context is the text tower's own class token.
        if config.seq_len > network.context_length:
            raise ValueError(
                f"captioner.seq_len is {config.seq_len}, {name} has a context of "
                f"{network.context_length} tokens"
            )
        self.config = config
        self.name = name
        self.seed = seed
        self.device = torch.device(device)
        self.network = network.eval().requires_grad_(False).to(self.device)
        self._tokenizer = tokenizer
        self._transform: Any = image_transform_v2(PreprocessCfg(**inputs), is_train=False)

    def prepare(self, image: Tensor) -> Tensor:
        """Resize, crop and normalise an image uint8 `[3, H, W]` as open_clip does for evaluation.

        Returns:
            float32 `[3, size, size]`.
        """
        return self._transform(Image.fromarray(image.permute(1, 2, 0).numpy()))

    @torch.inference_mode()
    def draw(self, prompts: Sequence[Prompt]) -> Tensor:
        """Draw the tokens of S captions for each image.

        Returns:
            int64 `[n, S, L]` on the CPU: start, tokens, end, padding.
        """
        count, config = len(prompts) * self.config.num, self.config
        images = torch.stack([prompt.pixels for prompt in prompts]).to(self.device)
        uniform = torch.stack([self._uniform(prompt) for prompt in prompts]).flatten(0, 1)
        with torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16"
        ):
            seen = self.network(images)
            latent = seen["image_features"].repeat_interleave(config.num, dim=0)
            patches = seen["image_embs"].repeat_interleave(config.num, dim=0)
            tokens = torch.full((count, 1), self._tokenizer.sot_token_id, device=self.device)
            for numbers in uniform.to(self.device)[:, 1:].unbind(1):
                tokens = self._extend(tokens, latent, patches, numbers)
        return tokens.view(len(prompts), config.num, config.seq_len).cpu()

    def texts(self, tokens: Tensor) -> list[str]:
        """Turn tokens int64 `[S, L]` into S captions, of which some may be empty."""
        return [clean_caption(self._tokenizer.decode(row)) for row in tokens.tolist()]

    def _extend(self, tokens: Tensor, latent: Tensor, patches: Tensor, uniform_N: Tensor) -> Tensor:
        """Append one token to each caption: padding to those that have ended."""
        length, end, pad = tokens.shape[1], self._tokenizer.eot_token_id, self.network.pad_id
        ended_N = (tokens[:, -1] == end) | (tokens[:, -1] == pad)
        if ended_N.all():
            following = torch.full_like(tokens[:, -1], pad)
        elif length + 1 == self.config.seq_len:
            following = torch.full_like(tokens[:, -1], end)
        else:
            said = self.network(
                None, tokens, image_latent=latent, image_embs=patches, output_labels=False
            )
            logits_NV = said["logits"][:, -1].float()
            if not torch.isfinite(logits_NV).all():
                raise ValueError(
                    f"{self.name} gives logits that are not finite: check its weights, or try "
                    "precision fp32"
                )
            if length < self.config.min_seq_len:
                logits_NV[:, end] = -torch.inf
            following = sample_top_p(logits_NV, uniform_N, top_p=self.config.top_p)
        following = torch.where(ended_N, pad, following)
        return torch.cat([tokens, following.unsqueeze(1)], dim=1)

    def _uniform(self, prompt: Prompt) -> Tensor:
        """Return the numbers that an image's captions are drawn with, float64 `[S, L]`."""
        rows = [
            keyed.generator("caption", self.seed, prompt.uid, number, prompt.attempt).random(
                self.config.seq_len
            )
            for number in range(self.config.num)
        ]
        return torch.from_numpy(np.stack(rows))


def clean_caption(text: str) -> str:
    """Return what stands between start and end, up to the first full stop, without end spaces."""
    text = text.partition(END)[0]
    text = text.rpartition(START)[2]
    return text.partition(".")[0].rstrip()


def build_captioner(
    config: CaptionerConfig, *, seed: int = 0, device: torch.device | str = "cpu"
) -> Captioner:
    """Build a captioner with its weights.

    Raises:
        FileNotFoundError: The weights are missing.
        ValueError: The model is unknown or no CoCa, or its weights do not fit.
    """
    loaded = load_network(config.model, config.pretrained)
    if not isinstance(loaded.network, CoCa) or not isinstance(loaded.tokenize, SimpleTokenizer):
        raise ValueError(
            f"captioner.model is {loaded.name}, which is no CoCa with CLIP's tokens: it cannot "
            "write captions; take coca_ViT-L-14"
        )
    return Captioner(
        loaded.network,
        loaded.tokenize,
        inputs=loaded.inputs,
        config=config,
        name=loaded.name,
        seed=seed,
        device=device,
    )

"""The teachers of `reproduce --scale gpu`: small ViT CLIPs of open_clip, trained on clean captions.

A trained teacher is a folder that open_clip loads as `local-dir:`, so that generation and live
distillation take it as they take a published one. It sees images in 0..1, as students do.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
from safetensors.torch import save_file
from torch import nn

from mobileclip.config import LossConfig
from mobileclip.demo_data import teacher_name
from mobileclip.demo_scenes_shards import scene_augment
from mobileclip.demo_training import Place, TrainingSetup, train_clip
from mobileclip.exporting.open_clip_folder import CONFIG_FILE, WEIGHTS_FILE
from mobileclip.gpu_scores import composition_top1
from mobileclip.models.clip import MobileCLIP
from tenfold.cli.quiet import silence_adverts

CONTEXT_LENGTH = 77
CLEAN = LossConfig(mode="clip", captions="both", distill_weight=0.0)


@dataclass(frozen=True, kw_only=True)
class TeacherShape:
    """Widths and depths; the defaults are ViT-S/16's with a text tower of half its depth.

    Attributes:
        width: Channels of an image's patch.
        layers: Transformer layers of the image tower.
        patch: Side of a patch, pixels.
        head: Channels of an attention head, in both towers.
        text_width: Channels of a token.
        text_layers: Transformer layers of the text tower.
        embed_dim: Numbers of an embedding.
    """

    width: int = 384
    layers: int = 12
    patch: int = 16
    head: int = 64
    text_width: int = 256
    text_layers: int = 6
    embed_dim: int = 256

    def config(self, image_size: int) -> dict[str, Any]:
        """Return the model's configuration in open_clip's words."""
        return {
            "embed_dim": self.embed_dim,
            "custom_text": True,
            "vision_cfg": {
                "image_size": image_size,
                "layers": self.layers,
                "width": self.width,
                "head_width": self.head,
                "patch_size": self.patch,
            },
            "text_cfg": {
                "context_length": CONTEXT_LENGTH,
                "vocab_size": 49408,
                "width": self.text_width,
                "heads": self.text_width // self.head,
                "layers": self.text_layers,
            },
        }

    def build(self, image_size: int) -> MobileCLIP:
        """Build a teacher with random weights."""
        config = self.config(image_size)
        del config["custom_text"]
        towers: Any = open_clip.CustomTextCLIP(**config)
        return MobileCLIP(
            towers.visual,
            towers.text,
            name="vit",
            image_size=image_size,
            embed_dim=self.embed_dim,
            context_length=CONTEXT_LENGTH,
        )


VIT_S = TeacherShape()


@dataclass(frozen=True, kw_only=True)
class TeacherTask:
    """One teacher to train.

    Attributes:
        shape: Its network.
        image_size: Side of its images, pixels.
        steps: Optimiser steps.
        batch_size: Pairs of a step.
        seed: Key of its weights and of its order of pairs.
        teaching: Pairs with clean captions.
        test: Held-out compositions, to measure it on.
    """

    shape: TeacherShape
    image_size: int
    steps: int
    batch_size: int
    seed: int
    teaching: Path
    test: Path


def train_teacher(task: TeacherTask, folder: Path, *, place: Place) -> dict[str, float]:
    """Train a teacher and leave its folder; a job that returns accuracy and seconds."""
    silence_adverts()
    setup = TrainingSetup(
        steps=task.steps,
        model="s0",  # for the length of its texts alone
        image_size=task.image_size,
        batch_size=task.batch_size,
        lr=5e-4,
        warmup_steps=task.steps // 10,
        augment=scene_augment(task.image_size),
    )
    started = time.perf_counter()
    module = train_clip(
        setup,
        CLEAN,
        task.teaching,
        val=task.test,
        seed=task.seed,
        place=place,
        network=lambda: task.shape.build(task.image_size),
    )
    seconds = time.perf_counter() - started
    save_teacher(module.network, task.shape, folder / teacher_name(task.seed))
    top1 = composition_top1(module.network, task.test, device=place.device)
    return {"top1": top1, "seconds": seconds}


def save_teacher(network: MobileCLIP, shape: TeacherShape, folder: Path) -> None:
    """Write a teacher as a folder of open_clip."""
    folder.mkdir(parents=True)
    towers = nn.ModuleDict({"visual": network.image_tower, "text": network.text_tower})
    state = {name: tensor.contiguous().cpu() for name, tensor in towers.state_dict().items()}
    state["logit_scale"] = network.logit_scale.detach().cpu()
    save_file(state, folder / WEIGHTS_FILE)
    config = {
        "model_cfg": shape.config(network.image_size),
        "preprocess_cfg": {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]},
    }
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

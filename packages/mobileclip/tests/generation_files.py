"""Small files that generation reads: shards of pairs, open_clip folders of teachers and a CoCa."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from open_clip.coca_model import CoCa
from open_clip.model import CLIP
from PIL import Image
from safetensors.torch import save_file

from mobileclip.generate.teacher_config import TeacherConfig, TeacherEnsembleConfig
from tenfold.jobs.work import STATE
from tenfold.shards import ShardEntry, write_index, write_shard

SIZE = 16
VIEWS = 3
TEXT: dict[str, Any] = {"context_length": 12, "width": 16, "heads": 2, "layers": 1}
VISION: dict[str, Any] = {"layers": 1, "width": 16, "head_width": 8, "patch_size": 8}
PREPROCESS: dict[str, Any] = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.25]}


def write_teacher(folder: Path, *, dim: int = 8, size: int = SIZE, seed: int = 0) -> TeacherConfig:
    """Write a CLIP with random weights as an open_clip folder."""
    model = {
        "embed_dim": dim,
        "vision_cfg": {**VISION, "image_size": size},
        "text_cfg": {**TEXT, "vocab_size": 49408},
    }
    torch.manual_seed(seed)
    _write_folder(folder, model, CLIP(**model))
    return TeacherConfig(model=f"local-dir:{folder}")


def write_ensemble(folder: Path, **options: Any) -> TeacherEnsembleConfig:
    """Write two teachers of different width and input size."""
    members = (
        write_teacher(folder / "first", dim=8, size=SIZE, seed=1),
        write_teacher(folder / "second", dim=12, size=8, seed=2),
    )
    return TeacherEnsembleConfig(members=members, **{"batch": 8, **options})


def write_coca(folder: Path) -> str:
    """Write a CoCa with random weights as an open_clip folder; return the model's name."""
    model = {
        "embed_dim": 16,
        "vision_cfg": {
            **VISION,
            "image_size": SIZE,
            "attentional_pool": True,
            "attn_pooler_heads": 2,
            "output_tokens": True,
        },
        "text_cfg": {**TEXT, "vocab_size": 49408, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {**TEXT, "vocab_size": 49408, "attn_pooler_heads": 2},
    }
    torch.manual_seed(3)
    network = CoCa(**model)
    with torch.no_grad():  # open_clip leaves it uninitialised
        network.text_decoder.text_projection.normal_(std=0.7)
    _write_folder(folder, {**model, "custom_text": True}, network)
    return f"local-dir:{folder}"


def make_image(number: int) -> np.ndarray:
    """Return pixels uint8 `[H, W, 3]`, of another size for each number."""
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    side = (24 + number % 5, 20 + number % 7)
    return np.array(Image.fromarray(coarse).resize(side, Image.Resampling.BICUBIC))


def make_pair(number: int, **extra: Any) -> dict[str, Any]:
    """Return the members of one sample."""
    data = io.BytesIO()
    Image.fromarray(make_image(number)).save(data, "PNG")
    return {
        "__key__": f"{number:06d}",
        "png": data.getvalue(),
        "txt": f"picture number {number}",
        "json": {"uid": hashlib.md5(str(number).encode()).hexdigest()},
        **extra,
    }


def write_pairs(
    folder: Path, *, shards: int = 2, each: int = 5, captions: int = 0, bad: tuple[int, ...] = ()
) -> Path:
    """Write shards of pairs; numbers in `bad` are samples whose image is damaged."""
    entries: list[ShardEntry] = []
    for shard in range(shards):
        samples = []
        for number in range(shard * each, (shard + 1) * each):
            texts = [f"synthetic {number} {i}" for i in range(captions)]
            extra: dict[str, Any] = {"syn.json": {"syn_text": texts}} if captions else {}
            if number in bad:
                extra["png"] = b"no image"
            samples.append(make_pair(number, **extra))
        entries.append(write_shard(folder / f"{shard:05d}.tar", samples))
    write_index(folder, entries, captioner="a captioner")
    return folder


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file but the state of jobs."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and STATE not in path.parts
    }


def _write_folder(folder: Path, model: dict[str, Any], network: torch.nn.Module) -> None:
    folder.mkdir(parents=True)
    config = {"model_cfg": model, "preprocess_cfg": PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, folder / "open_clip_model.safetensors")

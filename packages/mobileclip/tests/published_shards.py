"""Small shards in the published layouts, written from the format's description alone (spec 3)."""

import gzip
import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from mobileclip.embedding_codecs import encode_emb_bin
from mobileclip.embeddings import from_arrays
from mobileclip.schema import ReinforcementInfo, TeacherInfo, write_info
from tenfold import keyed
from tenfold.augment import positional
from tenfold.augment.config import AugmentConfig
from tenfold.augment.drawing import draw_view
from tenfold.shards import ShardIndex, index_folder

Layout = Literal["legacy", "new"]
Form = Literal["npz", "pth.gz", "emb.bin"]

DIMS = (6, 4)
VIEWS, CAPTIONS = 4, 3
AUGMENT = AugmentConfig(
    size=32, interpolation="bicubic", flip=0.0, rand_augment=1.0, translate_pixels=32
)
INFO = ReinforcementInfo(
    teachers=tuple(
        TeacherInfo(name=f"teacher {k}", dim=dim, logit_scale=100.0, input_size=32)
        for k, dim in enumerate(DIMS)
    ),
    augment=AUGMENT,
    num_views=VIEWS,
    num_captions=CAPTIONS,
)


@dataclass(frozen=True)
class Made:
    """One sample as it was written; embeddings are float32 of bfloat16 values.

    Attributes:
        uid: Its key.
        size: Height and width of the image.
        image: `[J, W]`.
        text: `[1, W]`.
        synthetic: `[S, W]`.
        views: J parameter lists.
        members: Extension to bytes.
    """

    uid: str
    size: tuple[int, int]
    image: NDArray[np.float32]
    text: NDArray[np.float32]
    synthetic: NDArray[np.float32]
    views: list[list[Any]]
    members: dict[str, bytes]


def make_sample(number: int, *, layout: Layout = "legacy", form: Form = "npz") -> Made:
    """Make one sample; all it holds depends on its number."""
    rng = keyed.generator("published sample", number)
    height, width = int(rng.integers(40, 60)), int(rng.integers(40, 60))
    uid = f"{number:032x}"
    views = [
        positional.encode(draw_view(rng, AUGMENT, height=height, width=width), None, AUGMENT)
        for _ in range(VIEWS)
    ]
    image, text, synthetic = (unit_rows(rng, n) for n in (VIEWS, 1, CAPTIONS))
    arrays = {"image_emb": image}
    if layout == "legacy":
        arrays["text_emb"] = np.concatenate([text, synthetic])
    else:
        arrays |= {"text_emb": text, "syn_text_emb": synthetic}
    params: Any = views if layout == "new" else json.dumps(views)  # the release has a string
    captions = [f"synthetic {number} {s}" for s in range(CAPTIONS)]
    members = {
        "jpg": encode_image(rng, height, width),
        "txt": f"real caption {number}".encode(),
        "url.txt": b"https://example.org/image.jpg",
        "syn.json": json.dumps({"syn_text": captions}).encode(),
        "paug.json": json.dumps({"param_aug": params}).encode(),
        form: encode_arrays(arrays, form),
        "json": json.dumps({"uid": uid, "sha256": "0" * 64}).encode(),
    }
    return Made(uid, (height, width), image, text, synthetic, views, members)


def encode_arrays(arrays: Mapping[str, NDArray[np.float32]], form: Form) -> bytes:
    """Return the member that holds arrays."""
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    if form == "emb.bin":
        return encode_emb_bin(from_arrays(tensors))
    buffer = io.BytesIO()
    if form == "npz":
        np.savez(buffer, **dict(arrays))
        return buffer.getvalue()
    torch.save({name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}, buffer)
    return gzip.compress(buffer.getvalue())


def encode_image(
    rng: np.random.Generator, height: int, width: int, *, format: str = "JPEG"
) -> bytes:
    """Return a smooth random image."""
    coarse = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((width, height)).save(buffer, format=format)
    return buffer.getvalue()


def unit_rows(rng: np.random.Generator, count: int) -> NDArray[np.float32]:
    """Return rows that are unit vectors for each teacher, up to rounding to bfloat16."""
    parts = [rng.standard_normal((count, dim)).astype(np.float32) for dim in DIMS]
    rows = np.concatenate([p / np.linalg.norm(p, axis=1, keepdims=True) for p in parts], axis=1)
    return torch.from_numpy(rows).to(torch.bfloat16).to(torch.float32).numpy()


def write_tar(path: Path, samples: Mapping[str, Mapping[str, bytes]]) -> None:
    """Write keys with their members, in order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, members in samples.items():
            for extension, data in members.items():
                entry = tarfile.TarInfo(f"{key}.{extension}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))


def write_folder(
    folder: Path, shards: list[list[Made]], *, info: ReinforcementInfo | None = INFO
) -> ShardIndex:
    """Write shards of samples with an index, and `reinforcement.json` where `info` is given."""
    for number, samples in enumerate(shards):
        write_tar(folder / f"{number:08d}.tar", {made.uid: made.members for made in samples})
    if info is not None:
        write_info(folder, info)
    return index_folder(folder)


def write_release(
    folder: Path,
    *,
    count: int = 12,
    shard_size: int = 6,
    layout: Layout = "legacy",
    form: Form = "npz",
) -> tuple[ShardIndex, dict[str, Made]]:
    """Write a whole small data set; return its index and its samples by key."""
    made = [make_sample(number, layout=layout, form=form) for number in range(count)]
    shards = [made[start : start + shard_size] for start in range(0, count, shard_size)]
    return write_folder(folder, shards), {one.uid: one for one in made}

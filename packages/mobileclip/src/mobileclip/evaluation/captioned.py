"""Images with several captions each, for retrieval: a folder or tars."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from mobileclip.evaluation.images import EncodedImages, FileImages, TarImages
from tenfold.zero_shot import recall_at_k

CAPTIONS_FILE = "captions.json"
CUT_OFFS = (1, 5, 10)


class CaptionedImages(NamedTuple):
    """Images, and for each its captions."""

    images: EncodedImages
    captions: Sequence[Sequence[str]]


def open_captioned(root: Path) -> CaptionedImages:
    """Open a retrieval set.

    Args:
        root: A folder with `captions.json` (`{"image.jpg": ["a caption", ...]}`, paths below the
            folder), or one with `*.tar` (below `test/` or itself) whose samples have a `txt` of one
            caption a line, as CLIP_benchmark writes them.

    Raises:
        FileNotFoundError: Neither is there, or an image is missing.
        ValueError: The captions have another form, or an image has none.
    """
    if (root / CAPTIONS_FILE).is_file():
        return _open_folder(root)
    tars = root / "test" if (root / "test").is_dir() else root
    if not any(tars.glob("*.tar")):
        raise FileNotFoundError(f"{root} has neither {CAPTIONS_FILE} nor *.tar nor test/*.tar")
    images = TarImages(tars)
    texts = (images.member(index, "txt").decode("utf-8") for index in range(len(images)))
    captions = [[line.strip() for line in text.splitlines() if line.strip()] for text in texts]
    return _checked(images, captions)


def retrieval_metrics(image_ND: Tensor, text_MD: Tensor, pairs_M: Tensor) -> dict[str, float]:
    """Return recall at 1, 5 and 10 in both directions, named as in DataComp's files.

    `image_retrieval` finds images by text (T2I in the paper), `text_retrieval` texts by image.
    """
    recall = recall_at_k(image_ND, text_MD, pairs_M, ks=CUT_OFFS)
    directions = {
        "image_retrieval": recall.text_to_image,
        "text_retrieval": recall.image_to_text,
    }
    metrics = {
        f"{name}_recall@{k}": share
        for name, found in directions.items()
        for k, share in found.items()
    }
    firsts = [metrics[f"{name}_recall@1"] for name in directions]
    return {**metrics, "mean_recall@1": sum(firsts) / 2}


def _open_folder(root: Path) -> CaptionedImages:
    path = root / CAPTIONS_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    listed = isinstance(found, dict) and all(
        isinstance(captions, list) and all(isinstance(text, str) for text in captions)
        for captions in found.values()
    )
    if not listed or not found:
        raise ValueError(f'{path} must hold {{"image.jpg": ["a caption", ...], ...}}')
    return _checked(FileImages(root, list(found)), list(found.values()))


def _checked(images: EncodedImages, captions: list[list[str]]) -> CaptionedImages:
    for index, texts in enumerate(captions):
        if not texts:
            raise ValueError(f"{images.name(index)} has no caption; leave the image out")
    return CaptionedImages(images, captions)

"""What a demo student has learnt: what a drawing shows, by name and by kind."""

import json
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mobileclip.demo_pairs import Source
from mobileclip.evaluation_pairs import EvaluationPairs
from mobileclip.models.clip import MobileCLIP
from mobileclip.reader_config import ReaderConfig
from mobileclip.tokenizer import tokenize
from tenfold.shards import TarMembers, read_index
from tenfold.zero_shot import class_embeddings, classify, top_k_accuracy


class DemoScores(NamedTuple):
    """Zero-shot accuracies on the test drawings.

    Attributes:
        top1: Among all names.
        kind: Among all kinds, asked for in the captioner's words.
    """

    top1: float
    kind: float


@torch.inference_mode()
def demo_scores(network: MobileCLIP, test: Path, source: Source) -> DemoScores:
    """Classify the test drawings by the names, and by the kinds, of what they show."""
    network.eval()
    names = read_names(test)
    images = _image_embeddings(network, test)

    def accuracy(labels: list[str], templates: tuple[str, ...]) -> float:
        classes = sorted(set(labels))
        rows = class_embeddings(
            lambda texts: network.encode_text(
                tokenize(texts, context_length=network.context_length)
            ),
            classes,
            templates,
        )
        target = torch.tensor([classes.index(label) for label in labels])
        return float(top_k_accuracy(classify(images, rows, scale=1.0), target))

    return DemoScores(
        top1=accuracy(names, source.templates),
        kind=accuracy([source.aspects(name)[0] for name in names], source.kind_templates),
    )


def read_names(folder: Path) -> list[str]:
    """Return what the drawings of shards show, in their order."""
    return [
        json.loads(tar.read(key, "json"))["name"]
        for entry in read_index(folder).entries
        for tar in [TarMembers(folder / entry.name)]
        for key in tar.keys
    ]


def _image_embeddings(network: MobileCLIP, test: Path) -> Tensor:
    config = ReaderConfig(
        mode="clip",
        captions="real",
        image_size=network.image_size,
        context_length=network.context_length,
    )
    pairs = EvaluationPairs(read_index(test), config, batch_size=256)
    batches = (pairs[number]["image"] for number in range(len(pairs)))
    return torch.cat([network.encode_image(images.float() / 255) for images in batches])

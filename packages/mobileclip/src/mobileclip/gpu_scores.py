"""What a network of `reproduce --scale gpu` has learnt: held-out compositions, and retrieval.

In float32, on the device of the training.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from mobileclip.demo_scenes import TEMPLATES
from mobileclip.demo_scores import read_names
from mobileclip.demo_training import Device
from mobileclip.evaluation_pairs import EvaluationPairs
from mobileclip.models.clip import MobileCLIP
from mobileclip.pair_recall import PairRecall, PairRecallMetric
from mobileclip.reader_config import ReaderConfig
from mobileclip.tokenizer import tokenize
from tenfold.shards import read_index
from tenfold.zero_shot import class_embeddings, classify, top_k_accuracy

BATCH_SIZE = 256


@torch.inference_mode()
def composition_top1(network: MobileCLIP, test: Path, *, device: Device) -> float:
    """Return the zero-shot accuracy among all compositions of the test drawings."""
    network.eval().to(device)
    names = read_names(test)
    classes = sorted(set(names))

    def encode(texts: list[str]) -> Tensor:
        return network.encode_text(_tokens(network, texts, device))

    rows = class_embeddings(encode, classes, TEMPLATES)
    images = torch.cat(
        [network.encode_image(image) for image, _ in _batches(network, test, device)]
    )
    target = torch.tensor([classes.index(name) for name in names], device=images.device)
    return float(top_k_accuracy(classify(images, rows, scale=1.0), target))


@torch.inference_mode()
def retrieval_at_1(network: MobileCLIP, pairs: Path, *, device: Device) -> PairRecall:
    """Return recall at 1 over all pairs; those with the same caption are right for each other."""
    network.eval().to(device)
    metric = PairRecallMetric()
    for image, tokens in _batches(network, pairs, device):
        metric.update(network.encode_image(image), network.encode_text(tokens), tokens)
    return metric.compute()


def _batches(network: MobileCLIP, folder: Path, device: Device) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images in 0..1 and tokens of their captions."""
    config = ReaderConfig(
        mode="clip",
        captions="real",
        image_size=network.image_size,
        context_length=network.context_length,
    )
    pairs = EvaluationPairs(read_index(folder), config, batch_size=BATCH_SIZE)
    for number in range(len(pairs)):
        batch = pairs[number]
        yield batch["image"].to(device).float() / 255, batch["tokens"].to(device)


def _tokens(network: MobileCLIP, texts: list[str], device: Device) -> Tensor:
    return tokenize(texts, context_length=network.context_length).to(device)

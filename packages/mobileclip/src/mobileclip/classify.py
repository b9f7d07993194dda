"""The verb `classify`: which of some labels fits a picture, for a first look at a model."""

import csv
from pathlib import Path

from rich.console import Console
from rich.table import Table


def classify(
    image: Path,
    *,
    checkpoint: Path,
    labels: list[str],
    template: str = "a photo of a {}.",
    ema: bool = True,
) -> None:
    """Print the probability of each label for one picture.

    Args:
        image: JPEG, PNG or WebP file.
        checkpoint: Checkpoint or run folder of `fit`, or a weights file.
        labels: Labels, as several words, each one label, or as one word with commas; a label that
            holds a comma is quoted in it: `--labels 'cat,red car,"a dog, asleep"'`.
        template: Prompt, {} for the label.
        ema: Take the moving average of the weights where the checkpoint has one.

    Raises:
        FileNotFoundError: The image is missing.
        ValueError: There are fewer than two labels, one comes twice, the file is no image, or there
            is no such checkpoint.
    """
    names = split_labels(labels)
    if not image.is_file():
        raise FileNotFoundError(f"there is no image {image}")
    table = Table("label", title=str(image))
    table.add_column("percent", justify="right")
    for name, share in _probabilities(image, checkpoint, names, template, ema):
        table.add_row(name, f"{100 * share:.1f}")
    Console(soft_wrap=True).print(table)


def split_labels(words: list[str]) -> list[str]:
    """Return the labels of one word such as `cat,dog`, read as a line of CSV, or of several words.

    Raises:
        ValueError: There are fewer than two, one comes twice, or a quotation does not end.
    """
    if len(words) == 1:
        try:
            (words,) = csv.reader(words, skipinitialspace=True, strict=True)
        except csv.Error as error:
            raise ValueError(
                f"labels {words[0]!r} cannot be split at commas: {error}; quote a label as a "
                'whole: cat,"a dog, asleep"'
            ) from error
    labels = [label.strip() for label in words if label.strip()]
    if len(labels) < 2 or len(set(labels)) < len(labels):
        raise ValueError(f"labels must be two or more different ones, got {', '.join(labels)}")
    return labels


def _probabilities(
    image: Path, checkpoint: Path, labels: list[str], template: str, ema: bool
) -> list[tuple[str, float]]:
    """Return labels and probabilities, likeliest first."""
    import torch

    from mobileclip.checkpoint import load_model
    from mobileclip.evaluation.embedding import Embedder
    from mobileclip.evaluation.images import FileImages, ModelInputs
    from tenfold import zero_shot

    model = load_model(checkpoint, ema=ema).eval()
    embedder = Embedder(model, device=torch.device("cpu"))
    inputs = ModelInputs(FileImages(image.parent, [image.name]), model.image_size)
    classes = zero_shot.class_embeddings(embedder.texts, labels, [template])
    logits = zero_shot.classify(embedder.images(inputs), classes, scale=model.scale().item())
    shares = logits.softmax(1)[0]
    order = shares.argsort(descending=True).tolist()
    return [(labels[index], shares[index].item()) for index in order]

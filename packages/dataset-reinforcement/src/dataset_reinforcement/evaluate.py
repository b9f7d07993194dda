"""The verb `evaluate`: accuracy, calibration and robustness of a checkpoint."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from torch import Tensor

from dataset_reinforcement.evaluation_images import evaluation_augment
from dataset_reinforcement.evaluation_report import plot_reliability, report
from dataset_reinforcement.robustness import EvaluationSet, Part, open_set
from dataset_reinforcement.scoring import Score, score_part
from dataset_reinforcement.set_scores import SetScore, averages
from dataset_reinforcement.student import load_student
from tenfold import atomic
from tenfold.augment.params import ViewParams
from tenfold.loader_workers import usable_workers

SCHEMA = 1
SMALL = 128
"""Images below this side are shown whole by default."""

_log = logging.getLogger(__name__)


def evaluate(
    ckpt: Path,
    *,
    sets: dict[str, str] | list[str],
    objectnet_mappings: Path | None = None,
    ema: bool = False,
    n_bins: int = 15,
    size: int | None = None,
    resize: int | None = None,
    batch_size: int = 256,
    workers: int = 4,
    device: str = "auto",
    bf16: bool = False,
    seed: int = 0,
    out: Path | None = None,
    plot: Path | None = None,
) -> None:
    """Measure accuracy, calibration and robustness of a checkpoint.

    Args:
        ckpt: Checkpoint or run folder of `fit`.
        sets: `name=images`, several. The names `v2`, `a`, `r`, `sketch`, `c` and `objectnet` stand
            for ImageNet's test sets with their own class rules; `corrupted` adds noise, blur and
            less contrast to the images given; any other name is a plain set, whose classes are
            found by name among those that the checkpoint was trained on.
        objectnet_mappings: ObjectNet's folder `mappings`; by default beside its images.
        ema: Evaluate the moving average of the weights.
        n_bins: Equal-width bins of the calibration error.
        size: Side of the images; by default the model's.
        resize: Side to which the shorter edge is scaled before the centre is cut out, 0 to scale
            the image as a whole; by default 256 for 224 and in proportion, 0 below 128 pixels.
        batch_size: Images of a batch.
        workers: Processes that read images.
        device: `auto`, `cpu`, `cuda` or `cuda:<number>`.
        bf16: Run the model under bfloat16 autocast.
        seed: Key of the noise of `corrupted`.
        out: JSON file of all figures.
        plot: PNG of the reliability of each set.

    Raises:
        FileNotFoundError: Images or mappings are missing.
        ValueError: An option is impossible, the checkpoint is none of `fit`, a set does not fit the
            model, or an image cannot be decoded.
    """
    _check_options(n_bins=n_bins, batch_size=batch_size, size=size, resize=resize, workers=workers)
    student = load_student(ckpt, ema=ema, device=device, bf16=bf16)
    opened = [
        open_set(
            name,
            images,
            num_classes=student.config.classes,
            classes=student.classes,
            mappings=objectnet_mappings,
            seed=seed,
        )
        for name, images in named_sets(sets).items()
    ]
    shown = _shown(size or student.config.image_size, resize)
    scorer = partial(
        score_part,
        student.logits,
        view=shown,
        num_classes=student.config.classes,
        num_bins=n_bins,
        batch_size=batch_size,
        workers=usable_workers(workers, option="workers"),
    )
    scores = [_score_set(each, scorer) for each in opened]
    Console().print(report(scores))
    if out is not None:
        atomic.write_json(out, _figures(scores, shown, n_bins=n_bins, ema=ema))
    if plot is not None:
        plot_reliability(scores, plot)


def named_sets(sets: Mapping[str, str] | Sequence[str]) -> dict[str, str]:
    """Return names and images of `name=images` words.

    Raises:
        ValueError: There is none, a word has another form, or a name comes twice.
    """
    if not sets:
        raise ValueError("sets is empty: give at least one as name=images, such as val=data/val")
    if isinstance(sets, Mapping):
        return dict(sets)
    named: dict[str, str] = {}
    for word in sets:
        name, _, images = word.partition("=")
        if not name or not images:
            raise ValueError(f"sets must be given as name=images, got {word!r}")
        if name in named:
            raise ValueError(f"sets has {name!r} twice: {named[name]} and {images}")
        named[name] = images
    return named


class _Shown(NamedTuple):
    """How an image is brought to the model's input; as an object it reaches other processes."""

    size: int
    resize: int | None

    def __call__(self, image: Tensor) -> Tensor:
        return evaluation_augment(self.size, resize=self.resize).apply(image, ViewParams())


def _shown(size: int, resize: int | None) -> _Shown:
    if resize is None:
        resize = round(size * 256 / 224) if size >= SMALL else 0
    if 0 < resize < size:
        raise ValueError(f"resize must be 0 or at least the size {size}, got {resize}")
    return _Shown(size, resize or None)


def _score_set(opened: EvaluationSet, scorer: Callable[[Part], Score]) -> SetScore:
    parts: dict[str, Score] = {}
    for part in opened.parts:
        parts[part.name] = scorer(part)
        if part.name:
            _log.info("%s %s: top-1 %.2f %%", opened.name, part.name, 100 * parts[part.name].top1)
    return SetScore(opened.name, opened.kind, parts)


def _check_options(**options: int | None) -> None:
    for name, value in options.items():
        least = 0 if name in ("workers", "resize") else 1
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def _figures(
    scores: Sequence[SetScore], shown: _Shown, *, n_bins: int, ema: bool
) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "ema": ema,
        "n_bins": n_bins,
        **shown._asdict(),
        "sets": {score.name: score.to_json() for score in scores},
        "averages": averages(scores),
    }

"""The verb `verify`: is a store whole, and does its teacher still say what is stored?"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from dataset_reinforcement.device import choose_device
from dataset_reinforcement.images import ImageSource, open_images
from dataset_reinforcement.store.columns import Reinforcement
from dataset_reinforcement.store.reading import Store
from dataset_reinforcement.teacher import Teacher, build_teacher
from dataset_reinforcement.teacher_config import TeacherConfig
from dataset_reinforcement.views import make_view
from tenfold import keyed
from tenfold.augment.mixing import to_float
from tenfold.augment.pipeline import Augment

TOLERANCE = {"fp32": 2e-3, "bf16": 3e-2}
"""Largest |dp| to expect from storage in half precision and from another device's rounding."""


_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Deviation:
    """How far the teacher's probabilities are from the stored ones.

    Attributes:
        largest: Largest |dp| by view, float32 `[n]`, over the stored classes.
        shuffled: The same where the view was made from the parameters of the image's next view;
            None for a store of one view.
    """

    largest: NDArray[np.float32]
    shuffled: NDArray[np.float32] | None

    def noticed(self, tolerance: float) -> float:
        """Return the share of shuffled views beyond the tolerance."""
        return 0.0 if self.shuffled is None else float((self.shuffled > tolerance).mean())


def verify(
    store: Path,
    images: str,
    teacher: TeacherConfig,
    *,
    sample: int = 256,
    tolerance: float | None = None,
    seed: int = 0,
    device: str = "cpu",
    allow_other_versions: bool = False,
) -> int:
    """Hash a store's files, and ask its teacher again about some of its views.

    The views are made from the stored parameters, as in training. As a check of the check, the same
    is done with parameters that belong to another view: this must be noticed.

    Args:
        store: Folder that `generate` made.
        images: The images that it was made from, see `generate`.
        teacher: The teacher that it was made with.
        sample: Number of views.
        tolerance: Largest accepted |dp|; by default 0.002 in fp32, 0.03 in bf16.
        seed: Keys the choice of views.
        device: `auto`, `cpu`, `cuda` or `cuda:<number>`.
        allow_other_versions: Go on under other library versions than the store was made with.

    Returns:
        1 when a file is damaged or a probability is beyond the tolerance, else 0.

    Raises:
        FileNotFoundError: Store, images or checkpoint are missing.
        ValueError: The images or the teacher are not the store's, or there is no such device.
    """
    if sample < 1:
        raise ValueError(f"sample must be >= 1, got {sample}")
    place = choose_device(device)
    opened, source = Store.open(Path(store)), open_images(images)
    console = Console(soft_wrap=True, markup=False)
    if damaged := opened.verify_checksums():
        console.print(f"{store}: {len(damaged)} files are damaged: {', '.join(damaged[:5])}")
        return 1
    opened.check_source(source, allow_other_versions=allow_other_versions)
    network = build_teacher(teacher, num_classes=len(source.classes), device=place)
    _check_teacher(opened, network)
    limit = TOLERANCE[teacher.precision] if tolerance is None else tolerance
    pairs = choose_pairs(opened, sample, seed=seed)
    found = measure(opened, source, network, pairs)
    largest, worst = float(found.largest.max()), pairs[int(found.largest.argmax())]
    console.print(
        f"{len(pairs)} views: largest |dp| {largest:.2e} (image {worst[0]}, view {worst[1]}), "
        f"tolerance {limit:g}: {'ok' if largest <= limit else 'beyond it'}"
    )
    console.print(_control(found, limit))
    return int(largest > limit)


def choose_pairs(store: Store, sample: int, *, seed: int) -> list[tuple[int, int]]:
    """Return `sample` different (image, view), or all if there are fewer, in order.

    Raises:
        ValueError: No image is reinforced.
    """
    images = [index for index in range(store.num_images) if store.is_reinforced(index)]
    if not images:
        raise ValueError(f"{store.path} reinforces no image: nothing can be verified")
    total = len(images) * store.num_views
    rng = keyed.generator("verify", seed)
    numbers = np.sort(rng.choice(total, size=min(sample, total), replace=False)).tolist()
    return [(images[n // store.num_views], n % store.num_views) for n in numbers]


def measure(
    store: Store, source: ImageSource, teacher: Teacher, pairs: Sequence[tuple[int, int]]
) -> Deviation:
    """Ask a teacher about stored views, and about views of shuffled parameters.

    Args:
        store: The store.
        source: Its images.
        teacher: Its teacher.
        pairs: Images and views.
    """
    augment = Augment(store.augment)
    right: list[float] = []
    shuffled: list[float] = []
    for start in range(0, len(pairs), teacher.batch):
        part = pairs[start : start + teacher.batch]
        stored = [store.read(image, view) for image, view in part]
        right += _deviations(augment, source, teacher, part, stored, stored)
        if store.num_views > 1:
            others = [store.read(image, (view + 1) % store.num_views) for image, view in part]
            shuffled += _deviations(augment, source, teacher, part, others, stored)
    return Deviation(
        np.array(right, dtype=np.float32),
        np.array(shuffled, dtype=np.float32) if shuffled else None,
    )


def _deviations(
    augment: Augment,
    source: ImageSource,
    teacher: Teacher,
    pairs: Sequence[tuple[int, int]],
    drawn: Sequence[Reinforcement],
    stored: Sequence[Reinforcement],
) -> list[float]:
    """Return the largest |dp| of each view made from `drawn` against what is `stored`."""
    made = [
        make_view(augment, source.load, entry.own, entry.mix, image)
        for (image, _), entry in zip(pairs, drawn, strict=True)
    ]
    views = torch.stack([to_float(v) if v.dtype == torch.uint8 else v for v in made])
    probabilities = teacher.probabilities(views).cpu().numpy()
    rows = zip(probabilities, stored, strict=True)
    return [float(np.abs(row[e.classes] - e.probabilities).max()) for row, e in rows]


def _check_teacher(store: Store, teacher: Teacher) -> None:
    if store.info.compat == "apple":
        _log.warning("official data do not tell their teacher's weights: the given one is believed")
        return
    stored, here = store.info.teacher.get("members", []), teacher.describe()["members"]
    if len(stored) != len(here):
        raise ValueError(
            f"the store's teacher has {len(stored)} members, the given one {len(here)}"
        )
    for number, (old, new) in enumerate(zip(stored, here, strict=True)):
        for name in new:
            if old.get(name) != new[name]:
                raise ValueError(
                    f"member {number} of the store's teacher has {name} {old.get(name)}, the given "
                    f"one {new[name]}: give the teacher that the store was made with"
                )


def _control(found: Deviation, tolerance: float) -> str:
    if found.shuffled is None:
        return "one view an image: whether shuffled parameters would be noticed cannot be told"
    median, share = float(np.median(found.shuffled)), found.noticed(tolerance)
    answer = "would be noticed" if share >= 0.5 else "might go unnoticed with this teacher"
    return f"shuffled parameters {answer}: {share:.0%} of views beyond it, median |dp| {median:.2e}"

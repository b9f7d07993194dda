"""The verb `verify`: is a store whole, and does its teacher still say what is stored?"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from dataset_reinforcement.generation_options import check_checkpoints
from dataset_reinforcement.images import ImageSource, open_images
from dataset_reinforcement.store.columns import Reinforcement
from dataset_reinforcement.store.reading import Store
from dataset_reinforcement.teacher import Teacher, build_teacher
from dataset_reinforcement.teacher_config import TeacherConfig
from dataset_reinforcement.views import make_view
from tenfold import keyed
from tenfold.augment.mixing import to_float
from tenfold.augment.pipeline import Augment
from tenfold.devices import choose_device

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
    every_image: bool = False,
    allow_other_versions: bool = False,
) -> int:
    """Hash a store's files, and ask its teacher again about some of its views.

    The views are made from the stored parameters, as in training. As a check of the check, the same
    is done with parameters that belong to another view: this must be noticed. The bytes of the
    images that are needed are compared with the recorded checksums.

    Args:
        store: Folder that `generate` made.
        images: The images that it was made from, see `generate`.
        teacher: The teacher that it was made with.
        sample: Number of views.
        tolerance: Largest accepted |dp|; by default 0.002 in fp32, 0.03 in bf16.
        seed: Keys the choice of views.
        device: `auto`, `cpu`, `cuda` or `cuda:<number>`.
        every_image: Compare the bytes of all images, which reads the whole data set.
        allow_other_versions: Go on under other library versions than the store was made with.

    Returns:
        1 when a file is damaged, an image of `every_image` changed, or a probability is beyond the
        tolerance, else 0.

    Raises:
        FileNotFoundError: Store, images or checkpoint are missing.
        ValueError: The images or the teacher are not the store's, an option is impossible, or there
            is no such device.
    """
    _check_options(sample, tolerance)
    check_checkpoints(teacher)
    place = choose_device(device)
    opened, source = Store.open(Path(store)), open_images(images)
    network = build_teacher(
        teacher, num_classes=len(opened.classes), classes=opened.classes, device=place
    )
    _check_teacher(opened, network)
    console = Console(soft_wrap=True, markup=False)
    if damaged := opened.verify_checksums():
        console.print(f"{store}: {len(damaged)} files are damaged: {', '.join(damaged[:5])}")
        return 1
    opened.check_source(source, allow_other_versions=allow_other_versions)
    if every_image and (changed := changed_images(opened, source)):
        named = ", ".join(map(repr, changed[:5]))
        console.print(f"{images}: {len(changed)} images have other bytes than recorded: {named}")
        return 1
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


def changed_images(store: Store, source: ImageSource) -> list[str]:
    """Read all images and return the keys of those with another checksum than is recorded.

    Raises:
        ValueError: None is recorded.
    """
    recorded = store.recorded.checksums
    if (recorded < 0).all():
        raise ValueError(
            f"{store.path} has no checksums of its images (imported, or made by an earlier "
            "version): leave every_image out"
        )
    known = np.flatnonzero(recorded >= 0).tolist()
    return [source.key(image) for image in known if source.checksum(image) != recorded[image]]


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
        right += _deviations(augment, store, source, teacher, part, stored, stored)
        if store.num_views > 1:
            others = [store.read(image, (view + 1) % store.num_views) for image, view in part]
            shuffled += _deviations(augment, store, source, teacher, part, others, stored)
    return Deviation(
        np.array(right, dtype=np.float32),
        np.array(shuffled, dtype=np.float32) if shuffled else None,
    )


def _deviations(
    augment: Augment,
    store: Store,
    source: ImageSource,
    teacher: Teacher,
    pairs: Sequence[tuple[int, int]],
    drawn: Sequence[Reinforcement],
    stored: Sequence[Reinforcement],
) -> list[float]:
    """Return the largest |dp| of each view made from `drawn` against what is `stored`."""
    made = [
        make_view(augment, partial(store.load, source), entry.own, entry.mix, image)
        for (image, _), entry in zip(pairs, drawn, strict=True)
    ]
    views = torch.stack([to_float(v) if v.dtype == torch.uint8 else v for v in made])
    probabilities = teacher.probabilities(views).cpu().numpy()
    rows = zip(probabilities, stored, strict=True)
    return [float(np.abs(row[e.classes] - e.probabilities).max()) for row, e in rows]


def _check_options(sample: int, tolerance: float | None) -> None:
    if sample < 1:
        raise ValueError(f"sample must be >= 1, got {sample}")
    if tolerance is not None and not 0 <= tolerance < math.inf:
        raise ValueError(f"tolerance must be >= 0, got {tolerance:g}")


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

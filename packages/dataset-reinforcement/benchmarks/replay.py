"""Replay of stored augmentations against torchvision's own random transforms (spec section 10).

For each step and for whole variants: median processor time to replay stored parameters, and to draw
and apply the same augmentation with `torchvision.transforms.v2`, on the same decoded photograph,
alternating in one process with one thread, as in a loader's worker. torchvision takes kinds of
operations in the order of the replayed ones, since their times differ a hundredfold. Mixed views
are made of two images; torchvision's peer augments two images as well, mixes them as a batch of two
by MixUp or CutMix, and gets two results of them: its time is per result. What replay saves (the
teacher) and costs (a second image to decode) elsewhere is not in these numbers.

    python benchmarks/replay.py [--size 224] [--views 60] [--runs 9]
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import cycle
from statistics import median
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torchvision.transforms import v2

from dataset_reinforcement.variants import VARIANTS, variant
from tenfold import keyed
from tenfold.augment.config import AugmentConfig
from tenfold.augment.magnitudes import OPS, PLAIN
from tenfold.augment.mixing import draw_mix, mix
from tenfold.augment.params import MixParams, Op, ViewParams
from tenfold.augment.pipeline import Augment
from tenfold.augment.randaugment import apply_ops
from tenfold.demo_data import photos
from tenfold.results import this_machine

Work = Callable[[], object]
Drawn = tuple[ViewParams, MixParams | None]


class Pair(NamedTuple):
    """The same augmentation twice: replayed, and by torchvision; work on `views` views each."""

    name: str
    ours: Work
    theirs: Work


class OneOperation(v2.RandAugment):
    """torchvision's RandAugment with one kind of operation."""

    def __init__(self, kind: str) -> None:
        super().__init__(num_ops=1)
        self._AUGMENTATION_SPACE = {kind: v2.RandAugment._AUGMENTATION_SPACE[kind]}


class SameOperations(v2.RandAugment):
    """torchvision's RandAugment with the kinds of operations of the given views, over and over."""

    def __init__(self, views: Sequence[ViewParams]) -> None:
        super().__init__()
        self._names = cycle([OPS[kind] for view in views for kind, _ in view.ops or ()])

    def _get_random_item(self, dct: dict[str, Any]) -> tuple[str, Any]:
        name = next(self._names)
        return name, dct[name]


def operations(view: Tensor, views: int) -> list[Pair]:
    """Return a pair for each operation of RandAugment, on a view of the output size."""
    pairs: list[Pair] = []
    for kind, name in enumerate(OPS):
        signs = [Op(kind, 0 if name in PLAIN else 9)] * views
        replay = partial(
            repeat, partial(apply_ops, view, config=AugmentConfig()), [(s,) for s in signs]
        )
        pairs.append(Pair(name, replay, partial(repeat, OneOperation(name), [view] * views)))
    return pairs


def steps(photo: Tensor, size: int, views: int) -> list[Pair]:
    """Return pairs for cropping, mirroring and erasing alone."""
    view = photo[:, :size, :size].contiguous()
    whole = AugmentConfig(size=size, crop="none", flip=0.0)
    cases = (
        ("crop", AugmentConfig(size=size, flip=0.0), photo, v2.RandomResizedCrop(size)),
        ("flip", replace(whole, flip=1.0), view, v2.RandomHorizontalFlip(1.0)),
        ("erase", replace(whole, erase=1.0), view, v2.RandomErasing(1.0)),
    )
    return [
        Pair(
            name,
            partial(repeat, partial(replay, Augment(config), image), draw(config, image, views)),
            partial(repeat, peer, [image] * views),
        )
        for name, config, image, peer in cases
    ]


def variants(photo: Tensor, size: int, views: int) -> list[Pair]:
    """Return a pair for each variant, of equal ones the first."""
    pairs: list[Pair] = []
    configs = [variant(name, size=size) for name in VARIANTS]
    for name, config in zip(VARIANTS, configs, strict=True):
        if name != list(VARIANTS)[configs.index(config)]:
            continue
        drawn = draw(config, photo, views)
        peer = torchvision_views(config, [own for own, _ in drawn])
        theirs = partial(repeat, peer, [photo] * views)
        if config.mixes:
            theirs = partial(repeat, partial(mixed_by_torchvision, peer), [photo] * (views // 2))
        ours = partial(repeat, partial(replay, Augment(config), photo), drawn)
        pairs.append(Pair(f"variant {name}", ours, theirs))
    return pairs


def draw(config: AugmentConfig, image: Tensor, views: int) -> list[Drawn]:
    """Draw the parameters of views and their partners."""
    augment, drawn = Augment(config), []
    height, width = image.shape[-2:]
    for view in range(views):
        rng = keyed.generator("replay", view)
        own, other = (augment.draw(rng, height, width) for _ in range(2))
        weight, box = draw_mix(rng, config)
        unmixed = weight is None and box is None
        drawn.append((own, None if unmixed else MixParams(0, other, weight, box)))
    return drawn


def replay(augment: Augment, image: Tensor, drawn: Drawn) -> Tensor:
    """Make one view, of two where it is mixed."""
    own, mixing = drawn
    view = augment.apply(image, own)
    if mixing is None:
        return view
    return mix(
        view,
        augment.apply(image, mixing.view),
        mixup=mixing.mixup,
        cutmix=mixing.cutmix,
        drawn_size=augment.config.size,
    )


def torchvision_views(config: AugmentConfig, views: Sequence[ViewParams]) -> v2.Compose:
    """Return torchvision's transforms of one image, with the views' kinds of operations."""
    crop: list[v2.Transform] = [v2.RandomResizedCrop(config.size)]
    if config.resize:
        crop = [v2.Resize(config.resize), v2.RandomCrop(config.size, padding=config.padding)]
    block = [SameOperations(views)] if config.rand_augment else []
    erase = [v2.RandomErasing(config.erase)] if config.erase else []
    return v2.Compose([*crop, v2.RandomHorizontalFlip(config.flip), *block, *erase])


MIXERS = v2.RandomChoice([v2.MixUp(num_classes=2), v2.CutMix(num_classes=2)])


def mixed_by_torchvision(peer: v2.Compose, image: Tensor) -> Tensor:
    """Make two mixed views."""
    batch = torch.stack([peer(image), peer(image)]).to(torch.float32) / 255
    return MIXERS(batch, torch.tensor([0, 1]))[0]


def repeat(work: Callable[..., object], inputs: Sequence[object]) -> None:
    """Do the work on each input."""
    for value in inputs:
        work(value)


def seconds(work: Work) -> float:
    """Return the processor time of the work."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", type=int, default=224, help="Side of a view.")
    parser.add_argument("--views", type=int, default=60, help="Views of a run.")
    parser.add_argument("--runs", type=int, default=9, help="Runs of each, alternating.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    photo = torch.from_numpy(photos.load("china")[:375, :500].copy()).permute(2, 0, 1).contiguous()
    view = v2.functional.resize(photo, [options.size, options.size])
    table = Table("augmentation", "replay us", "torchvision us", "ratio")
    for pair in (
        *operations(view, options.views),
        *steps(photo, options.size, options.views),
        *variants(photo, options.size, options.views),
    ):
        times = [(seconds(pair.ours), seconds(pair.theirs)) for _ in range(options.runs + 1)][1:]
        ours, theirs = (median(column) / options.views * 1e6 for column in zip(*times, strict=True))
        # The ratio of each pair of neighbouring runs, so that a slow moment does not count once.
        ratio = median(mine / peer for mine, peer in times)
        table.add_row(pair.name, f"{ours:,.0f}", f"{theirs:,.0f}", f"{ratio:.2f}")
    console = Console(soft_wrap=True)
    console.print(f"{this_machine()}; medians of {options.runs} runs of {options.views} views")
    console.print(f"{options.size} px from 500 x 375, one thread, CPU time, us a view")
    console.print(table)


if __name__ == "__main__":
    main()

"""The verb `inspect`: a picture of views with their labels, and how sure the teacher is."""

import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console

from dataset_reinforcement.images import ImageSource, open_images
from dataset_reinforcement.store.reading import Store
from dataset_reinforcement.views import make_view
from tenfold import atomic, keyed
from tenfold.augment.pipeline import Augment

_SHOWN_LABELS = 3
_NAME_LENGTH = 22
_HISTOGRAM_IMAGES = 2000


def inspect(
    store: Path,
    images: str,
    out: Path,
    *,
    index: list[int] | None = None,
    views: int = 4,
    allow_partial: bool = False,
    allow_other_versions: bool = False,
) -> None:
    """Draw images, their first views and the teacher's labels, and a histogram of entropies.

    A row's name turns red where the teacher's first choice is never the data set's label.

    Args:
        store: Folder of the store.
        images: The images that it was made from, see `generate`.
        out: PNG file to write.
        index: Images to show; by default four, drawn.
        views: Views of each image.
        allow_partial: Also show a store that is not finished.
        allow_other_versions: Go on under other library versions than the store was made with.

    Raises:
        FileNotFoundError: Store or images are missing.
        ValueError: The images are not those of the store, or an index does not exist or has no
            views.
    """
    opened, source = Store.open(Path(store), allow_partial=allow_partial), open_images(images)
    opened.check_source(source, allow_other_versions=allow_other_versions)
    if views < 1:
        raise ValueError(f"views must be >= 1, got {views}")
    shown = _shown(opened, index)
    figure = draw_sheet(opened, source, shown, views=min(views, opened.num_views))
    with atomic.open_atomic(Path(out)) as file, warnings.catch_warnings():
        # Names in scripts that the font lacks: boxes, with a warning for each glyph and each pass.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
        figure.savefig(file, format="png", dpi=110)
    Console(markup=False).print(f"{out}: images {', '.join(map(str, shown))}", soft_wrap=True)


def draw_sheet(store: Store, source: ImageSource, shown: Sequence[int], *, views: int) -> Figure:
    """Return the sheet: a row an image, the histogram below."""
    rows = len(shown) + 1
    figure = Figure(figsize=(2.4 * (views + 1), 2.7 * rows), layout="constrained")
    grid = figure.add_gridspec(rows, views + 1)
    for row, index in enumerate(shown):
        cells = [figure.add_subplot(grid[row, column]) for column in range(views + 1)]
        _draw_row(cells, store, source, index)
    _draw_histogram(figure.add_subplot(grid[rows - 1, :]), store, shown)
    return figure


def sampled_entropies(store: Store) -> NDArray[np.float32]:
    """Return the entropies of all views of at most 2,000 images, evenly spread, nats."""
    images = [index for index in range(store.num_images) if store.is_reinforced(index)]
    step = max(1, len(images) // _HISTOGRAM_IMAGES)
    return np.concatenate([store.entropies(index) for index in images[::step]]).astype(np.float32)


def _shown(store: Store, index: list[int] | None) -> list[int]:
    if index is None:
        images = [number for number in range(store.num_images) if store.is_reinforced(number)]
        if not images:
            raise ValueError(f"{store.path} reinforces no image: nothing can be shown")
        rng = keyed.generator("inspect")
        return sorted(rng.choice(images, size=min(4, len(images)), replace=False).tolist())
    for number in index:
        if not 0 <= number < store.num_images:
            raise ValueError(f"index must lie in 0..{store.num_images - 1}, got {number}")
        if not store.is_reinforced(number):
            raise ValueError(f"image {number} is not reinforced: choose another index")
    return index


def _draw_row(cells: Sequence[Axes], store: Store, source: ImageSource, index: int) -> None:
    load, augment = partial(store.load, source), Augment(store.augment)
    image, label = load(index), source.label(index)
    agrees = False
    for view, cell in enumerate(cells[1:]):
        entry = store.read(index, view)
        pixels = make_view(augment, load, entry.own, entry.mix, index)
        _show(cell, pixels.permute(1, 2, 0).numpy())
        agrees |= int(entry.classes[0]) == label
        labels = zip(entry.classes.tolist(), entry.probabilities.tolist(), strict=True)
        lines = [f"{_short(store.classes[c])} {p:.2f}" for c, p in list(labels)[:_SHOWN_LABELS]]
        cell.set_title("\n".join(lines), fontsize=7)
    _show(cells[0], image.permute(1, 2, 0).numpy())
    name = f"{index}: {_short(source.key(index))}\n{_short(store.classes[label])}"
    cells[0].set_title(name, fontsize=7, color="black" if agrees else "red")


def _draw_histogram(cell: Axes, store: Store, shown: Sequence[int]) -> None:
    most = float(np.log(len(store.classes)))
    cell.hist(sampled_entropies(store), bins=40, range=(0, 1.01 * most), color="0.7")
    for index in shown:
        cell.axvline(float(store.entropies(index).mean()), color="tab:blue", linewidth=1)
    cell.set_xlabel("entropy of the label, nats (lines: the images above)", fontsize=8)
    cell.set_ylabel("views", fontsize=8)


def _show(cell: Axes, pixels: NDArray[np.generic]) -> None:
    cell.imshow(pixels)
    cell.set_axis_off()


def _short(name: str) -> str:
    # A dollar sign would begin a formula.
    text = name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH - 1]}…"
    return text.replace("$", r"\$")

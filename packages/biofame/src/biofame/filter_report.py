"""The verb `filters`: how much each block's filter does, and at which frequencies (spec 2.2).

Filters start with |K| near 0.02 and may stay so weak that a block is little but its feed-forward
layer. And as `pool` picks one filter for all frequencies, its gain is the same at each of them.

Shapes: B windows, C channels, L samples, N tokens, F = N // 2 + 1 frequencies, D width.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from biofame.store import SignalStore, open_store
from tenfold import atomic

if TYPE_CHECKING:
    from torch import Tensor

    from biofame.encoder import FilterBlock
    from biofame.model import BioFame


class BlockReport(NamedTuple):
    """What the filter of one block does to given windows.

    Attributes:
        gain: ||Filter(u)|| / ||u||, u being what the layer is given.
        share: ||what is added|| / ||x||, x being the tokens that it is added to.
        frequencies: Of the tokens' spectrum, in Hz, `[F]`.
        response: Root mean square gain at each of them, `[F]`.
    """

    gain: float
    share: float
    frequencies: NDArray[np.float64]
    response: NDArray[np.float64]

    @property
    def selectivity(self) -> float:
        """Deviation of the gain over frequencies, relative to its mean; 0 prefers none."""
        return float(self.response.std() / self.response.mean())


def filters(run: Path, data: Path, *, out: Path | None = None, windows: int = 64) -> None:
    """Print how much the filter of each block does, and plot its gain over frequencies.

    Args:
        run: Run folder or checkpoint.
        data: Store of windows to look at; those of its commonest length are used.
        out: Plot to write, `.png`.
        windows: Windows to use at most, spread evenly over the store.

    Raises:
        ValueError: There is no such checkpoint or store, or the model attends and has no filters.
    """
    if out is not None and out.suffix != ".png":
        raise ValueError(f"out must end in .png, got {out}")
    import torch

    from biofame.weights import load_network

    store = open_store(data)
    rows = choose_rows(store, windows)
    samples = torch.from_numpy(store.samples[rows][..., : store.lengths[rows[0]]])
    network = load_network(run)
    reports = filter_report(
        network,
        samples,
        channels=store.info.channels,
        rate=store.info.rate,
        present_BC=torch.from_numpy(store.present[rows]),
    )
    operator = network.config.operator
    table = show(reports, title=f"Filters ({operator}) over {len(rows)} windows of {data}")
    Console(soft_wrap=True).print(table)
    if out is not None:
        plot(out, reports, title=f"operator {operator}")


def filter_report(
    network: "BioFame",
    samples_BCL: "Tensor",
    *,
    channels: Sequence[str] | None = None,
    rate: float | None = None,
    present_BC: "Tensor | None" = None,
) -> list[BlockReport]:
    """Return what each block's filter does to windows.

    Args:
        network: In evaluation mode.
        samples_BCL: Windows.
        channels: Names of their channels, by default the network's.
        rate: Samples per second, by default the network's.
        present_BC: Which channels a window has, all by default; absent ones are left out.

    Raises:
        ValueError: The network attends and has no filters.
    """
    import torch

    from biofame.encoder import FilterBlock

    config = network.config
    if config.mixing != "filter":
        raise ValueError(f"model.mixing {config.mixing} has no filters to report on")
    rate = network.rate_of(rate)
    reports = []
    with torch.inference_mode():
        cut = network.cut(samples_BCL, network.rows(samples_BCL, channels))
        x = network.tokenizer(cut.patches)
        if network.encoder.positions is not None:
            x = x + network.encoder.positions(x.shape[2], rate=rate)
        x = x.flatten(0, 1) if present_BC is None else x[present_BC]
        for block in network.encoder.blocks:
            assert isinstance(block, FilterBlock)
            reports.append(_block_report(block, x, config.patch, rate))
            x = block(x, rate=rate)
    return reports


def choose_rows(store: SignalStore, most: int) -> NDArray[np.int64]:
    """Return at most `most` windows of the commonest length, spread evenly.

    Raises:
        ValueError: `most` is below 1, or the store is empty.
    """
    if most < 1:
        raise ValueError(f"windows must be >= 1, got {most}")
    if not len(store):
        raise ValueError(f"{store.folder} holds no windows")
    lengths, counts = np.unique(store.lengths, return_counts=True)
    rows = np.flatnonzero(store.lengths == lengths[counts.argmax()])
    return rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(np.int64)]


def show(reports: Sequence[BlockReport], *, title: str) -> Table:
    """Lay out the figures."""
    table = Table("block", title=title)
    headings = ("|Filter(u)|/|u|", "|added|/|x|", "strongest at Hz", "selectivity")
    for heading in headings:
        table.add_column(heading, justify="right")
    for number, block in enumerate(reports):
        peak = f"{block.frequencies[block.response.argmax()]:.3g}"
        figures = (f"{block.gain:.4g}", f"{block.share:.4g}", peak, f"{block.selectivity:.3g}")
        table.add_row(str(number), *figures)
    return table


def plot(path: Path, reports: Sequence[BlockReport], *, title: str) -> None:
    """Draw each block's gain over frequencies."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    for number, block in enumerate(reports):
        label = f"block {number}, adds {block.share:.3g} of |x|"
        axes.plot(block.frequencies, block.response, label=label)
    axes.set(xlabel="Hz", ylabel="gain", ylim=(0, None), title=title)
    axes.legend()
    with atomic.open_atomic(path) as file:
        figure.savefig(file, format="png", dpi=120)


def _block_report(
    block: "FilterBlock", tokens_BND: "Tensor", patch: int, rate: float
) -> BlockReport:
    import torch

    given = tokens_BND if block.post_norm else block.filter_norm(tokens_BND)
    filtered = block.filter(given, rate=rate)
    added = block.filter_norm(filtered) if block.post_norm else filtered
    length = tokens_BND.shape[1]
    spectrum_BFD = torch.fft.rfft(given.float(), dim=1, norm="ortho")
    response = block.filter.response(spectrum_BFD, length, rate=rate).abs().square()
    response_F = response.expand(spectrum_BFD.shape).mean(dim=(0, 2)).sqrt()
    return BlockReport(
        gain=float(filtered.norm() / given.norm()),
        share=float(added.norm() / tokens_BND.norm()),
        frequencies=np.arange(length // 2 + 1, dtype=np.float64) * (rate / (patch * length)),
        response=response_F.double().numpy(),
    )

"""The verb `reparam`: fold a checkpoint for inference, and check that folding is exact."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from mobileclip.models.fold import FoldReport

LARGEST_DIFFERENCE = 1e-12
"""Of outputs in float64."""


def reparam(
    checkpoint: Path, out: Path, *, check: bool = False, ema: bool = True, seed: int = 0
) -> None:
    """Fold every branch and batch normalisation into single convolutions and write the weights.

    Args:
        checkpoint: Checkpoint or run folder of `fit`, or a weights file.
        out: safetensors file to write; the other verbs take it as a checkpoint.
        check: First fold a copy with random statistics in float64 and print the largest difference
            of each kind of block; nothing is written when one is not exact.
        ema: Fold the moving average of the weights where the checkpoint has one.
        seed: Key of the random statistics.

    Raises:
        ValueError: There is no such checkpoint, `out` is no safetensors file, the model is folded
            already, or folding is not exact.
    """
    if out.suffix != ".safetensors":
        raise ValueError(f"out must be a .safetensors file, got {out}")
    from mobileclip.checkpoint import load_model
    from mobileclip.models.fold import check_fold, fold, is_folded, num_parameters
    from mobileclip.models.keymap import save_weights

    model = load_model(checkpoint, ema=ema).eval()
    if is_folded(model):
        raise ValueError(f"{checkpoint} is folded already")
    console = Console(soft_wrap=True)
    if check:
        report = check_fold(model, seed=seed)
        console.print(table(report))
        _require_exact(report)
    folded = fold(model)
    save_weights(folded, out, layout="ours")
    counts = f"{num_parameters(model):,} parameters before, {num_parameters(folded):,} after"
    console.print(f"{out}: {counts}", highlight=False)


def table(report: "FoldReport") -> Table:
    """Lay out a report."""
    shown = Table("block", title="Largest difference in float64, statistics at random")
    shown.add_column("blocks", justify="right")
    shown.add_column("difference", justify="right")
    kinds = [block.kind for block in report.blocks]
    for kind, difference in report.by_kind().items():
        shown.add_row(kind, str(kinds.count(kind)), f"{difference:.1e}")
    shown.add_section()
    shown.add_row("image embedding", "", f"{report.image:.1e}")
    shown.add_row("text embedding", "", f"{report.text:.1e}")
    shown.add_row("batch normalisations left", "", str(report.batchnorms_left))
    return shown


def _require_exact(report: "FoldReport") -> None:
    if report.batchnorms_left or not report.max_abs_diff <= LARGEST_DIFFERENCE:
        raise ValueError(
            f"folding is not exact: differences up to {report.max_abs_diff:.1e}, "
            f"{report.batchnorms_left} batch normalisations left; nothing was written"
        )

"""The verb `calibrate`: whether the predicted variances of a transformation are true."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fastfill.evaluation.arms import load_arms
from fastfill.evaluation.calibration import calibration, item_losses, plot_calibration
from fastfill.feature_cache import read_cache
from tenfold import atomic
from tenfold.devices import choose_device


def calibrate(
    features: Path,
    h: list[Path],
    *,
    out: Path,
    bins: int = 10,
    mu_sim: float = 1.0,
    mu_disc: float = 1.0,
    label_smoothing: float = 0.1,
    device: str = "auto",
) -> None:
    """Compare predicted log-variances s with the true loss and residual of each item.

    Args:
        features: Folder that `cache-features` wrote, of items that h was not trained on.
        h: Transformations.
        out: Folder for `calibration.json` and a PNG plot for each transformation.
        bins: Bins of equally many items.
        mu_sim: Weight of the similarity, as h was trained.
        mu_disc: Weight of the cross-entropy, as h was trained; without labels or a classifier of
            the new model the loss is the similarity alone.
        label_smoothing: As h was trained.
        device: Where h runs.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: h is of other models than the cache, or there is none.
    """
    if not h:
        raise ValueError("h is empty: give at least one transformation")
    cache = read_cache(features)
    new = cache.new()
    found: dict[str, Any] = {}
    table = Table("h", "Spearman of s and loss", "of s and residual", "error of log10 exp(s)")
    for arm in load_arms(cache, h, device=str(choose_device(device))):
        assert arm.s is not None
        losses = item_losses(
            arm.z,
            new,
            cache.labels,
            cache.head,
            mu_sim=mu_sim,
            mu_disc=mu_disc,
            label_smoothing=label_smoothing,
        )
        each = calibration(arm.s, losses, item_losses(arm.z, new), num_bins=bins)
        plot_calibration(each, out / f"{Path(arm.name).name}.png")
        found[arm.name] = each.to_json()
        figures = (each.spearman_loss, each.spearman_residual, each.expected_error)
        table.add_row(arm.name, *(f"{value:.3f}" for value in figures))
    atomic.write_json(out / "calibration.json", found)
    Console(soft_wrap=True).print(table)

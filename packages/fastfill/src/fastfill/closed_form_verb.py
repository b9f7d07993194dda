"""The verb `fit-closed-form`: a linear map from old to new vectors, without training."""

from pathlib import Path
from typing import Literal

from rich.console import Console

from fastfill.card import TransformCard, probe_of, vector_stats
from fastfill.closed_form import fit_linear
from fastfill.feature_cache import read_cache
from fastfill.weights import save_transformation


def fit_closed_form(
    features: Path,
    out: Path,
    *,
    kind: Literal["linear", "ridge", "procrustes"] = "ridge",
    ridge: float = 1.0,
) -> None:
    """Fit a linear map to cached features and write it as a file that replaces h.

    It has no uncertainty: order a gallery made with it by `random` or `entropy`.

    Args:
        features: Folder that `cache-features` made.
        out: File to write, `.safetensors`.
        kind: Least squares, with a penalty (`ridge`), or a rotation and a shift (`procrustes`).
        ridge: Weight of the penalty.

    Raises:
        ValueError: `out` is no `.safetensors` file, or the features are too few.
    """
    if out.suffix != ".safetensors":
        raise ValueError(f"out must end in .safetensors, got {out}")
    cache = read_cache(features)
    old, cards = cache.old(), cache.cards
    linear = fit_linear(old, cache.new(), kind=kind, ridge=ridge)
    card = TransformCard(
        old=cards.old,
        new=cards.new,
        inner=0,
        kind=kind,
        old_stats=vector_stats(old),
        probe=probe_of(old),
        training_data=str(features),
    )
    save_transformation(out, linear, card)
    Console(markup=False, soft_wrap=True).print(
        f"{out}: {kind} map, {cards.old.dim} to {cards.new.dim} dimensions, {len(cache):,} items"
    )

"""The verb `fairness`: quality by group of items along the backfill."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from fastfill.curve_verb import groups_of, policies_of
from fastfill.evaluation.arms import Evaluation, Tables, load_arms
from fastfill.evaluation.fairness import write_fairness
from fastfill.evaluation.report import Series
from fastfill.feature_cache import read_cache


def fairness(
    features: Path,
    *,
    out: Path,
    h: list[Path] | None = None,
    groups: Path | None = None,
    order: str = "sigma,quota,random",
    measure: str = "map",
    steps: int = 20,
    seeds: int = 5,
    metric: str = "auto",
    queries: int = 0,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Report how quality of groups of queries comes together during the backfill.

    Args:
        features: Folder that `cache-features` wrote.
        out: Folder for `fairness.csv`, `fairness.png` and `fairness.json`.
        h: Transformations; without one the old embeddings stay as they are.
        groups: CSV file `id,group`; else the cache's own groups.
        order: Policies, with commas; see `curve`.
        measure: `map` or `cmc<k>`, as cmc1.
        steps: Points between none and all.
        seeds: Permutations of the random order.
        metric: `l2`, `cosine`, `ip`, or `auto` for the new model's.
        queries: Items that are queries, drawn at random; 0 for all.
        seed: Of queries and random orders.
        device: Where distances are computed.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: An option does not fit the cache.
    """
    policies = policies_of(order, seeds)
    cache = read_cache(features)
    of_item = groups_of(cache, groups)
    evaluation = Evaluation(
        cache, metric=metric, queries=queries, seed=seed, steps=steps, device=device
    )
    series: list[Series] = []
    for arm in load_arms(cache, h or [], device=evaluation.device):
        series += evaluation.series(arm, policies, seeds=seeds, tables=Tables(groups=of_item))
    found = write_fairness(out, series, list(of_item[evaluation.rows]), metric=measure)
    table = Table("series", "mean gap", "gap at 30 %", title=f"Gap in {measure}, points")
    for name, each in found["series"].items():
        table.add_row(
            name, *(f"{100 * each[key]:.2f}" for key in ("mean_gap", "gap_at_30_percent"))
        )
    Console(soft_wrap=True).print(table)

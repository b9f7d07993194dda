"""The verb `curve`: quality against backfilled share of transformations and orders."""

from pathlib import Path

import numpy as np
from rich.console import Console

from fastfill.evaluation.arms import (
    Arm,
    Evaluation,
    Tables,
    load_arms,
    read_by_id,
    read_numbers,
    series_of,
)
from fastfill.evaluation.distances import Space
from fastfill.evaluation.rank_merge import fit_calibration, merge_curves
from fastfill.evaluation.report import Series, write_report
from fastfill.evaluation.sequence import sequence_arm
from fastfill.feature_cache import FeatureCache, read_cache
from fastfill.ordering import OrderInputs, needs
from fastfill.ordering import order as order_of


def curve(
    features: Path,
    *,
    out: Path,
    h: list[Path] | None = None,
    order: str = "sigma,random",
    steps: int = 20,
    seeds: int = 5,
    metric: str = "auto",
    ks: tuple[int, ...] = (1, 5),
    queries: int = 0,
    seed: int = 0,
    hits: Path | None = None,
    groups: Path | None = None,
    column: Path | None = None,
    merge: Path | None = None,
    earlier: list[Path] | None = None,
    vintages: Path | None = None,
    device: str = "auto",
) -> None:
    """Draw backfilling curves of cached features, as CSV, PNG, JSON and a table.

    The cached items are queries and gallery; each query is left out of its own ranking. Published
    areas are the mean of the points; the area by trapezoids stands beside it.

    Args:
        features: Folder that `cache-features` wrote.
        out: Folder for `curves.csv`, `curves.png`, `summary.json` and `summary.md`.
        h: Transformations, each an arm; without one the old embeddings stay as they are, as with
            compatible training.
        order: Policies, with commas: sigma, random, distance, confidence, old_entropy, entropy,
            kcenter, traffic, quota, column.
        steps: Points between none and all.
        seeds: Permutations of the random order.
        metric: `l2`, `cosine`, `ip`, or `auto` for the new model's.
        ks: Sizes of result lists for CMC.
        queries: Items that are queries, drawn at random; 0 for all.
        seed: Of queries and random orders.
        hits: CSV file `id,hits` for `traffic`.
        groups: CSV file `id,group` for `quota`; else the cache's own groups.
        column: CSV file `id,value` for `column`.
        merge: Cached features of training items: adds the baseline of two indexes whose lists are
            merged by distances calibrated there, in random order.
        earlier: Cached features of the same items from earlier updates, for a gallery of several
            old models; `h` then names the maps of all steps, which are chained. No update is then
            what the last of the old models gives when all items are its.
        vintages: CSV file `id,vintage` with the name of each item's old model, for `earlier`.
        device: Where distances are computed.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: An option does not fit the cache.
    """
    policies = policies_of(order, seeds)
    cache = read_cache(features)
    evaluation = Evaluation(
        cache, metric=metric, ks=ks, queries=queries, seed=seed, steps=steps, device=device
    )
    tables = Tables(
        hits=None if hits is None else read_numbers(hits, cache.ids, "hits"),
        groups=groups_of(cache, groups) if "quota" in policies or groups else None,
        column=None if column is None else read_numbers(column, cache.ids, "value"),
    )
    arms = _arms(cache, h or [], earlier, vintages, policies, device=evaluation.device)
    series: list[Series] = []
    for arm in arms:
        series += evaluation.series(arm, policies, seeds=seeds, tables=tables)
    if merge is not None:
        series += _merged(evaluation, read_cache(merge), seeds)
    table = write_report(out, series, old=evaluation.before)
    Console(soft_wrap=True, markup=False).print(table, end="")


def _arms(
    cache: FeatureCache,
    h: list[Path],
    earlier: list[Path] | None,
    vintages: Path | None,
    policies: list[str],
    *,
    device: str,
) -> list[Arm]:
    """Return an arm for each map, or the one of a sequence of updates."""
    if (earlier is None) != (vintages is None):
        raise ValueError("earlier and vintages belong together: give both or none")
    if earlier is None or vintages is None:
        return load_arms(cache, h, device=device)
    if by_old := [policy for policy in policies if "old" in needs(policy)]:
        raise ValueError(
            f"order {by_old[0]} asks one old model, and a sequence has several: choose another"
        )
    names = read_by_id(vintages, cache.ids, "vintage")
    return [sequence_arm([*map(read_cache, earlier), cache], h, names, device=device)]


def policies_of(order: str, seeds: int) -> list[str]:
    """Return the policies of a list with commas.

    Raises:
        ValueError: One is unknown or there twice, or `seeds` is below 1.
    """
    policies = [name.strip() for name in order.split(",")]
    for name in policies:
        needs(name)
    if len(set(policies)) < len(policies):
        raise ValueError(f"order names a policy twice: {order}")
    if seeds < 1:
        raise ValueError(f"seeds must be >= 1, got {seeds}")
    return policies


def groups_of(cache: FeatureCache, path: Path | None) -> np.ndarray:
    """Return the group of each cached item, from a file or the cache itself.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: It lacks an item, or neither it nor the cache has groups.
    """
    if path is not None:
        return np.array(read_by_id(path, cache.ids, "group"))
    if cache.groups is None:
        raise ValueError("the cached items have no groups: give groups, a CSV file with id,group")
    return np.array(cache.groups)


def _merged(evaluation: Evaluation, training: FeatureCache, seeds: int) -> list[Series]:
    rows, old_metric = evaluation.rows, evaluation.cache.cards.old.metric
    spaces = [
        Space(evaluation.old[rows], evaluation.old, old_metric),
        Space(evaluation.new[rows], evaluation.new, evaluation.metric),
    ]
    calibrations = [
        fit_calibration(vectors, training.labels, metric=space.metric)
        for space, vectors in zip(spaces, (training.old(), training.new()), strict=True)
    ]
    orders = {
        "random": [
            order_of("random", OrderInputs(size=evaluation.size, seed=evaluation.seed + number))
            for number in range(seeds)
        ]
    }
    drawn = merge_curves(
        *spaces,
        labels=evaluation.labels,
        orders={f"random {number}": each for number, each in enumerate(orders["random"])},
        calibrations=(calibrations[0], calibrations[1]),
        query_labels=evaluation.labels[rows],
        self_rows=rows,
        steps=evaluation.steps,
        ks=evaluation.ks,
        before=evaluation.before,
        device=evaluation.device,
    )
    return series_of("rank merge", orders, drawn)

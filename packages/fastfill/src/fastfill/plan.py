"""The verb `plan`: set the order of a backfill and say what it will cost and bring.

The order comes from what the gallery holds already; the new model is not called (spec 2.5).
"""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from fastfill.card import ModelCard, check_same
from fastfill.forecast import Cost, Forecast, costs, forecast_from_s, stop_share
from fastfill.gallery import Gallery, GalleryReader, Status, Version
from fastfill.gallery.progress import speed
from fastfill.gallery.state import NO_VINTAGE
from fastfill.gallery.status import PLAN
from fastfill.ordering import OrderInputs, needs
from fastfill.ordering import order as order_of
from tenfold import atomic

PICTURE = "plan.png"
SCHEMA = 1


def plan(
    gallery: Path,
    *,
    order: str = "sigma",
    seed: int = 0,
    img_per_s: float = 0.0,
    stop_gain: float = 0.0,
    head: str | None = None,
    old_head: str | None = None,
    hits: Path | None = None,
    groups: Path | None = None,
    column: Path | None = None,
    features: Path | None = None,
    h: Path | None = None,
    device: str = "auto",
) -> None:
    """Set the order of a gallery's backfill; print cost, expected quality and when to stop.

    Without `features` the expected quality is the share of predicted loss that is gone, from the
    variances alone. Writes `plan.json` and `plan.png` into the gallery.

    Args:
        gallery: Folder that `init-gallery` wrote.
        order: sigma, random, confidence, old_entropy, entropy, kcenter, traffic, quota or column.
        seed: Of the random order.
        img_per_s: Items that the new model embeds a second; 0 for the backfill's late speed.
        stop_gain: Advise to stop where the rest would add less than this to the quality, which
            lies in 0..1; 0 to go on to the end.
        head: The new model's classifier for `entropy`: an `.npy` `[K, d_n]`, or the model.
        old_head: The old model's for `confidence` and `old_entropy`, likewise.
        hits: CSV file `id,hits` for `traffic`.
        groups: CSV file `id,group` for `quota`.
        column: CSV file `id,value` for `column`.
        features: Cached features of labelled items of the same models: the curve of mean average
            precision measured there is the expected quality. Needs `h`.
        h: The map, for `features`.
        device: Where the curve is measured.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: The order is unknown or lacks what it needs, the gallery is finalised or being
            written, or `features` are of other models.
    """
    if order == "distance":
        raise ValueError("order distance needs the new embeddings; it is for `curve` alone")
    needs(order)  # says which orders there are
    if not 0 <= img_per_s < float("inf"):
        raise ValueError(f"img_per_s must be >= 0, got {img_per_s}")
    if (features is None) != (h is None):
        raise ValueError("features and h go together: give both or neither")
    gallery = Path(gallery)
    files = {"hits": hits, "groups": groups, "column": column}
    instead = "End serve and backfill, plan, and start them again: they go on where they were"
    with Gallery.open_alone(gallery, instead=instead) as open_gallery:
        open_gallery.apply_pending()
        rows = _plannable(open_gallery)
        inputs = _inputs(open_gallery, rows, order, files, head=head, old_head=old_head, seed=seed)
        ordered = rows[order_of(order, inputs)]
        expected = from_s = _from_s(open_gallery, ordered)
        if features is not None and h is not None:
            measured = measured_forecast(
                open_gallery.state.cards, features, h, order, files, seed=seed, device=device
            )
            expected = measured.among(len(rows), live=open_gallery.counts().live)
        stop = stop_share(expected, stop_gain)
        open_gallery.set_order(ordered)
        counts = open_gallery.counts()
        late = speed(gallery)
    rate = img_per_s or (late.rate if late is not None else None)
    table = costs(
        expected, live=counts.live, new=counts.new, waiting=counts.waiting, img_per_s=rate
    )
    content = {
        "schema": SCHEMA,
        "order": order,
        "seed": seed,
        "live": counts.live,
        "new": counts.new,
        "waiting": counts.waiting,
        "img_per_s": rate,
        "quality": expected.metric,
        "predicted": expected.pairs(),
        "predicted_loss_removed": from_s.pairs(),
        "costs": [asdict(cost) for cost in table],
        "stop": {"gain": stop_gain, "share": stop} if stop_gain else None,
    }
    atomic.write_json(gallery / PLAN, content)
    _draw(gallery / PICTURE, [expected] if expected is from_s else [expected, from_s], stop)
    _say(gallery, content, table)


def measured_forecast(
    cards: Any,
    features: Path,
    h: Path,
    order: str,
    files: dict[str, Path | None],
    *,
    seed: int,
    device: str,
) -> Forecast:
    """Return the curve of mean average precision that an order reaches on cached features.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: The features or the map are of other models than the gallery's.
    """
    from fastfill.evaluation.arms import Evaluation, Tables, load_arms
    from fastfill.feature_cache import read_cache

    cache = read_cache(features)
    if cache.cards.old.weights_sha256 not in {card.weights_sha256 for card in cards.old}:
        check_same(cards.old[0], cache.cards.old, what=f"old model of {features}")
    check_same(cards.new, cache.cards.new, what=f"new model of {features}")
    evaluation = Evaluation(cache, ks=(1,), seed=seed, device=device)
    tables = Tables(**_tables(cache.ids, order, files))
    (arm,) = load_arms(cache, [h], device=evaluation.device)
    (series,) = evaluation.series(arm, [order], seeds=5, tables=tables)
    values = np.mean([curve.values("map") for curve in series.curves], axis=0)
    return Forecast(series.curves[0].betas, values, "map")


def _plannable(gallery: GalleryReader) -> NDArray[np.int64]:
    """Return live rows that the old model has embedded, those with a new vector for a roll-back."""
    if gallery.state.phase == "final":
        raise ValueError(f"{gallery.folder} is finalised: nothing is left to plan")
    rows = (gallery.statuses() != Status.DELETED) & (gallery.vintages() != NO_VINTAGE)
    if not rows.any():
        raise ValueError(f"{gallery.folder} has no items that an old model has embedded")
    return np.flatnonzero(rows)


def _inputs(
    gallery: GalleryReader,
    rows: NDArray[np.int64],
    order: str,
    files: dict[str, Path | None],
    *,
    head: str | None,
    old_head: str | None,
    seed: int,
) -> OrderInputs:
    cards, wanted = gallery.state.cards, needs(order)
    old = None
    if wanted & {"old", "old_head"}:
        if len(cards.old) > 1:
            raise ValueError(
                f"order {order} is for one old model, the gallery has {len(cards.old)}"
            )
        old = gallery.column("old")[rows]
    with_z = "z" in wanted or head is not None
    return OrderInputs(
        size=len(rows),
        s=gallery.column("s")[rows],
        z=gallery.column("vec")[rows] if with_z else None,
        head=None if head is None else _head(head, cards.new, "head"),
        old=old,
        old_head=None if old_head is None else _head(old_head, next(iter(cards.old)), "old_head"),
        seed=seed,
        **_tables(gallery.id_of(rows), order, files),
    )


def _tables(ids: Sequence[str], order: str, files: dict[str, Path | None]) -> dict[str, Any]:
    """Return what files say about items that the order wants to know."""
    found: dict[str, Any] = {}
    for name in needs(order) & files.keys():
        path = files[name]
        if path is None:
            continue  # `order` says what is missing
        from fastfill.evaluation.arms import read_by_id, read_numbers

        if name == "groups":
            found[name] = np.array(read_by_id(path, ids, "group"))
        else:
            found[name] = read_numbers(path, ids, "hits" if name == "hits" else "value")
    return found


def _head(name: str, card: ModelCard, what: str) -> NDArray[np.floating]:
    """Return a classifier `[K, d]` from an array's file, or of a model that must be `card`'s."""
    if name.endswith(".npy"):
        array = np.load(name, allow_pickle=False)
        if array.ndim != 2 or array.shape[1] != card.dim or array.dtype.kind != "f":
            raise ValueError(
                f"{what} {name} must be floating [K, {card.dim}], got {array.dtype} {array.shape}"
            )
        return array
    from fastfill.encoders import load_encoder

    encoder = load_encoder(name, metric=card.metric)
    check_same(card, encoder.card, what=what)
    if encoder.head is None:
        raise ValueError(f"{name} has no classifier without bias; give {what} as .npy")
    return encoder.head


def _from_s(gallery: GalleryReader, ordered: NDArray[np.int64]) -> Forecast:
    s, done = gallery.column("s")[ordered], gallery.column("version")[ordered] == Version.NEW
    counts = gallery.counts()
    return forecast_from_s(s[~done], s[done], live=counts.live, new=counts.new)


def _draw(path: Path, forecasts: Sequence[Forecast], stop: float) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(forecasts), 4), layout="constrained")
    panels = figure.subplots(1, len(forecasts), squeeze=False)[0]
    for axes, each in zip(panels, forecasts, strict=True):
        axes.plot(each.shares, each.quality)
        axes.axvline(stop, color="grey", linewidth=0.8, linestyle="--")
        axes.set(xlabel="backfilled share", ylabel=each.metric, xlim=(0, 1))
    with atomic.open_atomic(path) as file:
        figure.savefig(file, format="png", dpi=120)


def _say(gallery: Path, content: dict[str, Any], table: Sequence[Cost]) -> None:
    console = Console(markup=False, highlight=False, soft_wrap=True)
    rate = content["img_per_s"]
    at = f" at {rate:,.4g} items/s" if rate else "; give img_per_s for the time it takes"
    console.print(
        f"{gallery}: ordered by {content['order']}, {content['waiting']:,} of {content['live']:,} "
        f"items left{at}"
    )
    shown = Table()
    for name in ("share", "items", "hours", content["quality"]):
        shown.add_column(name, justify="right")
    for cost in table:
        hours = "-" if cost.seconds is None else f"{cost.seconds / 3600:,.2f}"
        shown.add_row(f"{cost.share:.0%}", f"{cost.items:,}", hours, f"{cost.quality:.4f}")
    console.print(shown)
    if rate:
        console.print(f"all of it takes {timedelta(seconds=round(content['waiting'] / rate))}")
    if content["stop"] is not None:
        share, gain = content["stop"]["share"], content["stop"]["gain"]
        console.print(
            f"from {share:.4g} on the rest adds less than {gain:g}: backfill --stop_at {share:.4g}"
        )

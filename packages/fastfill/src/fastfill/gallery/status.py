"""How far a gallery's backfill is: for people a table, for programs a dictionary."""

import json
import math
from datetime import timedelta
from typing import Any

import numpy as np
from rich.table import Table

from fastfill.gallery.control import read_control
from fastfill.gallery.pending import rejected, waiting
from fastfill.gallery.progress import speed
from fastfill.gallery.reading import GalleryReader

PLAN = "plan.json"


def as_json(gallery: GalleryReader, *, failures: int = 10) -> dict[str, Any]:
    """Return state, counts, speed, time left and failures as JSON values.

    Args:
        gallery: Read anew before.
        failures: Most failed items to list.
    """
    counts, state = gallery.counts(), gallery.state
    control = read_control(gallery.folder)
    late = speed(gallery.folder)
    rate = late.rate if late is not None and not control.paused else None
    predicted, problem = None, None
    try:
        predicted = predicted_quality(gallery)
    except ValueError as error:
        problem = str(error)  # queries and the backfill need no plan
    return {
        "phase": state.phase,
        "paused": control.paused,
        "rate_limit": control.rate,
        "serving": state.serving_card.name,
        "metric": state.cards.new.metric,
        "dim": gallery.dim,
        "backend": state.backend,
        "old": [card.name for card in state.cards.old],
        "new": state.cards.new.name,
        "counts": counts._asdict(),
        "progress": gallery.progress,
        "items_per_s": rate,
        "seconds_left": counts.waiting / rate if rate else None,
        "predicted_quality": predicted,
        "problem": problem,
        "inbox": len(waiting(gallery.folder)),
        "rejected": len(rejected(gallery.folder)),
        "failures": [vars(failure) for failure in gallery.failures()[:failures]],
    }


def as_table(gallery: GalleryReader) -> Table:
    """Return the same as a table."""
    facts = as_json(gallery, failures=0)
    counts = facts["counts"]
    table = Table(title=str(gallery.folder))
    table.add_column("")
    table.add_column("", justify="right")
    phase = "paused" if facts["paused"] and facts["phase"] != "final" else facts["phase"]
    table.add_row("state", phase)
    table.add_row("searched with", facts["serving"])
    table.add_row(f"by {facts['new']}", f"{counts['new']:,}")
    table.add_row(f"by h({', '.join(facts['old'])})", f"{counts['transformed']:,}")
    for name in ("waiting", "failed", "deleted"):
        table.add_row(name, f"{counts[name]:,}")
    table.add_row("done", f"{facts['progress']:.1%}")
    if facts["items_per_s"]:
        table.add_row("items/s", f"{facts['items_per_s']:,.1f}")
        table.add_row("time left", str(timedelta(seconds=math.ceil(facts["seconds_left"]))))
    if facts["rate_limit"] is not None:
        table.add_row("items/s at most", f"{facts['rate_limit']:g}")
    if facts["predicted_quality"] is not None:
        table.add_row("predicted quality", f"{facts['predicted_quality']:.3f}")
    if facts["problem"] is not None:
        table.add_row("problem", facts["problem"])
    for name in ("inbox", "rejected"):
        if facts[name]:
            table.add_row(name, f"{facts[name]:,}")
    return table


def predicted_quality(gallery: GalleryReader) -> float | None:
    """Return what the plan expects of the gallery as it is now; None without a plan.

    `plan.json` holds in `predicted` pairs of the share of items done and the quality then.

    Raises:
        ValueError: The plan is damaged.
    """
    path = gallery.folder / PLAN
    try:
        pairs = json.loads(path.read_bytes()).get("predicted")
        if not pairs:
            return None
        shares, qualities = np.array(sorted(pairs), dtype=np.float64).T
        quality = float(np.interp(gallery.progress, shares, qualities))
        if not math.isfinite(quality):
            raise ValueError(f"a quality of {quality}")
        return quality
    except FileNotFoundError:
        return None
    except (AttributeError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"{PLAN} is damaged ({error}); run plan again") from None

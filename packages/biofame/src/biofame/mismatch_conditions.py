"""Which mismatches between training and test are tried, and with which windows (spec 4)."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from biofame.heads import Classifier
from biofame.mismatch_views import View, all_subsets, sensors_of, shorter_or_longer
from biofame.passes import open_source
from biofame.signals import resampling_ratio
from biofame.store import SignalStore

log = logging.getLogger(__name__)

ALL_SUBSETS = "all-subsets"
MATCHED = "as trained"


@dataclass(frozen=True)
class Condition:
    """One test.

    Attributes:
        kind: Name of the kind of mismatch.
        name: What is different.
        view: The windows.
        note: How they were made.
    """

    kind: str
    name: str
    view: View
    note: str = ""


@dataclass(frozen=True)
class Swap:
    """A channel that stands in the place of one that a model was trained on."""

    trained: str
    other: str

    def applied(self, channels: Sequence[str]) -> list[str]:
        """Return channels with the other one in the trained one's place."""
        return [self.other if name == self.trained else name for name in channels]


def matched(classifier: Classifier, store: SignalStore) -> Condition:
    """Return the test that all others are compared with: channels, length and rate as trained.

    Raises:
        ValueError: The store lacks one of the model's channels.
    """
    channels = list(classifier.network.config.channels)
    source = open_source(store, channels, context=classifier.config.context)
    return Condition(MATCHED, "all channels", View(source))


def dropped(
    classifier: Classifier, store: SignalStore, drop: Sequence[str], *, by_modality: bool
) -> list[Condition]:
    """Return tests without some of the sensors that the model was trained on.

    Args:
        classifier: The model.
        store: The data.
        drop: What to drop, each one sensor or several with `+` between; `all-subsets` for each
            subset of them that leaves one or more.
        by_modality: Whether a sensor is all channels of a kind instead of a channel.

    Raises:
        ValueError: A sensor is not the model's, none would be left, or there are too many subsets.
    """
    channels = classifier.network.config.channels
    sensors = sensors_of(channels, by_modality=by_modality)
    found: dict[tuple[str, ...], Condition] = {}
    for kept in kept_sensors(tuple(sensors), drop):
        names = [name for sensor in kept for name in sensors[sensor]]
        ordered = [name for name in channels if name in names]
        gone = [sensor for sensor in sensors if sensor not in kept]
        label = f"without {', '.join(gone)}"
        found[kept] = Condition("dropped", label, _without(classifier, store, ordered))
    return list(found.values())


def kept_sensors(sensors: tuple[str, ...], drop: Sequence[str]) -> list[tuple[str, ...]]:
    """Return what is left of the sensors in each test; see `dropped`."""
    kept: list[tuple[str, ...]] = []
    for word in drop:
        if word == ALL_SUBSETS:
            kept += all_subsets(sensors)[1:]  # the first one drops nothing
            continue
        gone = word.split("+")
        if unknown := [sensor for sensor in gone if sensor not in sensors]:
            raise ValueError(
                f"drop names {', '.join(unknown)}, the model has {', '.join(sensors)}; separate "
                "several by +"
            )
        left = tuple(sensor for sensor in sensors if sensor not in gone)
        if not left:
            raise ValueError(f"drop {word} leaves no channel of {', '.join(sensors)}")
        kept.append(left)
    return list(dict.fromkeys(kept))


def parse_swaps(words: Sequence[str], channels: Sequence[str], store: SignalStore) -> list[Swap]:
    """Return the substitutions that words such as `eog=resp` say: trained channel, other one.

    Raises:
        ValueError: A word is not of that form, or a channel is not there.
    """
    swaps: list[Swap] = []
    for word in words:
        trained, separator, other = word.partition("=")
        if not separator or trained not in channels or other not in store.info.channels:
            raise ValueError(
                f"substitute must be <trained>=<other>, a channel of the model "
                f"({', '.join(channels)}) and one of the store ({', '.join(store.info.channels)}), "
                f"got {word!r}"
            )
        if other in channels:
            raise ValueError(f"substitute {word}: the model has {other} already; choose another")
        swaps.append(Swap(trained, other))
    return swaps


def substituted(
    classifier: Classifier, store: SignalStore, swaps: Sequence[Swap]
) -> list[Condition]:
    """Return tests in which another channel takes the place of a trained one.

    Each is done twice: under the trained one's name, whose parameters it then meets, and under its
    own, with neutral parameters.
    """
    channels, context = classifier.network.config.channels, classifier.config.context
    found: list[Condition] = []
    for swap in swaps:
        source = open_source(store, swap.applied(channels), context=context)
        posing = f"{swap.other} under the name {swap.trained}"
        found.append(Condition("substituted", posing, View(source, names=channels)))
        own = f"{swap.other} in the place of {swap.trained}"
        if classifier.config.pooling == "cat":
            log.warning("%s: left out, pooling cat takes no other channels", own)
            continue
        found.append(Condition("substituted", own, View(source)))
    return found


def resized(
    classifier: Classifier, start: View, rows: NDArray[np.int64], lengths: Sequence[float]
) -> list[Condition]:
    """Return tests of other lengths, in lengths as recorded.

    Raises:
        ValueError: A length leaves less than a patch, or sequences would be lengthened.
    """
    if classifier.config.task == "staging" and any(factor > 1 for factor in lengths):
        raise ValueError("lengths above 1 join windows, which staging already has in sequences")
    patch = classifier.network.config.patch
    found: list[Condition] = []
    for factor in lengths:
        view, note = shorter_or_longer(start, rows, factor, patch=patch)
        found.append(Condition("length", f"{factor:g} x length", view, note))
    return found


def resampled(start: View, rates: Sequence[float]) -> list[Condition]:
    """Return tests of other rates, of which the model is told.

    Raises:
        ValueError: Windows cannot be resampled so.
    """
    own = start.store.info.rate
    for rate in rates:
        resampling_ratio(own, rate)
    return [
        Condition(
            "rate",
            f"{rate:g} Hz",
            View(start.source, rate=rate),
            f"resampled from {own:g} Hz",
        )
        for rate in rates
    ]


def _without(classifier: Classifier, store: SignalStore, kept: list[str]) -> View:
    context = classifier.config.context
    if classifier.config.pooling != "cat":
        return View(open_source(store, kept, context=context))
    # This head has a place for each channel: those of absent ones hold zeros.
    channels = classifier.network.config.channels
    source = open_source(store, list(channels), context=context)
    return View(source, kept=np.array([name in kept for name in channels]))

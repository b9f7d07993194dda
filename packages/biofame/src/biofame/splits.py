"""Splits by subject, and what must not be shared between them (spec 8.12, 9)."""

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from biofame.store import SPLITS, SignalStore
from tenfold.keyed import generator

logger = logging.getLogger(__name__)

NAMED_AT_MOST = 5


def split_subjects(
    subjects: Sequence[str] | NDArray[np.str_],
    *,
    shares: Sequence[float] = (0.6, 0.2, 0.2),
    seed: int,
) -> NDArray[np.str_]:
    """Return for each window its split; all windows of a subject are in the same.

    Subjects are shuffled by `seed` and dealt out by `shares`, to whole subjects by largest
    remainder; each share above 0 gets at least one.

    Args:
        subjects: A name per window.
        shares: Of train, val and test; their sum is 1.
        seed: Of the shuffle.

    Raises:
        ValueError: The shares are wrong, a subject is unknown (""), or there are fewer subjects
            than splits.
    """
    names = sorted({str(subject) for subject in subjects})
    if "" in names:
        raise ValueError("a window has no subject: name all subjects, or split by recording")
    counts = _counts(shares, len(names))
    order = generator("subject-split", seed).permutation(len(names))
    dealt = np.repeat(SPLITS, counts)
    split_of = {names[place]: str(split) for place, split in zip(order, dealt, strict=True)}
    return np.asarray([split_of[str(subject)] for subject in subjects], dtype=np.str_)


def check_leakage(store: SignalStore) -> None:
    """Refuse a store of which a subject is in two splits.

    Where the subject is unknown the recording stands for it, and a warning says so.

    Raises:
        ValueError: Names such subjects and their splits.
    """
    unknown = store.subjects == ""
    if unknown.any():
        logger.warning(
            "%s: %d windows have no subject: only their recordings are checked for leakage",
            store.folder,
            int(unknown.sum()),
        )
    refuse_leaks(people(store.subjects, store.recordings), store.splits, source=str(store.folder))


def people(
    subjects: NDArray[np.str_] | Sequence[str], recordings: NDArray[np.str_] | Sequence[str]
) -> NDArray[np.str_]:
    """Return for each window its subject, or `recording <name>` where that is unknown."""
    pairs = zip(subjects, recordings, strict=True)
    return np.asarray(
        [str(subject) or f"recording {recording}" for subject, recording in pairs], dtype=np.str_
    )


def refuse_leaks(
    who: NDArray[np.str_] | Sequence[str], splits: NDArray[np.str_] | Sequence[str], *, source: str
) -> None:
    """Refuse windows of which a person is in two splits; `source` stands in the message.

    Raises:
        ValueError: Names such people and their splits.
    """
    seen: dict[str, set[str]] = {}
    for name, split in set(zip(map(str, who), map(str, splits), strict=True)):
        if split:
            seen.setdefault(name, set()).add(split)
    leaks = sorted(name for name, found in seen.items() if len(found) > 1)
    if leaks:
        named = [f"{name}: {', '.join(sorted(seen[name]))}" for name in leaks[:NAMED_AT_MOST]]
        raise ValueError(
            f"{source}: {len(leaks)} subjects are in more than one split ({'; '.join(named)}): "
            "split by subject"
        )


def check_overlap(pretraining: SignalStore, target: SignalStore) -> tuple[str, ...]:
    """Warn of subjects of the target set whom the pre-training set has too, and return them.

    SleepEOG and Sleep-EDF, for one, are the same people (spec 9): what is measured on them is not
    transfer to new people.
    """
    shared = sorted(set(pretraining.subjects.tolist()) & set(target.subjects.tolist()) - {""})
    if shared:
        more = ", ..." if len(shared) > NAMED_AT_MOST else ""
        logger.warning(
            "SUBJECT OVERLAP: %d of %d subjects of %s are in the pre-training set %s (%s%s): "
            "results do not measure transfer to new people",
            len(shared),
            len(set(target.subjects.tolist()) - {""}),
            target.folder,
            pretraining.folder,
            ", ".join(shared[:NAMED_AT_MOST]),
            more,
        )
    return tuple(shared)


def missing_classes(store: SignalStore) -> tuple[str, ...]:
    """Warn of classes that no training window has, and return them."""
    have = set(store.labels[store.rows("train")].tolist())
    missing = tuple(name for label, name in enumerate(store.info.classes) if label not in have)
    if missing and (store.splits == "train").any():
        logger.warning(
            "%s: no training window of class %s: it cannot be learnt",
            store.folder,
            ", ".join(missing),
        )
    return missing


def _counts(shares: Sequence[float], subjects: int) -> list[int]:
    valid = len(shares) == len(SPLITS) and min(shares) >= 0 and abs(sum(shares) - 1) < 1e-6
    if not valid:
        raise ValueError(f"shares must be three numbers >= 0 of sum 1, got {list(shares)}")
    used = [place for place, share in enumerate(shares) if share > 0]
    if subjects < len(used):
        raise ValueError(
            f"{subjects} subjects cannot fill {len(used)} splits: set shares to 0 or add subjects"
        )
    exact = [share * subjects for share in shares]
    counts = [int(value + 1e-9) for value in exact]
    by_remainder = sorted(used, key=lambda place: (counts[place] - exact[place], place))
    for place in by_remainder[: subjects - sum(counts)]:
        counts[place] += 1
    for place in used:
        if counts[place] == 0:
            counts[int(np.argmax(counts))] -= 1
            counts[place] = 1
    return counts

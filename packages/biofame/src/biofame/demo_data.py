"""The verb `demo-data`: a store that needs no download, procedural or of sktime's series."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from biofame.demo_series import DemoSet, basic_motions, ecg, japanese_vowels
from biofame.splits import split_subjects
from biofame.store import SignalStore, StoreInfo, Windows, open_store, write_store
from biofame.store_writing import MANIFEST
from biofame.synthetic import GENERATION, STAGES, SleepConfig, generate, subject_name, units_of

Source = Literal["sleep", "basic_motions", "japanese_vowels", "ecg"]

HEART_SECONDS = 1.0


def demo_data(
    out: Path,
    *,
    source: Source = "sleep",
    seed: int = 0,
    subjects: int | None = None,
    windows_per_subject: int | None = None,
    seconds: float | None = None,
    rate: float | None = None,
    channels: list[str] | None = None,
) -> None:
    """Write a store of labelled windows that needs no download; one that is there is kept.

    Args:
        out: Folder of the store.
        source: `sleep`, procedural recordings of five stages, split by subject; `basic_motions`,
            a smart watch's six axes and four activities; `japanese_vowels`, nine speakers,
            utterances of many lengths; `ecg`, one short real recording. All but `sleep` need the
            extra `demo`.
        seed: Key of all draws.
        subjects: `sleep` only: people, 20 unless given.
        windows_per_subject: `sleep` only: windows of each, 120 unless given.
        seconds: Length of a window: 30 of `sleep`, 1 of `ecg`; the others' is given.
        rate: `sleep` only: samples per second, 100 unless given.
        channels: Sensors in that order; of `sleep` any of eeg, eog, emg, resp and ecg (all but
            ecg unless given), of the others some of theirs.

    Raises:
        ValueError: An option does not fit the source, the folder holds another store, or the extra
            is not installed.
    """
    out = Path(out)
    options: dict[str, Any] = {
        "subjects": subjects,
        "windows_per_subject": windows_per_subject,
        "seconds": seconds,
        "rate": rate,
    }
    given = {name: value for name, value in options.items() if value is not None}
    if source == "sleep":
        if channels is not None:
            given["channels"] = tuple(channels)
        store = write_sleep(out, SleepConfig(**given), seed=seed)
    else:
        demo = _select(_bundled(source, given, seed=seed), channels)
        store = _keep_or_write(out, demo.info, [demo.windows])
    Console(markup=False).print(
        f"{out}: {len(store)} windows of {', '.join(store.info.channels)} at "
        f"{store.info.rate:g} Hz, classes {', '.join(store.info.classes)}",
        soft_wrap=True,
    )


def write_sleep(out: Path, config: SleepConfig, *, seed: int) -> SignalStore:
    """Write procedural recordings with splits by subject, or keep those that are there.

    Raises:
        ValueError: The folder holds another store, or there are fewer than three subjects.
    """
    described = ", ".join(f"{name}={_text(value)}" for name, value in asdict(config).items())
    info = StoreInfo(
        channels=config.channels,
        units=units_of(config.channels),
        rate=config.rate,
        classes=STAGES,
        source=f"procedural sleep: {described}, seed={seed}, generation={GENERATION}",
    )
    return _keep_or_write(out, info, _with_splits(config, seed=seed))


def _with_splits(config: SleepConfig, *, seed: int) -> Iterator[Windows]:
    names = [subject_name(subject) for subject in range(config.subjects)]
    splits = split_subjects(names, seed=seed).tolist()
    for part, split in zip(generate(config, seed=seed), splits, strict=True):
        yield replace(part, splits=[split] * len(part))


def _bundled(source: str, given: dict[str, Any], *, seed: int) -> DemoSet:
    allowed = {"seconds"} if source == "ecg" else set()
    for name, value in given.items():
        if name not in allowed:
            raise ValueError(f"{name} {value} does not fit source {source}: leave {name} out")
    match source:
        case "basic_motions":
            return basic_motions(seed=seed)
        case "japanese_vowels":
            return japanese_vowels(seed=seed)
        case _:
            return ecg(seconds=given.get("seconds", HEART_SECONDS))


def _select(demo: DemoSet, channels: Sequence[str] | None) -> DemoSet:
    if channels is None:
        return demo
    known = demo.info.channels
    unknown = [name for name in channels if name not in known]
    if unknown:
        raise ValueError(f"channels must be of {', '.join(known)}, got {', '.join(unknown)}")
    rows = [known.index(name) for name in channels]
    units = tuple(demo.info.units[row] for row in rows)
    return DemoSet(
        replace(demo.info, channels=tuple(channels), units=units),
        replace(demo.windows, samples=demo.windows.samples[:, rows]),
    )


def _keep_or_write(out: Path, info: StoreInfo, parts: Iterable[Windows]) -> SignalStore:
    if not (out / MANIFEST).exists():
        write_store(out, info, parts)
        return open_store(out)
    store = open_store(out)
    if store.info != info:
        raise ValueError(
            f"{out} holds another store (channels {', '.join(store.info.channels)}; "
            f"{store.info.source}), wanted channels {', '.join(info.channels)}; {info.source}: "
            "choose another folder or remove it"
        )
    return store


def _text(value: object) -> str:
    if isinstance(value, int | float):
        return f"{value:g}"
    return "+".join(value) if isinstance(value, tuple) else str(value)

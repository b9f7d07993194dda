"""Readers of other formats: which there are, and which files of a folder are theirs."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from biofame.readers.part import SourcePart

Format = Literal["auto", "tfc", "npz", "parquet", "webdataset", "edf"]
SUFFIXES = {
    "tfc": (".pt",),
    "npz": (".npz",),
    "parquet": (".parquet",),
    "webdataset": (".tar",),
    "edf": (".edf", ".bdf"),
}


def find_files(source: Path, *, format: Format, leave_out: Path) -> tuple[str, list[Path]]:
    """Return the format and the sorted files of a source, which is a file or a folder.

    Args:
        source: A file, or a folder that is searched with all its subfolders.
        format: `auto` goes by the files' suffixes.
        leave_out: A folder whose files do not count.

    Raises:
        FileNotFoundError: There is no such source, or no file of that format in it.
        ValueError: Files of several formats lie there and none is chosen.
    """
    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist: name a file or a folder of recordings")
    files = [source] if source.is_file() else sorted(source.rglob("*"))
    found: dict[str, list[Path]] = {}
    for path in files:
        if path.is_file() and not path.is_relative_to(leave_out):
            for name, suffixes in SUFFIXES.items():
                if path.suffix.lower() in suffixes:
                    found.setdefault(name, []).append(path)
    if format != "auto":
        found = {name: paths for name, paths in found.items() if name == format}
    if not found:
        suffixes = SUFFIXES.get(format, sum(SUFFIXES.values(), ()))
        raise FileNotFoundError(
            f"{source} has no file named {', '.join(suffixes)}: name another folder, or convert "
            "the recordings to one of these formats"
        )
    if len(found) > 1:
        raise ValueError(
            f"{source} has files of the formats {', '.join(sorted(found))}: choose one with format"
        )
    return next(iter(found.items()))


def read_parts(
    path: Path, *, format: str, name: str, channels: Sequence[str] | None = None
) -> Iterator[SourcePart]:
    """Read a file, part after part.

    Args:
        path: The file.
        format: One of `SUFFIXES`.
        name: Of the file, in names of recordings.
        channels: Canonical names that are wanted; most readers read all.

    Raises:
        ValueError: The file is damaged or not of that format.
    """
    # Imported here, since each reader loads a library of its own.
    if format == "tfc":
        from biofame.readers.tfc import read_tfc

        return read_tfc(path, name=name)
    if format == "npz":
        from biofame.readers.npz import read_npz

        return read_npz(path, name=name)
    if format == "parquet":
        from biofame.readers.parquet import read_parquet

        return read_parquet(path, name=name)
    if format == "webdataset":
        from biofame.readers.webdataset import read_webdataset

        return read_webdataset(path, name=name)
    from biofame.readers.edf import read_edf

    return read_edf(path, name=name, channels=channels)

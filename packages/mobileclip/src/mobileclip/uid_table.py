"""Where is the image with a uid? A table over many tars that fits into memory. Free of torch.

24 bytes a sample: a hash of the uid and the sample's place. Who takes an image compares its uid, so
that two uids with one hash are told apart.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobileclip.members import uid_of
from mobileclip.tar_paths import TarFile
from tenfold.jobs import run_jobs
from tenfold.shards import TarMembers

_COLUMNS = ("hashes", "tars", "samples")


@dataclass(frozen=True)
class UidTask:
    """One tar, and the file for the list of its uids."""

    file: str
    tar: TarFile


def sample_uid(members: TarMembers, key: str) -> str:
    """Return the uid of one sample of a tar."""
    return uid_of(key, sample_about(members, key))


def sample_about(members: TarMembers, key: str) -> Any:
    """Return the content of a sample's `json` member, None where there is none.

    Raises:
        ValueError: It is damaged; names the sample.
    """
    if "json" not in members.extensions(key):
        return None
    try:
        return json.loads(members.read(key, "json"))
    except ValueError as error:
        raise ValueError(f"{members.path}: member '{key}.json' is no JSON: {error}") from error


def list_uids(
    tars: Sequence[TarFile], out: Path, *, title: str, workers: int, ray_address: str | None
) -> "UidLists":
    """Read the uids of all samples once, one job a tar; a rerun reads what is missing.

    Args:
        tars: The tars.
        out: Folder for the lists.
        title: Name of the jobs.
        workers: Processes.
        ray_address: Ray cluster, see `tenfold.jobs`.
    """
    names = [f"{title}-{number:08d}" for number in range(len(tars))]
    run_jobs(
        _write_uids,
        {name: UidTask(f"{name}.json", tar) for name, tar in zip(names, tars, strict=True)},
        out=out,
        settings={"uids": 1},
        workers=workers,
        ray_address=ray_address,
        title=title,
    )
    return UidLists([out / f"{name}.json" for name in names])


class UidLists:
    """Uids of the samples of each tar, in order, on disk.

    Args:
        files: One list a tar.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = list(files)

    def __iter__(self) -> Iterator[list[str]]:
        for file in self.files:
            yield json.loads(file.read_text(encoding="utf-8"))

    def hashes(self) -> NDArray[np.uint64]:
        """Return the hash of each uid, `[n]`, in order."""
        parts = [hash_uids(uids) for uids in self]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint64)


class UidTable:
    """Uids to (tar, sample).

    Attributes:
        hashes: uint64 `[n]`, ascending.
        tars: uint32 `[n]`, number of the tar.
        samples: uint32 `[n]`, number of the sample in it.
    """

    def __init__(self, columns: Mapping[str, NDArray[Any]]) -> None:
        self.hashes, self.tars, self.samples = (columns[name] for name in _COLUMNS)

    def find(self, uid: str) -> list[tuple[int, int]]:
        """Return the places whose uid has the same hash, in order of the tars."""
        wanted = hash_uids([uid])[0]
        first, last = (int(np.searchsorted(self.hashes, wanted, side=s)) for s in ("left", "right"))
        return [(int(self.tars[n]), int(self.samples[n])) for n in range(first, last)]

    @property
    def num_repeated(self) -> int:
        """Samples whose uid an earlier one has."""
        return len(self.hashes) - len(np.unique(self.hashes))

    def first_repeated(self) -> tuple[tuple[int, int], tuple[int, int]] | None:
        """Return the first two places of one uid, in order of the tars; None if all differ."""
        same = np.flatnonzero(self.hashes[1:] == self.hashes[:-1])
        if not len(same):
            return None
        first = same[np.lexsort((self.samples[same], self.tars[same]))[0]]
        one, other = ((int(self.tars[n]), int(self.samples[n])) for n in (first, first + 1))
        return one, other

    @classmethod
    def build(cls, parts: Iterable[NDArray[np.uint64]]) -> "UidTable":
        """Make the table of the uids of tars, given their hashes for each tar."""
        parts = list(parts)
        counts = [len(part) for part in parts]
        hashes = np.concatenate([np.zeros(0, dtype=np.uint64), *parts])
        order = np.argsort(hashes, kind="stable")
        tars = np.repeat(np.arange(len(counts), dtype=np.uint32), counts)
        numbers = [np.arange(count, dtype=np.uint32) for count in counts]
        samples = np.concatenate(numbers) if numbers else tars
        columns = {"hashes": hashes[order], "tars": tars[order], "samples": samples[order]}
        return cls(columns)

    def save(self, folder: Path) -> None:
        """Write the columns for `load`."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in _COLUMNS:
            np.save(folder / f"{name}.npy", getattr(self, name), allow_pickle=False)

    @classmethod
    def load(cls, folder: Path) -> "UidTable":
        """Map the columns into memory, which processes of one machine then share."""
        return cls({name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _COLUMNS})


def hash_uids(uids: Sequence[str]) -> NDArray[np.uint64]:
    """Return 64 bits of each uid, `[n]`."""
    digests = [hashlib.blake2b(uid.encode(), digest_size=8).digest() for uid in uids]
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def _write_uids(task: UidTask, folder: Path) -> int:
    members = TarMembers(task.tar.path)
    uids = [sample_uid(members, key) for key in members.keys]
    (folder / task.file).write_text(json.dumps(uids), encoding="utf-8")
    return len(uids)

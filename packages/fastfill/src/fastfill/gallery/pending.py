"""The inbox of a gallery: changes that other processes leave for the one that may write.

A worker on another machine, or somebody who adds an item while a backfill runs, writes one file;
the writer applies the files in the order of their names, each exactly once.
"""

import json
import logging
import time
import uuid
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tenfold import atomic

LOG = logging.getLogger(__name__)

PENDING = "pending"
_DAMAGE = (
    *(AttributeError, EOFError, KeyError, NotImplementedError, OSError, OverflowError),
    *(RuntimeError, SyntaxError, TypeError, ValueError, zipfile.BadZipFile, zlib.error),
)
"""What reading a file that is no message can raise: any program may leave one."""

Kind = Literal["result", "add", "delete"]


@dataclass(frozen=True, kw_only=True)
class Message:
    """One change.

    Args:
        kind: `result` of embedding rows, `add` items or `delete` them.
        rows: Of a result, int64 `[n]`.
        ids: Of items to add or delete.
        vectors: New model's embeddings `[n, d]` of `rows` or `ids`.
        reasons: Why rows could not be embedded.
        epoch: Of the gallery, `state.epoch`, when the rows of a result were taken.
    """

    kind: Kind
    rows: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    ids: Sequence[str] = ()
    vectors: NDArray[np.float32] | None = None
    reasons: Mapping[int, str] = field(default_factory=dict)
    epoch: int = 0

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"a message is {', '.join(get_args(Kind))}, got {self.kind!r}")
        count = len(self.ids) if self.kind == "add" else len(self.rows)
        given = 0 if self.vectors is None else len(self.vectors)
        if given != count:
            raise ValueError(f"a message of {count} items must hold as many vectors, got {given}")

    def __len__(self) -> int:
        """Return the number of items it is about."""
        return len(self.ids) + len(self.rows) + len(self.reasons)


def submit(folder: Path, message: Message, *, sender: str = "") -> Path:
    """Leave a change for the writer of the gallery in `folder`, durable on return.

    Args:
        folder: Of the gallery.
        message: The change.
        sender: Becomes part of the file's name.

    Raises:
        OSError: The disk is full.
    """
    inbox = folder / PENDING
    plain = "".join(c if c.isalnum() else "-" for c in sender)[:40]
    path = inbox / f"{time.time_ns():020d}-{plain}-{uuid.uuid4().hex[:8]}.npz"
    about = {
        "kind": message.kind,
        "ids": list(message.ids),
        "reasons": {str(row): reason for row, reason in message.reasons.items()},
        "epoch": message.epoch,
    }
    vectors = np.empty((0, 0), np.float32) if message.vectors is None else message.vectors
    with atomic.open_atomic(path) as file:
        np.savez(
            file,
            about=np.frombuffer(json.dumps(about).encode(), dtype=np.uint8),
            rows=np.asarray(message.rows, dtype=np.int64),
            vectors=np.asarray(vectors, dtype=np.float32),
        )
    return path


def waiting(folder: Path) -> list[Path]:
    """Return the files that wait, oldest first."""
    return sorted((folder / PENDING).glob("[!.]*.npz"))


def read_message(path: Path) -> Message:
    """Return the change in a file.

    Raises:
        ValueError: It is damaged.
    """
    try:
        # np.load would leave a file open that is none of its own.
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            about = json.loads(bytes(file["about"]))
            rows, vectors = file["rows"], file["vectors"]
        return Message(
            kind=about["kind"],
            rows=rows,
            ids=[str(item) for item in about["ids"]],
            vectors=vectors if vectors.size else None,
            reasons={int(row): str(reason) for row, reason in about["reasons"].items()},
            epoch=int(about["epoch"]),
        )
    except _DAMAGE as error:
        raise ValueError(f"{path.name} is no change of a gallery: {error}") from None


def reject(path: Path, error: Exception) -> None:
    """Set a change aside that cannot be applied; it stays for somebody to look at."""
    LOG.warning("rejected %s: %s", path.name, error)
    path.replace(path.with_suffix(".rejected"))


def rejected(folder: Path) -> list[Path]:
    """Return the files that were set aside."""
    return sorted((folder / PENDING).glob("*.rejected"))

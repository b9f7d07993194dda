"""What a source of originals is: the images or texts behind the vectors, by id. Free of torch.

A service embeds many things that cannot be read: an original that is missing or damaged is an
`OriginalError`, which callers note beside its id and go on.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Kind = Literal["image", "text"]
Original = Image.Image | str

UNLABELLED = -1


class OriginalError(ValueError):
    """One original cannot be had; `id` names it and `reason` is one line."""

    def __init__(self, id: str, reason: str) -> None:
        super().__init__(f"original {id!r} {reason}")
        self.id = id
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        return OriginalError, (self.id, self.reason)


class Source(ABC):
    """Originals by id; may be used by several threads, and sent to other processes.

    Attributes:
        name: What the user called it.
        kind: Whether `load` gives images or texts.
    """

    kind: Kind

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def ids(self) -> Sequence[str]:
        """Return all ids, distinct, always in the same order."""

    @abstractmethod
    def load(self, id: str) -> Original:
        """Return an RGB image or a text.

        Raises:
            OriginalError: There is no such original, or it is damaged.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a digest that changes when originals are added, removed or replaced."""

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Class of each id `[n]`, -1 where none is known."""
        return np.full(len(self.ids()), UNLABELLED, dtype=np.int64)

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes by label; empty where they have none."""
        return ()

    @cached_property
    def groups(self) -> tuple[str, ...] | None:
        """Group of each id for reports by group; None where there are none."""
        return None

    def __reduce__(self) -> tuple[object, ...]:
        # A copy in another process opens the source again.
        from fastfill.sources import open_source

        return open_source, (self.name,)


def digest(parts: Iterable[str]) -> str:
    """Return the hex SHA-256 of texts that are kept apart."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        total.update(len(data).to_bytes(8, "little"))
        total.update(data)
    return total.hexdigest()

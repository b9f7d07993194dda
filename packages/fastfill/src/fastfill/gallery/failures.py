"""Items that could not be embedded: why, how often, and when they are tried again (spec 9)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastfill.gallery.lines import Lines

FAILURES = "failures.jsonl"


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """When a failed item is tried again.

    Args:
        first_s: Seconds after the first failure; each further one waits twice as long.
        longest_s: Most seconds between two attempts.
        max_attempts: After so many an item is given up until somebody asks for it again.
    """

    first_s: float = 60.0
    longest_s: float = 86400.0
    max_attempts: int = 5

    def __post_init__(self) -> None:
        if not 0 <= self.first_s <= self.longest_s:
            raise ValueError(
                f"first_s must lie in 0..longest_s ({self.longest_s}), got {self.first_s}"
            )
        if not 1 <= self.max_attempts <= 255:
            raise ValueError(f"max_attempts must lie in 1..255, got {self.max_attempts}")

    def retry_at(self, failed_at: float, attempts: int) -> float:
        """Return when an item is tried again, in seconds of `time.time`."""
        return failed_at + min(self.first_s * 2.0 ** (attempts - 1), self.longest_s)


@dataclass(frozen=True)
class Failure:
    """The last failure of an item."""

    row: int
    id: str
    reason: str
    attempts: int
    at: float


class Failures:
    """The log of failures of a gallery, and the last one of each item.

    Args:
        folder: Of the gallery.
        num_bytes: Reads so many bytes of the log, everything if absent.
    """

    def __init__(self, folder: Path, *, num_bytes: int | None = None) -> None:
        self.lines = Lines(folder / FAILURES, num_bytes=num_bytes)
        self._last: dict[int, Failure] = {}
        self._keep(self.lines.values)

    def append(self, failures: list[Failure]) -> None:
        """Add failures to the log."""
        values = [vars(failure) for failure in failures]
        self.lines.append(values)
        self._keep(values)

    def read_more(self) -> None:
        """Read what another process has added."""
        self._keep(self.lines.read_more())

    def last(self, row: int) -> Failure | None:
        """Return the last failure of an item; it may have succeeded since."""
        return self._last.get(row)

    def _keep(self, values: Sequence[Mapping[str, Any]]) -> None:
        try:
            self._last |= {failure.row: failure for failure in (Failure(**v) for v in values)}
        except TypeError as error:
            raise ValueError(f"{self.lines.path} is damaged: {error}") from None

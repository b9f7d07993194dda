"""Bad samples: noted once in `quarantine.jsonl`, counted over all processes, under a budget."""

import fcntl
import json
import logging
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tenfold.shards.names import ShardError

logger = logging.getLogger(__name__)


class Quarantine:
    """The list of samples of one index that could not be used.

    Ranks and workers of a run append to the same file under a lock, so that a sample stands there
    once and the budget holds for the run and not for each process. Lines of other versions of the
    data (another `data` digest) do not count.
    """

    def __init__(
        self, path: Path | str, *, data: str, num_samples: int, max_bad_fraction: float = 0.01
    ) -> None:
        """Keep the list at `path` for data with digest `data`.

        Raises:
            ValueError: `max_bad_fraction` is not in [0, 1).
        """
        if not 0 <= max_bad_fraction < 1:
            raise ValueError(f"max_bad_fraction must be in [0, 1), got {max_bad_fraction}")
        self.path = Path(path)
        self.data = data
        self.num_samples = num_samples
        self.max_bad_fraction = max_bad_fraction
        self.option = "max_bad_fraction"  # how the user spells it, for the message
        self._known: set[tuple[str, int]] = set()
        self._read_up_to = 0

    def __len__(self) -> int:
        return len(self._known)

    def record(
        self, *, shard: str, sample: int, key: str | None, member: str | None, reason: str
    ) -> None:
        """Note a bad sample, by its number in its shard.

        Raises:
            ShardError: More than `max_bad_fraction` of all samples are bad by now.
        """
        if (shard, sample) not in self._known:
            line = {"shard": shard, "sample": sample, "key": key, "member": member}
            with self._locked() as file:
                self._read_news(file)
                if (shard, sample) not in self._known:
                    self._append(file, {**line, "reason": reason, "data": self.data})
        if len(self) > self.max_bad_fraction * self.num_samples:
            raise ShardError(
                f"{len(self)} of {self.num_samples} samples are bad, more than "
                f"{self.option}={self.max_bad_fraction}; the latest: {shard}: sample "
                f"{key if key is not None else sample!r}: {reason}; all are listed in {self.path}; "
                f"mend them or raise {self.option}"
            )

    @contextmanager
    def _locked(self) -> Generator[BinaryIO]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = self.path.open("a+b")
        except OSError as error:
            raise ShardError(
                f"cannot write {self.path}: {error.strerror}; give `quarantine` another path"
            ) from error
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file

    def _read_news(self, file: BinaryIO) -> None:
        file.seek(self._read_up_to)
        for raw in file.read().splitlines(keepends=True):
            if not raw.endswith(b"\n"):
                # A killed writer left half a line; we hold the lock, so nobody is writing it now.
                file.truncate(self._read_up_to)
                return
            self._read_up_to += len(raw)
            line = json.loads(raw)
            if line["data"] == self.data:
                self._known.add((line["shard"], line["sample"]))

    def _append(self, file: BinaryIO, line: dict[str, str | int | None]) -> None:
        raw = json.dumps(line, sort_keys=True).encode() + b"\n"
        file.write(raw)
        file.flush()
        self._read_up_to += len(raw)
        self._known.add((str(line["shard"]), int(line["sample"] or 0)))
        logger.warning("quarantined in %s: %s", self.path, raw.decode().strip())

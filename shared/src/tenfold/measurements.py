"""What `reproduce` has measured so far, so that an interrupted hour goes on where it stopped."""

import json
import logging
import re
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path

from tenfold import atomic
from tenfold.runs import git_revision

log = logging.getLogger(__name__)


class Measurements:
    """Numbers by name, each measured once a code revision.

    Outside of a checkout, or where files differ from the commit, nothing kept is read: no figure
    may come from other code than the commit beside it.

    Args:
        folder: Where each measurement is a JSON file, below a folder named after the revision.
    """

    def __init__(self, folder: Path) -> None:
        self.revision = git_revision() or "unknown"
        self._folder = folder / self.revision

    @property
    def is_reusable(self) -> bool:
        """Whether the revision names exactly one state of the code."""
        return self.revision != "unknown" and not self.revision.endswith("-dirty")

    def get(self, name: str, measure: Callable[[], Mapping[str, float]]) -> dict[str, float]:
        """Return the numbers of `name` kept from earlier, else measure and keep them.

        Args:
            name: All that the numbers depend on besides the code: scale, arm, seed.
            measure: Called when nothing is kept.

        Raises:
            ValueError: The kept file is no JSON object of numbers.
        """
        path = self._folder / (re.sub(r"[^\w.+-]+", "-", name) + ".json")
        if self.is_reusable and path.is_file():
            log.info("%s: kept from an earlier run", name)
            return _read(path)
        numbers = {key: float(value) for key, value in measure().items()}
        atomic.write_json(path, numbers)
        return numbers


def by_arm(
    seeds: Iterable[Mapping[str, Mapping[str, float]]],
) -> dict[str, dict[str, list[float]]]:
    """Return metric to arm to one value a seed, from what each seed has measured."""
    values: dict[str, dict[str, list[float]]] = {}
    for measured in seeds:
        for metric, arms in measured.items():
            for arm, value in arms.items():
                values.setdefault(metric, {}).setdefault(arm, []).append(value)
    return values


@contextmanager
def one_thread() -> Generator[None]:
    """Keep torch to one thread, so that CPU time says what was computed.

    Threads that wait for each other count as busy.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _read(path: Path) -> dict[str, float]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return {str(key): float(value) for key, value in values.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} holds no measurement: {error}; delete it") from error

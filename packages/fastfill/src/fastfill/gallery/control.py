"""What any process may tell a running backfill: pause, go on, at which rate."""

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tenfold import atomic

CONTROL = "control.json"


@dataclass(frozen=True, kw_only=True)
class Control:
    """Wishes to a running backfill.

    Args:
        paused: Whether to embed nothing for now.
        rate: Most items a second of all workers together; no limit if absent.
    """

    paused: bool = False
    rate: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.paused, bool):
            raise ValueError(f"paused must be true or false, got {self.paused!r}")
        number = isinstance(self.rate, int | float) and not isinstance(self.rate, bool)
        if self.rate is not None and not (number and 0 < self.rate < math.inf):
            raise ValueError(f"rate must be > 0 items a second, got {self.rate!r}")


def read_control(folder: Path) -> Control:
    """Return the wishes for a gallery; nothing special where none were uttered.

    Raises:
        ValueError: The file holds something else.
    """
    path = folder / CONTROL
    try:
        return Control(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        return Control()
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is not readable ({error}); delete it to start afresh") from None


def set_paused(folder: Path, *, paused: bool) -> Control:
    """Pause a backfill or let it go on, at the rate that was set."""
    return _write(folder, replace(read_control(folder), paused=paused))


def set_rate(folder: Path, rate: float | None) -> Control:
    """Limit a backfill to `rate` items a second, or lift the limit."""
    return _write(folder, replace(read_control(folder), rate=rate))


def _write(folder: Path, control: Control) -> Control:
    atomic.write_json(folder / CONTROL, asdict(control))
    return control

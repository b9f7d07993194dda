"""The file of measured step times that `bench` writes and `cost` reads.

The least that a hand-written file needs:
`{"tokens": 8192, "lengths": [{"length": 512, "ms": 227}, {"length": 8192, "ms": 304}]}`.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from dataset_decomposition.config import ModelConfig
from tenfold import atomic


@dataclass(frozen=True, kw_only=True)
class LengthTiming:
    """Step time at one sequence length.

    Attributes:
        length: Tokens of a sequence.
        ms: Median milliseconds of a step.
        fastest_ms: Fastest repetition.
        slowest_ms: Slowest repetition.
        peak_gib: Peak memory of the device during a step; None where it is not known.
    """

    length: int
    ms: float
    fastest_ms: float | None = None
    slowest_ms: float | None = None
    peak_gib: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.length, int) or self.length < 1:
            raise ValueError(f"length must be a whole number >= 1, got {self.length!r}")
        if not isinstance(self.ms, int | float) or not 0 < self.ms < float("inf"):
            raise ValueError(f"ms must be > 0, got {self.ms!r} at length {self.length}")


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Step times of one device at a constant number of tokens.

    Attributes:
        tokens: Tokens of a step on the device.
        lengths: One entry a length.
        clock: `wall`, or `cpu` for the time of the process on all its cores.
        model: What was trained; None when the file does not say.
        device: The device in words.
        precision: `fp32` or `bf16`.
        compile: Whether the model ran through `torch.compile`.
        accumulate: Micro-batches of a step.
    """

    tokens: int
    lengths: tuple[LengthTiming, ...]
    clock: Literal["wall", "cpu"] = "wall"
    model: ModelConfig | None = None
    device: str = ""
    precision: str = ""
    compile: bool = False
    accumulate: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.tokens, int) or self.tokens < 1:
            raise ValueError(f"tokens must be a whole number >= 1, got {self.tokens!r}")
        if self.clock not in ("wall", "cpu"):
            raise ValueError(f"clock must be wall or cpu, got {self.clock!r}")
        lengths = [entry.length for entry in self.lengths]
        if len(set(lengths)) < len(lengths):
            raise ValueError(f"lengths must differ, got {lengths}")

    @property
    def milliseconds(self) -> dict[int, float]:
        """Median milliseconds by length."""
        return {entry.length: entry.ms for entry in self.lengths}


def save_timings(timings: Timings, path: Path) -> None:
    """Write the file atomically."""
    atomic.write_json(path, asdict(timings))


def load_timings(path: Path) -> Timings:
    """Read the file.

    Raises:
        FileNotFoundError: It does not exist.
        ValueError: It is no JSON, or a field is missing, unknown or out of its range.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no timings file {path}; measure one with bench --out {path}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        model = values.get("model")
        values["model"] = None if model is None else ModelConfig(**model)
        values["lengths"] = tuple(LengthTiming(**entry) for entry in values["lengths"])
        return Timings(**values)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is no timings file: {error}; write one with bench") from error

"""Configurations in checkpoints are JSON values alone."""

from dataclasses import dataclass
from pathlib import Path

from tenfold.plain_configs import plain


@dataclass(frozen=True)
class Inner:
    sizes: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    path: Path | None = Path("a/b")


def test_plain_configs_are_json_values() -> None:
    assert plain(model=Outer(), other=Inner(())) == {
        "model": {"inner": {"sizes": [1, 2]}, "path": "a/b"},
        "other": {"sizes": []},
    }

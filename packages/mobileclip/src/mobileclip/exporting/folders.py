"""A folder that appears whole, or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tenfold import atomic


def require_new(out: Path) -> Path:
    """Return `out` as an absolute path that a folder can take.

    Raises:
        ValueError: Something is there.
    """
    out = Path(out).expanduser().absolute()
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise ValueError(f"{out} exists and is not an empty folder; choose another one")
    return out


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Give a hidden folder beside `out`, which takes that name when the block ends without error.

    What killed exports of the same name left behind is removed.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    for left_over in out.parent.glob(f".{out.name}{atomic.TEMPORARY}*"):
        shutil.rmtree(left_over)
    hidden = atomic.temporary_name(out)
    hidden.mkdir()
    try:
        yield hidden
        for path in (*hidden.iterdir(), hidden):
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
        hidden.replace(out)
        atomic.fsync_dir(out.parent)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)

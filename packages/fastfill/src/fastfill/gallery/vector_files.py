"""Vectors, ids and cards as `embed` writes them: an `.npy`, a text file, a JSON file."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastfill.card import ModelCard


def read_vectors(path: Path) -> NDArray[Any]:
    """Return the memory-mapped floating array `[n, d]` of an `.npy` file.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; give an .npy of vectors [n, d]")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (EOFError, ValueError) as error:
        raise ValueError(f"{path} is no .npy file: {error}") from None
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind != "f":
        found = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else "an .npz"
        raise ValueError(f"{path} must hold floating vectors [n, d], got {found}")
    return array


def read_ids(path: Path) -> list[str]:
    """Return the lines of a UTF-8 text file; the last one may lack its end.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is not UTF-8.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; give a text file with one item a line")
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}") from None
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if lines[-1] == "" else lines


def read_card(path: Path | None, *, beside: Path) -> ModelCard | None:
    """Return a model's card from a file, or from the one that `embed` wrote beside vectors.

    Raises:
        FileNotFoundError: A path was given and nothing is there.
        ValueError: It is damaged.
    """
    found = beside.with_suffix(".card.json") if path is None else path
    try:
        return ModelCard.from_json(found.read_text())
    except FileNotFoundError:
        if path is None:
            return None
        raise FileNotFoundError(f"{found} is missing; give the card that embed wrote") from None
    except ValueError as error:
        raise ValueError(f"{found}: {error}") from None

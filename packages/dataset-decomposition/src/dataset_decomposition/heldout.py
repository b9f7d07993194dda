"""Held-out documents, stored whole for evaluation of each document on its own.

`heldout/tokens.npy` (uint16 or uint32 `[n]`) holds them one after the other, each with its
end-of-text token; document `i` is `tokens[offsets[i] : offsets[i + 1]]` with `heldout/offsets.npy`
(int64 `[documents + 1]`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dataset_decomposition.accounting import Accounting
from dataset_decomposition.inputs import Source
from dataset_decomposition.map_phase import tokenized
from dataset_decomposition.settings import Settings
from tenfold import atomic

FOLDER = "heldout"
TOKENS = f"{FOLDER}/tokens.npy"
OFFSETS = f"{FOLDER}/offsets.npy"
FILES = (TOKENS, OFFSETS)
_COPY_TOKENS = 1 << 22


class Heldout(NamedTuple):
    """Whole documents, memory-mapped.

    Attributes:
        tokens: uint16 or uint32 `[n]`.
        offsets: int64 `[documents + 1]`.
    """

    tokens: NDArray[Any]
    offsets: NDArray[np.int64]

    @property
    def num_documents(self) -> int:
        """Number of documents."""
        return len(self.offsets) - 1

    def document(self, index: int) -> NDArray[Any]:
        """Return the tokens of one document, its end-of-text token last."""
        if not 0 <= index < self.num_documents:
            raise IndexError(f"document {index} of {self.num_documents}")
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]


@dataclass(frozen=True)
class HeldoutTask:
    """The held-out inputs and how to tokenize them."""

    sources: tuple[Source, ...]
    settings: Settings


def write_heldout(task: HeldoutTask, folder: Path) -> dict[str, Any]:
    """Tokenize the held-out documents below `folder`.

    Returns:
        Their `Accounting` as JSON, and `files`: size and SHA-256 of each file by its name.
    """
    settings = task.settings
    tokenizer = settings.load_tokenizer()
    account = Accounting()
    lengths: list[int] = []
    (folder / FOLDER).mkdir()
    raw = folder / FOLDER / "tokens.raw"
    with raw.open("wb") as file:
        for source in task.sources:
            for _, tokens in tokenized(source, tokenizer, settings.text_key, account):
                file.write(tokens.tobytes())
                lengths.append(len(tokens))
    account.kept = account.tokens_in
    np.save(folder / OFFSETS, np.cumsum([0, *lengths], dtype=np.int64), allow_pickle=False)
    _to_npy(raw, folder / TOKENS, account.tokens_in, settings.dtype)
    raw.unlink()
    return {**account.to_json(), "files": {name: describe_file(folder / name) for name in FILES}}


def describe_file(path: Path) -> dict[str, int | str]:
    """Return the size of a file in bytes and its SHA-256."""
    return {"bytes": path.stat().st_size, "sha256": atomic.sha256_file(path)}


def _to_npy(raw: Path, path: Path, count: int, dtype: np.dtype[Any]) -> None:
    with raw.open("rb") as source, path.open("wb") as target:
        header = {"descr": dtype.str, "fortran_order": False, "shape": (count,)}
        np.lib.format.write_array_header_1_0(target, header)
        while block := source.read(_COPY_TOKENS):
            target.write(block)


def read_heldout(data: Path) -> Heldout:
    """Open the held-out documents of a prepared data set.

    Raises:
        ValueError: It has none, or the two files do not belong together.
    """
    if not (data / TOKENS).exists():
        raise ValueError(f"{data} has no held-out documents; prepare it with --heldout")
    tokens = np.load(data / TOKENS, mmap_mode="r", allow_pickle=False)
    offsets = np.load(data / OFFSETS, allow_pickle=False)
    if offsets[0] != 0 or offsets[-1] != len(tokens) or (np.diff(offsets) < 1).any():
        raise ValueError(f"{data / OFFSETS} does not belong to {data / TOKENS}; prepare anew")
    return Heldout(tokens, offsets)

"""Tokenizers for preparation: raw bytes, a `tokenizer.json`, a transformers folder, a trained BPE.

Every one has an end-of-text id: it closes each document, so a tokenizer without one is refused.
Special tokens written out in a document's text are read as ordinary text; only the end of a
document carries the end-of-text id.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tenfold import atomic

END_OF_TEXT_NAMES = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[EOS]")
_FOLDER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
)

Tokens = NDArray[np.uint16] | NDArray[np.uint32]


class Tokenizer(Protocol):
    """What preparation needs of a tokenizer."""

    @property
    def vocab_size(self) -> int:
        """Highest id plus one."""
        ...

    @property
    def eot_id(self) -> int:
        """Id of the end-of-text token."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hash of the tokenizer's files."""
        ...

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """Return each text's ids, 1-D, with the end-of-text id appended."""
        ...

    def decode(self, ids: NDArray[Any]) -> str:
        """Return the text of `ids`; end-of-text ids are left out."""
        ...


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """Return the smallest stored type that holds every id: uint16 up to 65,536 ids, else uint32."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


class ByteTokenizer:
    """UTF-8 bytes as ids 0 to 255, end of text 256. Needs no file."""

    vocab_size = 257
    eot_id = 256
    fingerprint = hashlib.sha256(b"utf-8 bytes, end of text 256").hexdigest()

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """Return each text's bytes and the end-of-text id, uint16."""
        encoded: list[Tokens] = []
        for text in texts:
            data = text.encode()
            tokens = np.empty(len(data) + 1, dtype=np.uint16)
            tokens[:-1] = np.frombuffer(data, dtype=np.uint8)
            tokens[-1] = self.eot_id
            encoded.append(tokens)
        return encoded

    def decode(self, ids: NDArray[Any]) -> str:
        """Return the text; bytes that are no UTF-8 (a cut character, say) become U+FFFD."""
        return bytes(int(i) for i in ids if i < 256).decode(errors="replace")


class FileTokenizer:
    """A `tokenizer.json`, read by the `tokenizers` library."""

    def __init__(self, path: Path) -> None:
        """Load `path`.

        Raises:
            ValueError: It is no tokenizer file, or has no end-of-text token.
        """
        import tokenizers

        content = path.read_bytes()
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(content.decode())
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"{path} is not a tokenizer.json: {error}") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._tokenizer.encode_special_tokens = True
        ids = self._tokenizer.get_vocab(with_added_tokens=True)
        self.vocab_size = max(ids.values(), default=-1) + 1
        self.eot_id = _end_of_text(ids, path)
        self.fingerprint = hashlib.sha256(content).hexdigest()

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """Return each text's ids and the end-of-text id."""
        found = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [_close(encoding.ids, self) for encoding in found]

    def decode(self, ids: NDArray[Any]) -> str:
        """Return the text of `ids` without special tokens."""
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)


class FolderTokenizer:
    """A folder that `transformers.AutoTokenizer` loads; nothing is downloaded."""

    def __init__(self, path: Path) -> None:
        """Load the folder `path`.

        Raises:
            ValueError: transformers is not installed or cannot load it, or it has no eos_token.
        """
        try:
            from transformers import AutoTokenizer
        except ImportError as error:
            raise ValueError(
                f"the tokenizer folder {path} needs the extra 'transformers': "
                "install dataset-decomposition[transformers], or name its tokenizer.json"
            ) from error
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(path, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(
                f"{path} is not a tokenizer folder: {str(error).splitlines()[0]}"
            ) from error
        ids = self._tokenizer.get_vocab()
        self.vocab_size = max(ids.values(), default=-1) + 1
        eos_id = self._tokenizer.eos_token_id
        self.eot_id = _end_of_text(ids, path) if eos_id is None else int(eos_id)
        self.fingerprint = _folder_fingerprint(path)

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """Return each text's ids and the end-of-text id."""
        found = self._tokenizer(
            list(texts),
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
            truncation=False,
            verbose=False,
        )
        return [_close(ids, self) for ids in found["input_ids"]]

    def decode(self, ids: NDArray[Any]) -> str:
        """Return the text of `ids` without special tokens."""
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)


def _close(ids: Sequence[int], tokenizer: Tokenizer) -> Tokens:
    # A list of ints is read three times as fast this way as by assignment to a slice.
    closed = (*ids, tokenizer.eot_id)
    return np.fromiter(closed, dtype=token_dtype(tokenizer.vocab_size), count=len(closed))


def _end_of_text(ids: dict[str, int], path: Path) -> int:
    for name in END_OF_TEXT_NAMES:
        if name in ids:
            return ids[name]
    raise ValueError(
        f"the tokenizer {path} has no end-of-text token; expected one of "
        f"{' '.join(END_OF_TEXT_NAMES)}: add it to the tokenizer's special tokens"
    )


def _folder_fingerprint(path: Path) -> str:
    files = sorted({file for pattern in _FOLDER_FILES for file in path.glob(pattern)})
    hashes = {file.name: atomic.sha256_file(file) for file in files}
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class TokenizerSpec:
    """Which tokenizer, in a form that travels to workers.

    Attributes:
        name: What the user calls it; stored with the data.
        path: File or folder; None for bytes.
    """

    name: str
    path: str | None

    def load(self) -> Tokenizer:
        """Load the tokenizer."""
        if self.path is None:
            return ByteTokenizer()
        path = Path(self.path)
        return FolderTokenizer(path) if path.is_dir() else FileTokenizer(path)


def find_tokenizer(name: str) -> TokenizerSpec:
    """Resolve `bytes` or a local path.

    Raises:
        FileNotFoundError: There is no such file or folder.
    """
    if name == "bytes":
        return TokenizerSpec("bytes", None)
    path = Path(name).expanduser().resolve()
    if not path.exists():
        raise FileNotFoundError(
            f"no tokenizer at {name!r}; expected bytes, bpe, a tokenizer.json or a folder"
        )
    label = path.name if path.is_dir() else f"{path.parent.name}/{path.name}"
    return TokenizerSpec(label, str(path))


def train_bpe(texts: Iterator[str], path: Path, *, vocab_size: int) -> None:
    """Train a byte-level BPE with `<|endoftext|>` as its last id and save it as `tokenizer.json`.

    The same texts in the same order give the same file.

    Raises:
        ValueError: `vocab_size` cannot hold the 256 bytes and the end-of-text token.
    """
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    if vocab_size < 257:
        raise ValueError(
            f"vocab_size must be at least 257 (256 bytes and end of text), got {vocab_size}"
        )
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([END_OF_TEXT_NAMES[0]])
    atomic.write_text(path, tokenizer.to_str(pretty=True) + "\n")

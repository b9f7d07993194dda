import importlib.abc
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from dataset_decomposition.tokenizer import (
    ByteTokenizer,
    FileTokenizer,
    Tokenizer,
    find_tokenizer,
    token_dtype,
    train_bpe,
)

TEXTS = ["hello world, hello there", "def f(x):\n    return x\n", "\u00e4\u20ac\U0001f600", "a"]


def word_tokenizer(path: Path, vocabulary: dict[str, int], special: tuple[str, ...] = ()) -> Path:
    """Save a word-level tokenizer with the given ids."""
    tokenizer = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(list(special))
    tokenizer.save(str(path))
    return path


@pytest.fixture(scope="module")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bpe") / "tokenizer.json"
    train_bpe(iter(TEXTS * 20), path, vocab_size=300)
    return path


def test_bytes_are_their_own_ids():
    tokenizer = ByteTokenizer()
    encoded = tokenizer.encode([*TEXTS, ""])
    for text, tokens in zip([*TEXTS, ""], encoded, strict=True):
        assert tokens.dtype == np.uint16
        assert tokens.tolist() == [*text.encode(), 256]
        assert tokenizer.decode(tokens) == text
    assert (tokenizer.vocab_size, tokenizer.eot_id) == (257, 256)


def test_stored_type_follows_the_vocabulary():
    assert token_dtype(1 << 16) == np.uint16
    assert token_dtype((1 << 16) + 1) == np.uint32


def test_trained_bpe_round_trips_and_ends_with_end_of_text(bpe: Path):
    tokenizer = find_tokenizer(str(bpe)).load()
    assert tokenizer.vocab_size <= 300
    assert tokenizer.eot_id == tokenizer.vocab_size - 1
    for text, tokens in zip(TEXTS, tokenizer.encode(TEXTS), strict=True):
        assert tokens[-1] == tokenizer.eot_id
        assert (tokens[:-1] != tokenizer.eot_id).all()
        assert tokenizer.decode(tokens) == text
    assert len(tokenizer.encode(["hello hello"])[0]) < len("hello hello")


def test_training_bpe_twice_gives_the_same_file(bpe: Path, tmp_path: Path):
    train_bpe(iter(TEXTS * 20), tmp_path / "again.json", vocab_size=300)
    assert (tmp_path / "again.json").read_bytes() == bpe.read_bytes()
    with pytest.raises(ValueError, match="at least 257"):
        train_bpe(iter(TEXTS), tmp_path / "small.json", vocab_size=256)


def test_end_of_text_written_in_a_document_is_ordinary_text(bpe: Path):
    tokenizer = FileTokenizer(bpe)
    (tokens,) = tokenizer.encode(["a<|endoftext|>b"])
    assert (tokens == tokenizer.eot_id).sum() == 1
    assert tokenizer.decode(tokens[:-1]) == "a<|endoftext|>b"


def test_padding_and_truncation_of_a_saved_tokenizer_are_off(tmp_path: Path):
    path = word_tokenizer(tmp_path / "t.json", {"[UNK]": 0, "a": 1, "</s>": 2})
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    tokenizer.enable_padding(length=8)
    tokenizer.enable_truncation(2)
    tokenizer.save(str(path))
    encoded = FileTokenizer(path).encode(["a a a a", "a"])
    assert [tokens.tolist() for tokens in encoded] == [[1, 1, 1, 1, 2], [1, 2]]


@pytest.mark.parametrize("name", ["<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>"])
@pytest.mark.parametrize("eot_id", [0, 2])
def test_end_of_text_is_found_whatever_its_name_and_id(tmp_path: Path, name: str, eot_id: int):
    ids = [i for i in range(3) if i != eot_id]
    vocabulary = {"[UNK]": ids[0], "a": ids[1], name: eot_id}
    tokenizer = FileTokenizer(word_tokenizer(tmp_path / "t.json", vocabulary))
    assert tokenizer.eot_id == eot_id
    assert tokenizer.encode(["a"])[0].tolist() == [ids[1], eot_id]


def test_large_vocabularies_with_holes_are_stored_as_uint32(tmp_path: Path):
    vocabulary = {"[UNK]": 0, "a": 70_000, "</s>": 3}
    tokenizer = FileTokenizer(word_tokenizer(tmp_path / "t.json", vocabulary))
    assert tokenizer.vocab_size == 70_001
    (tokens,) = tokenizer.encode(["a a"])
    assert tokens.dtype == np.uint32
    assert tokens.tolist() == [70_000, 70_000, 3]


def test_unusable_tokenizers_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="no end-of-text token; expected one of"):
        FileTokenizer(word_tokenizer(tmp_path / "t.json", {"[UNK]": 0, "a": 1}))
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(ValueError, match=r"x\.json is not a tokenizer\.json"):
        FileTokenizer(tmp_path / "x.json")
    with pytest.raises(FileNotFoundError, match="no tokenizer at 'gpt2'"):
        find_tokenizer("gpt2")


def test_fingerprint_changes_with_the_file(bpe: Path, tmp_path: Path):
    first = FileTokenizer(bpe)
    other = FileTokenizer(word_tokenizer(tmp_path / "t.json", {"[UNK]": 0, "</s>": 1}))
    assert first.fingerprint == FileTokenizer(bpe).fingerprint
    assert first.fingerprint != other.fingerprint


class _Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "transformers":
            raise ImportError(name)


def test_a_folder_without_transformers_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "meta_path", [_Hidden(), *sys.meta_path])
    for name in [n for n in sys.modules if n.split(".")[0] == "transformers"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ValueError, match=r"needs the extra 'transformers'"):
        find_tokenizer(str(tmp_path)).load()


def test_transformers_folder_agrees_with_its_file(bpe: Path, tmp_path: Path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes(bpe.read_bytes())
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    from_folder: Tokenizer = find_tokenizer(str(folder)).load()
    from_file = FileTokenizer(bpe)
    assert from_folder.eot_id == from_file.eot_id
    assert from_folder.vocab_size == from_file.vocab_size
    texts = [*TEXTS, "a<|endoftext|>b"]
    pairs = zip(from_folder.encode(texts), from_file.encode(texts), strict=True)
    for ours, theirs in pairs:
        np.testing.assert_array_equal(ours, theirs)
        assert from_folder.decode(ours) == from_file.decode(ours)
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "x": 1}))
    assert find_tokenizer(str(folder)).load().fingerprint != from_folder.fingerprint

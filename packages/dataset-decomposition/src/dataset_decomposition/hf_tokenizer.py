"""The tokenizer of a prepared data set as files that `transformers.AutoTokenizer` loads."""

import json
from pathlib import Path
from typing import Any

from dataset_decomposition.claim import REQUEST, TOKENIZER
from dataset_decomposition.records import read_info
from dataset_decomposition.tokenizer import (
    END_OF_TEXT_NAMES,
    ByteTokenizer,
    Tokenizer,
    TokenizerSpec,
    find_tokenizer,
)
from tenfold import atomic


def data_tokenizer(data: Path) -> TokenizerSpec:
    """Find the tokenizer that a data set was prepared with.

    Raises:
        FileNotFoundError: `data` is no prepared data set, or its tokenizer is gone.
        ValueError: The tokenizer's files changed.
    """
    stated = read_info(data)["tokenizer"]
    name = stated["name"]
    if (data / TOKENIZER).is_file():
        spec = TokenizerSpec(name, str(data / TOKENIZER))
    else:
        request = json.loads((data / REQUEST).read_text(encoding="utf-8"))["tokenizer"]
        try:
            spec = find_tokenizer(request)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{data} was prepared with the tokenizer {request}, which is not there any more; "
                "put it back or leave --data out"
            ) from error
    if spec.load().fingerprint != stated["sha256"]:
        raise ValueError(
            f"the files of tokenizer {name} are not those that {data} was prepared with; "
            "restore them or leave --data out"
        )
    return spec


def write_tokenizer(spec: TokenizerSpec, folder: Path) -> None:
    """Write tokenizer files into `folder`."""
    if spec.path is not None and Path(spec.path).is_dir():
        from transformers import AutoTokenizer

        AutoTokenizer.from_pretrained(spec.path, local_files_only=True).save_pretrained(folder)
        return
    content = byte_level_json() if spec.path is None else Path(spec.path).read_text("utf-8")
    atomic.write_text(folder / "tokenizer.json", content)
    options = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": end_of_text(content, spec.load().eot_id),
        "clean_up_tokenization_spaces": False,
    }
    atomic.write_json(folder / "tokenizer_config.json", options)


def end_of_text(tokenizer_json: str, eot_id: int) -> str:
    """Return the token that `eot_id` stands for."""
    import tokenizers

    token = tokenizers.Tokenizer.from_str(tokenizer_json).id_to_token(eot_id)
    assert token is not None
    return token


def byte_level_json() -> str:
    """Return a `tokenizer.json` that gives the ids of `ByteTokenizer`: bytes, end of text 256."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    vocab = {character: byte for byte, character in enumerate(_byte_characters())}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END_OF_TEXT_NAMES[0]])
    assert tokenizer.token_to_id(END_OF_TEXT_NAMES[0]) == ByteTokenizer.eot_id
    return tokenizer.to_str(pretty=True) + "\n"


def _byte_characters() -> list[str]:
    """Return the printable character by which byte-level tokenizers write each byte."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = (chr(code) for code in range(256, 512))
    return [chr(byte) if byte in printable else next(others) for byte in range(256)]


def check_tokenizer(folder: Path, expected: Tokenizer) -> None:
    """Load what was written through transformers and compare it with the original.

    Raises:
        ValueError: It reads a sample of text in another way.
    """
    from transformers import AutoTokenizer

    loaded: Any = AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=True
    )
    sample = "Plain text, d\u00e9j\u00e0 vu,\n\ttabs  and\u00a0\u4e2d\u6587: 3.14 \U0001f600 don't"
    ids = loaded(sample, add_special_tokens=False)["input_ids"]
    wanted = expected.encode([sample])[0].tolist()
    if [*ids, loaded.eos_token_id] != wanted:
        raise ValueError(
            f"transformers reads the tokenizer in {folder} in another way than training did: "
            f"{[*ids, loaded.eos_token_id]} instead of {wanted}"
        )

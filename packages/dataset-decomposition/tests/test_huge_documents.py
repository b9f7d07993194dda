"""One document far larger than all buffers: linear memory, and every token accounted for."""

import json
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataset_decomposition import cutters
from dataset_decomposition.accounting import Accounting
from dataset_decomposition.cutters import make_cutter
from dataset_decomposition.decompose import CutRule
from dataset_decomposition.inputs import find_sources
from dataset_decomposition.prepare import make_settings, prepare
from dataset_decomposition.randomness import stream, stream_key
from dataset_decomposition.readers import TextDocument, read_documents
from dataset_decomposition.records import open_dataset, read_info
from dataset_decomposition.settings import Settings
from dataset_decomposition.spill import SpillWriter
from dataset_decomposition.tokenizer import TokenizerSpec

METHODS = ["dd", "concat", "concat_docmask", "bestfit"]


def settings_of(method: Any, rule: CutRule) -> Settings:
    return make_settings(
        TokenizerSpec("bytes", None),
        method=method,
        rule=rule,
        text_key="text",
        seed=0,
        format="packed",
    )


@pytest.mark.parametrize("method", METHODS)
def test_cutting_needs_few_bytes_a_token(tmp_path: Path, method: str) -> None:
    settings = settings_of(method, CutRule(mode="overlap1"))
    account = Accounting()
    num_tokens = 1 << 23
    tokens = np.zeros(num_tokens, dtype=np.uint16)
    account.add_document(num_tokens)
    with SpillWriter(tmp_path, num_partitions=2, buffer_bytes=1 << 20) as spill:
        cutter = make_cutter(settings, "a", 2, spill, account)
        tracemalloc.start()
        cutter.add(tokens, lambda: stream(stream_key(0, "a"), 0))
        cutter.close()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    # The rows and what they were cut from, twice two bytes each, and the numbers of documents.
    assert peak < 16 * num_tokens
    assert account.balanced


@pytest.mark.parametrize("block", [1, 7, 64, 1 << 20])
@pytest.mark.parametrize("mode", ["disjoint", "overlap1"])
def test_documents_are_numbered_alike_in_blocks_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: Any, block: int
) -> None:
    monkeypatch.setattr(cutters, "OWNER_BLOCK", block)
    settings = settings_of("concat_docmask", CutRule(max_bucket=3, min_bucket=3, mode=mode))
    lengths = [3, 1, 40, 9, 8, 2, 100, 5]
    with SpillWriter(tmp_path, num_partitions=1, buffer_bytes=1 << 20) as spill:
        cutter = make_cutter(settings, "a", 1, spill, Accounting())
        for length in lengths:
            cutter.add(np.zeros(length, dtype=np.uint16), lambda: stream(stream_key(0, "a"), 0))
        cutter.close()
    found = np.fromfile(tmp_path / "D_3.documents", dtype=np.int16).reshape(-1, 9)
    glued = np.repeat(np.arange(len(lengths)), lengths)
    starts = range(0, len(glued) - 8, 9 if mode == "disjoint" else 8)
    expected = [glued[start : start + 9] - glued[start] for start in starts]
    np.testing.assert_array_equal(found, expected)


def test_a_line_of_many_chunks_is_read_in_linear_memory(tmp_path: Path) -> None:
    size = 16_000_000
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "0123456789abcdef" * (size // 16)}) + '\n{"text": "b"}\n')
    (source,) = find_sources([str(path)])
    tracemalloc.start()
    lengths = [len(d.text) for d in read_documents(source) if isinstance(d, TextDocument)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert lengths == [size, 1]
    assert peak < 6 * size


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_document_of_100_megabytes_comes_back_whole(tmp_path: Path, method: Any) -> None:
    size = 100_000_000
    (tmp_path / "a.txt").write_bytes((b"0123456789abcdef ghij\n" * (size // 22 + 1))[:size])
    out = tmp_path / "out"
    prepare([str(tmp_path / "a.txt")], out, method=method, mode="overlap1")
    info = read_info(out)
    tokens = info["tokens"]
    assert tokens["in"] == size + 1
    assert tokens["in"] == tokens["kept"] + tokens["dropped_tail"]
    assert tokens["dropped_tail"] < 1 << (8 if method == "dd" else 13)
    longest = open_dataset(out).buckets[13]
    assert len(longest) == size // 2**13 + (method == "bestfit")
    shutil.rmtree(tmp_path)  # pytest would keep these gigabytes

"""Preparation: which rows are cut, how every token is accounted for, and what is refused."""

import hashlib
import json
import os
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from prepare_corpus import BUCKETS, documents_of, make_texts, rows_of, write_jsonl
from pyarrow import parquet

from dataset_decomposition.accounting import Accounting
from dataset_decomposition.cutters import make_cutter
from dataset_decomposition.decompose import CutRule, decompose
from dataset_decomposition.prepare import make_settings, prepare
from dataset_decomposition.randomness import stream, stream_key
from dataset_decomposition.records import open_dataset, read_info
from dataset_decomposition.spill import SpillWriter
from dataset_decomposition.tokenizer import TokenizerSpec, find_tokenizer, train_bpe

pytestmark = pytest.mark.usefixtures("small_parts")


@pytest.mark.parametrize("mode", ["disjoint", "overlap1"])
@pytest.mark.parametrize("overflow", ["greedy", "random"])
@pytest.mark.parametrize("tail", ["drop", "keep-small"])
def test_rows_and_counts_are_those_of_the_documents_cut_one_by_one(
    corpus: Path, tmp_path: Path, mode: Any, overflow: Any, tail: Any
):
    out = tmp_path / "out"
    prepare([str(corpus)], out, mode=mode, overflow=overflow, tail=tail, seed=5, **BUCKETS)
    rule = CutRule(mode=mode, overflow=overflow, tail=tail, **BUCKETS)
    expected = {k: Counter() for k in range(rule.lowest_bucket, 8)}
    kept = dropped_tail = dropped_short = 0
    for name, index, tokens in documents_of(corpus):
        pieces = decompose(tokens, rule, stream(stream_key(5, "document", name), index))
        shared = 1 if mode == "overlap1" else 0
        stored = sum(len(p.tokens) - shared for p in pieces) + (shared if pieces else 0)
        kept += stored
        dropped_tail += len(tokens) - stored if pieces else 0
        dropped_short += 0 if pieces else len(tokens)
        for piece in pieces:
            expected[piece.bucket][piece.tokens.tobytes()] += 1
    assert rows_of(out) == expected
    info = read_info(out)
    total = sum(len(tokens) for _, _, tokens in documents_of(corpus))
    assert info["tokens"] == {
        "in": total,
        "kept": kept,
        "dropped_tail": dropped_tail,
        "dropped_short": dropped_short,
    }
    assert total == kept + dropped_tail + dropped_short
    assert dropped_short > 0 or tail == "keep-small"
    for bucket, counts in expected.items():
        stated = info["buckets"][str(bucket)]
        assert stated["sequences"] == counts.total()
        assert stated["tokens"] == counts.total() << bucket
    lengths = Counter(str(len(t).bit_length() - 1) for _, _, t in documents_of(corpus))
    assert info["document_lengths_log2"] == dict(lengths)


def test_dataset_json_says_how_it_was_made(corpus: Path, tmp_path: Path):
    prepare([f"{corpus}/*.jsonl"], tmp_path / "out", **BUCKETS)
    info = read_info(tmp_path / "out")
    expected = {
        "schema": 1,
        "format": "packed",
        "method": "dd",
        "min_bucket": 3,
        "max_bucket": 7,
        "mode": "disjoint",
        "overflow": "greedy",
        "tail": "drop",
        "seed": 0,
        "text_key": "text",
        "vocab_size": 257,
        "eot_id": 256,
        "dtype": "uint16",
        "heldout": None,
    }
    assert {key: info[key] for key in expected} == expected
    assert info["tokenizer"]["name"] == "bytes"
    assert info["documents"] == {"in": 600, "usable": 600, "empty": 0, "failed": {}}
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"dataset.json", "prepare.json", *(f"D_{k}" for k in range(3, 8))}


@pytest.mark.parametrize("mode", ["disjoint", "overlap1"])
def test_concat_glues_documents_in_order(corpus: Path, tmp_path: Path, mode: Any):
    prepare([f"{corpus}/part-0.jsonl"], tmp_path / "out", method="concat", mode=mode, max_bucket=6)
    documents = [t for name, _, t in documents_of(corpus) if name == "part-0.jsonl"]
    glued = np.concatenate(documents)
    step = 64 + (mode == "disjoint")
    starts = range(0, len(glued) - 64, step)
    assert rows_of(tmp_path / "out") == {6: Counter(glued[s : s + 65].tobytes() for s in starts)}
    covered = starts[-1] + 65
    info = read_info(tmp_path / "out")
    assert info["tokens"] == {
        "in": len(glued),
        "kept": covered,
        "dropped_tail": len(glued) - covered,
        "dropped_short": 0,
    }
    assert (info["min_bucket"], info["overflow"], info["tail"]) == (6, None, None)


def test_seed_changes_the_order_only(corpus: Path, tmp_path: Path):
    for seed in (0, 1):
        prepare([str(corpus)], tmp_path / str(seed), seed=seed, **BUCKETS)
    assert rows_of(tmp_path / "0") == rows_of(tmp_path / "1")
    first, second = (open_dataset(tmp_path / str(s)).buckets[3] for s in (0, 1))
    assert not np.array_equal(first.read(np.arange(50)), second.read(np.arange(50)))


def test_rows_are_shuffled_over_the_files(tmp_path: Path):
    for index in range(4):
        write_jsonl(tmp_path / "in" / f"{index}.jsonl", [chr(97 + index) * 8] * 500)
    prepare([str(tmp_path / "in")], tmp_path / "out", min_bucket=3, max_bucket=3)
    reader = open_dataset(tmp_path / "out").buckets[3]
    letters = reader.read(np.arange(reader.num_rows))[:, 0] - 97
    for part in np.array_split(letters, 4):
        assert np.bincount(part, minlength=4).min() > len(part) / 8


def test_bad_held_out_documents_fail_too(corpus: Path, tmp_path: Path):
    held = write_jsonl(tmp_path / "held.jsonl", ["fine", ""])
    with pytest.raises(ValueError, match=r"1 of 2 held-out documents .*held\.jsonl:2"):
        prepare([str(corpus)], tmp_path / "out", heldout=[str(held)], **BUCKETS)


def test_held_out_documents_are_stored_whole(corpus: Path, tmp_path: Path):
    texts = make_texts(33, 20)
    held = write_jsonl(tmp_path / "held.jsonl", texts)
    prepare([str(corpus)], tmp_path / "out", heldout=[str(held)], **BUCKETS)
    heldout = open_dataset(tmp_path / "out").heldout()
    assert heldout.num_documents == 20
    assert heldout.tokens.dtype == np.uint16
    assert heldout.offsets.dtype == np.int64
    for index, text in enumerate(texts):
        assert heldout.document(index).tolist() == [*text.encode(), 256]
    with pytest.raises(IndexError, match="document 20 of 20"):
        heldout.document(20)
    stated = read_info(tmp_path / "out")["heldout"]
    assert stated["documents"]["in"] == 20
    assert stated["tokens"]["in"] == len(heldout.tokens)


def test_bpe_is_trained_on_the_input_and_kept(corpus: Path, tmp_path: Path):
    out = tmp_path / "out"
    prepare([str(corpus)], out, tokenizer="bpe", vocab_size=320, **BUCKETS)
    info = read_info(out)
    assert (info["tokenizer"]["name"], info["vocab_size"], info["eot_id"]) == ("bpe-320", 320, 319)
    path = out / "tokenizer/tokenizer.json"
    assert info["tokenizer"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    # The file stands by itself: preparing with it gives the same rows.
    copy = tmp_path / "copy.json"
    copy.write_bytes(path.read_bytes())
    prepare([str(corpus)], tmp_path / "again", tokenizer=str(copy), **BUCKETS)
    assert rows_of(tmp_path / "again") == rows_of(out)


def test_a_bpe_that_runs_out_of_pairs_is_recorded_with_its_own_size(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    path = write_jsonl(tmp_path / "a.jsonl", ["abcd abcd"] * 9)
    out = tmp_path / "out"
    prepare([str(path)], out, tokenizer="bpe", vocab_size=100_000, min_bucket=1, max_bucket=1)
    # Bytes, end of text, and the merges of "abcd" and " abcd".
    merges = len(json.loads((out / "tokenizer/tokenizer.json").read_text())["model"]["merges"])
    size = 256 + 1 + merges
    info = read_info(out)
    assert 257 < size < 270
    assert (info["vocab_size"], info["eot_id"]) == (size, size - 1)
    assert info["tokenizer"]["name"] == f"bpe-{size}"
    assert f"the trained BPE has {size} ids, fewer than --vocab_size 100000" in caplog.text


def test_one_unusable_document_is_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = write_jsonl(tmp_path / "a.jsonl", ["x" * 20, ""])
    prepare([str(path)], tmp_path / "out", max_bad=0.5, min_bucket=3, max_bucket=3)
    (line,) = [record.message for record in caplog.records if "cannot be used" in record.message]
    assert line == (
        f"1 of 2 documents (50.00%) cannot be used: empty_text 1; first empty_text at {path}:2"
    )


@pytest.mark.parametrize("method", ["dd", "concat"])
def test_one_partition_opens_no_stream(tmp_path: Path, method: Any):
    spec = TokenizerSpec("bytes", None)
    rule = CutRule(min_bucket=2, max_bucket=2)
    settings = make_settings(
        spec, method=method, rule=rule, text_key="text", seed=0, format="packed"
    )

    def refuse() -> np.random.Philox:
        raise AssertionError("a stream was opened")

    tokens = np.arange(20, dtype=np.uint16)
    with SpillWriter(tmp_path, num_partitions=2, buffer_bytes=1 << 20) as spill:
        make_cutter(settings, "a", 1, spill, Accounting()).add(tokens, refuse)
        with pytest.raises(AssertionError, match="was opened"):
            make_cutter(settings, "a", 2, spill, Accounting()).add(tokens, refuse)


def test_a_large_vocabulary_is_stored_as_uint32(tmp_path: Path):
    import tokenizers
    from tokenizers import models, pre_tokenizers

    vocabulary = {"[UNK]": 0, "a": 70_000, "b": 65_536, "</s>": 1}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    path = write_jsonl(tmp_path / "a.jsonl", ["a b a b", "b b b b"])
    for name in ("packed", "openlm"):
        prepare(
            [str(path)],
            tmp_path / name,
            tokenizer=str(tmp_path / "tokenizer.json"),
            format=name,
            min_bucket=2,
            max_bucket=2,
        )
        reader = open_dataset(tmp_path / name).buckets[2]
        assert reader.dtype == np.uint32
        rows = sorted(map(tuple, reader.read([0, 1]).tolist()))
        assert rows == [(65536, 65536, 65536, 65536, 1), (70000, 65536, 70000, 65536, 1)]


def test_openlm_format_holds_the_same_rows_as_printed_lists(corpus: Path, tmp_path: Path):
    for name in ("packed", "openlm"):
        prepare([str(corpus)], tmp_path / name, format=name, **BUCKETS)
    as_ids = {
        name: {
            k: Counter(tuple(r) for r in reader.read(np.arange(reader.num_rows)).tolist())
            for k, reader in open_dataset(tmp_path / name).buckets.items()
        }
        for name in ("packed", "openlm")
    }
    assert as_ids["packed"] == as_ids["openlm"]
    with tarfile.open(tmp_path / "openlm/D_3/shard-0000000.tar") as tar:
        member = tar.next()
        assert member is not None
        assert member.name == "000000000000.txt"
        content = tar.extractfile(member)
        assert content is not None
        row = json.loads(content.read())
    assert len(row) == 9
    assert all(isinstance(token, int) for token in row)


def test_one_very_long_document(tmp_path: Path):
    (tmp_path / "long.txt").write_bytes(b"0123456789" * 400_000)
    prepare([str(tmp_path / "long.txt")], tmp_path / "out", mode="overlap1")
    info = read_info(tmp_path / "out")
    r = 4_000_000
    expected = r // 2**13 + (r % 2**13 >> 8 << 8).bit_count()
    assert sum(b["sequences"] for b in info["buckets"].values()) == expected
    assert info["tokens"]["dropped_tail"] == r % 2**8


def test_demo_documents_can_be_prepared(tmp_path: Path):
    prepare(["demo:documents/docstrings/heldout"], tmp_path / "out", min_bucket=5, max_bucket=9)
    info = read_info(tmp_path / "out")
    assert info["documents"]["usable"] > 300
    assert info["inputs"]["files"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input": ["{tmp}/none/*.jsonl"]}, "no input matches"),
        ({"input": [""]}, "an input has the empty name ''"),
        ({"heldout": [""]}, "an input has the empty name ''"),
        ({"out": ""}, "the output folder is '' or '.'; name a folder"),
        ({"input": ["{tmp}/a.jsonl", "{tmp}/a.parquet"]}, "no column 'text'; name one of body"),
        ({"heldout": ["{tmp}/a.parquet"]}, "no column 'text'; name one of body"),
        ({"text_key": "body"}, r"missing_text 20; .*\(--text_key names the field of the text\)"),
        ({"input": ["{tmp}/array.json"]}, r"invalid_json 2; .*one object a line, not an array"),
        ({"input": ["{tmp}/a.parquet"]}, "no column 'text'; name one of body with --text_key"),
        ({"input": ["{tmp}/empty.jsonl"]}, "hold no documents: all files are empty"),
        ({"input": ["{tmp}/short.jsonl"]}, "none of 2 documents has the 9 tokens of the shortest"),
        ({"input": ["{tmp}/short.jsonl"], "method": "concat"}, "do not fill one row of 129"),
        ({"heldout": ["{tmp}/a.jsonl"]}, r"a\.jsonl is named both as input and as held out"),
        ({"out": "{tmp}"}, "lies in the output folder"),
        ({"min_bucket": 8}, "min_bucket <= max_bucket"),
        ({"method": "pack"}, "method must be one of dd, concat"),
        ({"format": "arrow"}, "format must be one of packed, openlm"),
        ({"tokenizer": "bpe"}, "needs --vocab_size"),
        ({"tokenizer": "bpe", "vocab_size": 256}, "at least 257"),
        ({"vocab_size": 1000}, "for tokenizer bpe only"),
        ({"max_bad": 1.5}, "max_bad is a share between 0 and 1"),
        ({"workers": 0}, "workers must be at least 1"),
    ],
)
def test_impossible_requests_are_refused(tmp_path: Path, options: dict[str, Any], message: str):
    write_jsonl(tmp_path / "a.jsonl", make_texts(0, 20))
    write_jsonl(tmp_path / "short.jsonl", ["abc", "de"])
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "array.json").write_text('[\n{"text": "a"}\n]\n')
    parquet.write_table(pa.table({"body": ["text"]}), tmp_path / "a.parquet")

    def fill(value: Any) -> Any:
        if isinstance(value, list):
            return [fill(item) for item in value]
        return value.format(tmp=tmp_path) if isinstance(value, str) else value

    settings = {"input": ["{tmp}/a.jsonl"], "out": "{tmp}/out", **BUCKETS, **options}
    settings = {key: fill(value) for key, value in settings.items()}
    settings["out"] = Path(settings["out"])
    with pytest.raises(ValueError, match=message) as refused:
        prepare(**settings)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out/dataset.json").exists()


def test_a_tokenizer_that_changes_on_the_way_is_noticed(corpus: Path, tmp_path: Path):
    path = tmp_path / "tokenizer.json"
    train_bpe(iter(["abc abc"]), path, vocab_size=257)
    settings = make_settings(
        find_tokenizer(str(path)),
        method="dd",
        rule=CutRule(),
        text_key="text",
        seed=0,
        format="packed",
    )
    train_bpe(iter(["abc abc"]), path, vocab_size=259)
    with pytest.raises(ValueError, match="changed during the preparation"):
        settings.load_tokenizer()


def test_accounting_survives_json():
    account = Accounting(kept=5, dropped_tail=2)
    account.add_document(7)
    account.add_bad("empty_text", "a:1")
    account.add_bad("invalid_json", "a:2")
    account.sequences[3] += 2
    assert Accounting.from_json(json.loads(json.dumps(account.to_json()))) == account
    assert account.balanced
    assert not Accounting(tokens_in=1).balanced


def test_nothing_heavy_is_imported():
    code = (
        "import sys; import dataset_decomposition.prepare, dataset_decomposition.stats, "
        "dataset_decomposition.verify; "
        "print([m for m in ('torch', 'lightning', 'ray', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout.strip() == "[]"

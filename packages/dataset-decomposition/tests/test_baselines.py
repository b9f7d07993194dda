"""Masked baselines and the packed tail: rows, document numbers, and the account of every token."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prepare_corpus import BUCKETS, documents_of, hashes, rows_of, write_jsonl

from dataset_decomposition.cutters import run_lengths
from dataset_decomposition.decompose import CutRule, cut, pieces, remainder
from dataset_decomposition.prepare import prepare
from dataset_decomposition.records import open_dataset, read_info
from dataset_decomposition.stats import stats
from dataset_decomposition.verify import find_problems
from tenfold.bucketing import BadRecordError

pytestmark = pytest.mark.usefixtures("small_parts")
each_mode = pytest.mark.parametrize("mode", ["disjoint", "overlap1"])


def rows_and_documents(out: Path, bucket: int) -> tuple[np.ndarray, np.ndarray]:
    reader = open_dataset(out).buckets[bucket]
    assert reader.has_documents
    numbers = np.arange(reader.num_rows)
    return reader.read(numbers), reader.read_documents(numbers)


def chunks_of(rows: np.ndarray, documents: np.ndarray) -> Counter[bytes]:
    return Counter(
        row[numbers == n].tobytes()
        for row, numbers in zip(rows, documents, strict=True)
        for n in range(numbers.max() + 1)
    )


def expected_figures(chunks: list[int]) -> dict[str, int]:
    """Count targets, and for each the targets of its chunk before it, one by one."""
    lengths = [n - 1 for n in chunks if n > 1]
    return {
        "chunks": len(lengths),
        "contexts": sum(place for length in lengths for place in range(length)),
        "targets": sum(lengths),
    }


def check_account(out: Path, bucket: int, chunks: list[int]) -> None:
    info = read_info(out)
    expected = expected_figures(chunks)
    assert info["packing"]["chunks"] == expected["chunks"]
    assert info["packing"]["contexts"] == expected["contexts"]
    assert sum(b["targets"] for b in info["buckets"].values()) == expected["targets"]
    tokens = info["tokens"]
    assert tokens["in"] == tokens["kept"] + tokens["dropped_tail"] + tokens["dropped_short"]
    _, documents = rows_and_documents(out, bucket)
    assert info["packing"]["padding"] == (documents < 0).sum()
    assert find_problems(out, deep=True) == []


@each_mode
def test_masked_concat_is_concat_with_the_documents_of_its_tokens(
    corpus: Path, tmp_path: Path, mode: Any
):
    for method in ("concat", "concat_docmask"):
        prepare([str(corpus)], tmp_path / method, method=method, mode=mode, max_bucket=6)
    assert rows_of(tmp_path / "concat") == rows_of(tmp_path / "concat_docmask")
    plain, masked = (
        open_dataset(tmp_path / m).buckets[6].read(np.arange(50))
        for m in ("concat", "concat_docmask")
    )
    np.testing.assert_array_equal(plain, masked)
    rows, documents = rows_and_documents(tmp_path / "concat_docmask", 6)
    # Here only documents end with this id, so that their numbers can be counted from it.
    ends = np.cumsum(rows == 256, axis=1)
    np.testing.assert_array_equal(documents[:, 1:], ends[:, :-1])
    assert (documents[:, 0] == 0).all()
    check_account(tmp_path / "concat_docmask", 6, run_lengths(documents).tolist())
    infos = [read_info(tmp_path / m) for m in ("concat", "concat_docmask")]
    assert infos[0]["packing"] == infos[1]["packing"]
    assert infos[0]["tokens"] == infos[1]["tokens"]


@each_mode
def test_documents_that_concat_cuts_are_counted(tmp_path: Path, mode: Any):
    sizes = [7, 1, 8, 9, 30, 3, 2, 2, 5]
    path = write_jsonl(tmp_path / "a.jsonl", ["x" * size for size in sizes])
    prepare([str(path)], tmp_path / "out", method="concat", mode=mode, max_bucket=3)
    step, ends = 8 + (mode == "disjoint"), np.cumsum(np.array(sizes) + 1)
    kept = read_info(tmp_path / "out")["tokens"]["kept"]
    starts = range(0, kept - 8, step)
    whole = dropped = 0
    for start, end in zip(ends - sizes - 1, ends, strict=True):
        whole += any(s <= start and end <= s + 9 for s in starts)
        dropped += start >= kept
    assert read_info(tmp_path / "out")["packing"]["cut_documents"] == len(sizes) - whole - dropped


@each_mode
def test_bestfit_cuts_no_document_that_fits_and_loses_no_token(
    corpus: Path, tmp_path: Path, mode: Any
):
    out = tmp_path / "out"
    prepare([str(corpus)], out, method="bestfit", mode=mode, max_bucket=6)
    expected: list[np.ndarray] = []
    cut_documents = 0
    for _, _, tokens in documents_of(corpus):
        if len(tokens) <= 65:
            expected.append(tokens)
            continue
        cut_documents += 1
        shared = mode == "overlap1"
        position = 0
        while position < len(tokens) - shared:
            expected.append(tokens[position : position + 65])
            position += 65 - shared
    rows, documents = rows_and_documents(out, 6)
    assert chunks_of(rows, documents) == Counter(chunk.tobytes() for chunk in expected)
    info = read_info(out)
    total = sum(len(tokens) for _, _, tokens in documents_of(corpus))
    assert info["tokens"] == {
        "in": total,
        "kept": total,
        "dropped_tail": 0,
        "dropped_short": 0,
    }
    assert info["packing"]["cut_documents"] == cut_documents
    # Every token is predicted but the first of each document, and of each later piece.
    lost = sum(len(t) > 0 for _, _, t in documents_of(corpus))
    if mode == "overlap1":
        assert info["buckets"]["6"]["targets"] == total - lost
    check_account(out, 6, [len(chunk) for chunk in expected])
    assert (documents < 0).mean() < 0.02
    assert (info["min_bucket"], info["overflow"], info["tail"]) == (6, None, None)


@each_mode
@pytest.mark.parametrize("overflow", ["greedy", "random"])
def test_a_packed_tail_loses_nothing_but_single_tokens(
    corpus: Path, tmp_path: Path, mode: Any, overflow: Any
):
    out = tmp_path / "out"
    options = {**BUCKETS, "mode": mode, "overflow": overflow}
    prepare([str(corpus)], out, tail="pack", seed=5, **options)
    prepare([str(corpus)], tmp_path / "drop", tail="drop", seed=5, **options)
    with_tail, without = rows_of(out), rows_of(tmp_path / "drop")
    assert {k: with_tail[k] for k in range(4, 8)} == {k: without[k] for k in range(4, 8)}
    assert without[3] <= with_tail[3]
    before, after = (read_info(path) for path in (tmp_path / "drop", out))
    assert before["tokens"]["dropped_short"] > 0
    assert after["tokens"]["dropped_short"] == 0
    rows, documents = rows_and_documents(out, 3)
    packed = chunks_of(rows, documents) - without[3]
    left_over = before["tokens"]["in"] - before["tokens"]["kept"]
    singles = after["tokens"]["dropped_tail"]
    shared = 0
    if mode == "overlap1":
        # A remainder begins with the last token of the row before, if there was one.
        assert singles == 0
        rule = CutRule(mode=mode, overflow="greedy", **BUCKETS)
        if overflow == "greedy":
            cuts = [(len(t), cut(len(t), rule)) for _, _, t in documents_of(corpus)]
            shared = sum(bool(c.starts) and c.covered < n for n, c in cuts)
            assert sum(len(c) // 2 * n for c, n in packed.items()) == left_over + shared
    else:
        assert sum(len(c) // 2 * n for c, n in packed.items()) == left_over - singles
    assert all(2 <= len(chunk) // 2 <= 9 for chunk in packed)
    if mode == "overlap1":
        targets = sum(bucket["targets"] for bucket in after["buckets"].values())
        assert targets == before["tokens"]["in"] - after["documents"]["usable"]
    chunks = [1 + (1 << k) for k in range(4, 8) for _ in range(with_tail[k].total())]
    check_account(out, 3, chunks + run_lengths(documents).tolist())


@each_mode
def test_pieces_and_remainder_make_up_the_document(mode: Any):
    rule = CutRule(min_bucket=3, max_bucket=5, mode=mode, tail="pack")
    for length in range(1, 200):
        tokens = np.arange(length)
        cuts = cut(length, rule)
        rest = tokens[remainder(length, cuts, rule) :]
        parts = [p.tokens for p in pieces(tokens, cuts)] + ([rest] if len(rest) else [])
        targets = np.concatenate([part[1:] for part in parts]) if parts else np.zeros(0)
        assert len(rest) <= 8
        assert len(rest) != 1
        if mode == "overlap1":
            assert targets.tolist() == list(range(1, length))
        else:
            missing = length - sum(len(part) for part in parts)
            assert missing in (0, 1)
            assert np.concatenate([*parts, [length - 1] * missing]).tolist() == tokens.tolist()


@pytest.mark.parametrize(
    "options", [{"method": "bestfit", "max_bucket": 6}, {"tail": "pack", **BUCKETS}]
)
def test_the_bytes_do_not_depend_on_the_workers(
    corpus: Path, tmp_path: Path, options: dict[str, Any]
):
    for workers in (1, 3):
        prepare([str(corpus)], tmp_path / str(workers), workers=workers, seed=2, **options)
    assert hashes(tmp_path / "1") == hashes(tmp_path / "3")


def test_with_one_length_only_dd_is_concat(tmp_path: Path):
    rng = np.random.default_rng(1)
    texts = ["".join(map(chr, rng.integers(97, 123, 32))) for _ in range(200)]
    path = write_jsonl(tmp_path / "a.jsonl", texts)
    for method in ("dd", "concat", "concat_docmask", "bestfit"):
        prepare([str(path)], tmp_path / method, method=method, min_bucket=5, max_bucket=5)
    readers = {m: open_dataset(tmp_path / m).buckets[5] for m in ("dd", "concat", "bestfit")}
    numbers = np.arange(200)
    dd, concat, bestfit = (reader.read(numbers) for reader in readers.values())
    np.testing.assert_array_equal(dd, concat)
    assert Counter(map(bytes, bestfit)) == Counter(map(bytes, dd))
    assert (rows_and_documents(tmp_path / "bestfit", 5)[1] == 0).all()
    assert (rows_and_documents(tmp_path / "concat_docmask", 5)[1] == 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "bestfit", "format": "openlm"}, "method bestfit stores document numbers"),
        ({"method": "concat_docmask", "format": "openlm"}, "which format openlm cannot"),
        ({"tail": "pack", "format": "openlm"}, "tail pack stores document numbers"),
        ({"method": "best"}, "one of dd, concat, concat_docmask, bestfit, got 'best'"),
    ],
)
def test_impossible_requests_are_refused(
    corpus: Path, tmp_path: Path, options: dict[str, Any], message: str
):
    with pytest.raises(ValueError, match=message):
        prepare([str(corpus)], tmp_path / "out", **{**BUCKETS, **options})


def test_rows_without_documents_say_so(corpus: Path, tmp_path: Path):
    prepare([str(corpus)], tmp_path / "out", tail="pack", **BUCKETS)
    plain = open_dataset(tmp_path / "out").buckets[4]
    with pytest.raises(ValueError, match="D_4 are stored without document numbers"):
        plain.read_documents([0])
    plain.has_documents = True
    with pytest.raises(BadRecordError, match=r"has no 'doc\.npy' member"):
        plain.read_documents([0])


def test_wrong_document_numbers_are_found_in_depth(corpus: Path, tmp_path: Path):
    out = tmp_path / "out"
    prepare([f"{corpus}/part-0.jsonl"], out, method="bestfit", max_bucket=6)
    info = json.loads((out / "dataset.json").read_text())
    info["buckets"]["6"]["targets"] += 1
    (out / "dataset.json").write_text(json.dumps(info))
    assert [p for p in find_problems(out, deep=True) if "targets, dataset.json says" in p]


def test_stats_prints_what_packing_is_judged_by(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    prepare([str(corpus)], tmp_path / "out", method="bestfit", max_bucket=6)
    capsys.readouterr()
    stats(tmp_path / "out")
    printed = capsys.readouterr().out
    stats(tmp_path / "out", json=True)
    figures = json.loads(capsys.readouterr().out)
    info = read_info(tmp_path / "out")
    positions = info["buckets"]["6"]["stored_tokens"]
    assert figures["fill_rate"] == pytest.approx(info["tokens"]["kept"] / positions)
    assert f"{figures['fill_rate']:.2%}" in printed
    _, documents = rows_and_documents(tmp_path / "out", 6)
    lengths = [n - 1 for n in run_lengths(documents).tolist() if n > 1]
    contexts = [place for length in lengths for place in range(length)]
    assert figures["average_chunk_length"] == pytest.approx(np.mean(lengths))
    assert figures["average_document_context"] == pytest.approx(np.mean(contexts))
    assert f"{info['packing']['cut_documents']:,}" in printed

"""Defects of the official code and of its peers that are tested nowhere else (spec, section 5)."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prepare_corpus import BUCKETS, hashes, make_texts, write_jsonl

from dataset_decomposition.decompose import CutRule, cut
from dataset_decomposition.plan import build_plan
from dataset_decomposition.prepare import prepare
from dataset_decomposition.records import open_dataset, read_info
from dataset_decomposition.tokenizer import ByteTokenizer
from tenfold.bucketing import Bucket, BucketPlan, Curriculum


def test_fewer_files_than_workers(tmp_path: Path) -> None:
    """Official: `len(files) // workers` is a step of 0."""
    path = write_jsonl(tmp_path / "a.jsonl", make_texts(0, 100))
    for workers in (1, 3):
        prepare([str(path)], tmp_path / str(workers), workers=workers, **BUCKETS)
    assert hashes(tmp_path / "3") == hashes(tmp_path / "1")


def test_an_interruption_is_no_bad_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Official: `except BaseException: continue` takes Ctrl-C for a damaged document."""
    path = write_jsonl(tmp_path / "a.jsonl", make_texts(0, 600))
    encode = ByteTokenizer.encode
    calls: list[int] = []

    def interrupted(self: ByteTokenizer, texts: Any) -> Any:
        calls.append(len(texts))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return encode(self, texts)

    monkeypatch.setattr(ByteTokenizer, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare([str(path)], tmp_path / "out", max_bad=1.0, **BUCKETS)
    assert not (tmp_path / "out/dataset.json").exists()
    prepare([str(path)], tmp_path / "out", **BUCKETS)
    assert read_info(tmp_path / "out")["documents"]["usable"] == 600


def test_an_error_of_the_tokenizer_is_no_bad_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", make_texts(0, 20))

    def broken(self: ByteTokenizer, texts: Any) -> Any:
        raise RuntimeError("out of tune")

    monkeypatch.setattr(ByteTokenizer, "encode", broken)
    with pytest.raises(Exception, match="out of tune"):
        prepare([str(path)], tmp_path / "out", max_bad=1.0, **BUCKETS)
    assert not (tmp_path / "out/dataset.json").exists()


def test_no_data_is_repeated_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    """Official: every manifest is written five times over."""
    buckets = {"D_3": (8, 40), "D_4": (16, 400)}
    options: dict[str, Any] = {
        "total_steps": 20,
        "tokens_per_step": 64,
        "curriculum": Curriculum.uniform(),
    }
    message = r"takes 10 steps from D_3, which has 5: .* \(these are 2\.00 passes\), .* reshuffle"
    with pytest.raises(ValueError, match=message):
        build_plan(buckets, **options)
    plan = build_plan(buckets, **options, repeat="reshuffle")
    assert "bucket 'D_3' is passed over 2.00 times" in caplog.text
    assert "D_4" not in caplog.text
    assert plan.stats()["D_3"].passes == 2


@pytest.mark.parametrize("bucket", [8, 16])
def test_no_length_wraps_to_zero(tmp_path: Path, bucket: int) -> None:
    """OLMo-core: lengths of 256 and 65,536 overflow the type that `length - 1` fits."""
    length = 1 << bucket
    assert cut(length + 1, CutRule(min_bucket=bucket, max_bucket=bucket)).buckets == [bucket]
    (tmp_path / "a.txt").write_text("x" * length)
    prepare([str(tmp_path / "a.txt")], tmp_path / "out", min_bucket=bucket, max_bucket=bucket)
    (reader,) = open_dataset(tmp_path / "out").buckets.values()
    assert reader.read([0]).tolist() == [[120] * length + [256]]
    plan = build_plan(
        {f"D_{bucket}": (length, len(reader))},
        total_steps=1,
        tokens_per_step=length,
        curriculum=Curriculum.uniform(),
    )
    assert plan.rows(0).tolist() == [0]


@pytest.mark.parametrize("name", ["grow_linear", "grow_p2", "grow_p100", "shrink_p100"])
@pytest.mark.parametrize("batches", [11, 13, 88])
def test_odds_never_ask_for_more_batches_than_there_are(name: str, batches: int) -> None:
    """OLMo-core: with 6 buckets of 11 batches the parts of Grow-Linear sum to 12."""
    buckets = [Bucket(f"D_{k}", 1 << k, batches << 13 - k) for k in range(8, 14)]
    plan = BucketPlan.build(
        buckets, cost_per_step=1 << 13, curriculum=Curriculum.named(name, cycles=8), seed=0
    )
    assert np.bincount(plan.steps).tolist() == [batches] * 6
    for bucket in range(6):
        rows = np.concatenate([plan.rows(int(n)) for n in np.flatnonzero(plan.steps == bucket)])
        assert sorted(rows.tolist()) == list(range(buckets[bucket].num_items))


def test_more_than_2_to_the_32_rows_are_all_in_reach() -> None:
    """OLMo-core: document offsets are uint32."""
    plan = BucketPlan.build(
        [Bucket("D_8", 256, 1 << 34)],
        cost_per_step=1 << 13,
        curriculum=Curriculum.uniform(),
        seed=0,
        wanted={"D_8": 100 << 13},
    )
    rows = np.concatenate([plan.rows(step) for step in range(100)])
    assert np.unique(rows).size == 3200
    assert (rows >= 1 << 33).mean() == pytest.approx(0.5, abs=0.05)
    assert rows.max() < 1 << 34

"""Counts of what is rejected, and when reading stops."""

import json
from pathlib import Path

import pytest

from mobileclip.rejections import (
    RejectedSampleError,
    RejectionBudget,
    count_rejections,
    kind_of,
)
from tenfold.shards import ShardError


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (RejectedSampleError("crop box", "outside").reason, "crop box"),
        (RejectedSampleError("embeddings", "width is missing").reason, "embeddings"),
        ("required 'jpg' or 'png' is missing, has txt", "missing"),
        ("cannot decode: ImageError: truncated", "undecodable"),
    ],
)
def test_kinds(reason: str, kind: str) -> None:
    assert kind_of(reason) == kind


def test_a_process_gives_up_on_data_that_are_mostly_bad() -> None:
    budget = RejectionBudget(0.2)
    for _ in range(790):
        budget.accept()
    for _ in range(209):
        budget.reject("captions: empty")  # not yet 1,000 samples
    with pytest.raises(ShardError, match=r"210 of the first 1000 .* \(captions 209, missing 1\)"):
        budget.reject("required 'jpg' is missing")
    healthy = RejectionBudget(0.2)
    for number in range(3000):
        (healthy.reject("captions: empty") if number % 6 == 0 else healthy.accept())
    assert healthy.rejected == {"captions": 500}


def test_counts_of_a_quarantine(tmp_path: Path) -> None:
    file = tmp_path / "quarantine.jsonl"
    assert not count_rejections(file, "a")
    lines = [("a", "captions: x"), ("a", "captions: y"), ("b", "captions: z"), ("a", "broken")]
    file.write_text("".join(json.dumps({"data": d, "reason": r}) + "\n" for d, r in lines))
    assert count_rejections(file, "a") == {"captions": 2, "undecodable": 1}

"""Result files are refused before the work of measuring, not after it."""

from pathlib import Path
from typing import Any

import pytest

from mobileclip.evaluate import evaluate
from mobileclip.result_files import require_storable, store_result


def test_a_file_that_cannot_be_written_is_refused_before_measuring(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.jsonl"
    require_storable(path, "a")
    assert not path.parent.exists()
    store_result(path, {"key": "mnist", "metrics": {"acc1": 0.1}, "checkpoint": "a"})
    require_storable(path, "a")
    absent = tmp_path / "absent"
    out: dict[str, Any] = {"task": "retrieval", "root": tmp_path / "none"}
    for other, message in (
        (path.parent, "new cannot be written because of .*new: name another file"),
        (path / "below.jsonl", r"below\.jsonl cannot be written because of .*results\.jsonl"),
        (path, "holds results of a, not of .*absent"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(absent, out=other, **out)

"""The file of measured step times."""

from pathlib import Path

import pytest

from dataset_decomposition.config import MODEL_SIZES
from dataset_decomposition.timings import LengthTiming, Timings, load_timings, save_timings


def test_timings_come_back_as_they_were_written(tmp_path: Path) -> None:
    entry = LengthTiming(length=64, ms=2.0, fastest_ms=1.0, slowest_ms=3.0, peak_gib=0.5)
    timings = Timings(tokens=256, lengths=(entry,), clock="cpu", model=MODEL_SIZES["1b"])
    save_timings(timings, tmp_path / "timings.json")
    assert load_timings(tmp_path / "timings.json") == timings


def test_a_hand_written_file_needs_little(tmp_path: Path) -> None:
    path = tmp_path / "figure.json"
    path.write_text('{"tokens": 8192, "lengths": [{"length": 512, "ms": 227}]}')
    timings = load_timings(path)
    assert timings.milliseconds == {512: 227}
    assert (timings.tokens, timings.clock, timings.model) == (8192, "wall", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "no timings file"),
        ("{", "no timings file"),
        ('{"tokens": 8}', "no timings file: 'lengths'"),
        ('{"tokens": 0, "lengths": []}', "tokens must be a whole number >= 1, got 0"),
        ('{"tokens": 8, "lengths": [{"length": 4, "ms": -1}]}', "ms must be > 0, got -1"),
        ('{"tokens": 8, "lengths": [{"length": 0.5, "ms": 1}]}', "length must be a whole number"),
        ('{"tokens": 8, "lengths": [], "clock": "sun"}', "clock must be wall or cpu"),
        ('{"tokens": 8, "lengths": [], "colour": 1}', "colour"),
        ('{"tokens": 8, "lengths": [{"length":4,"ms":1},{"length":4,"ms":1}]}', "must differ"),
    ],
)
def test_bad_timings_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "timings.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_timings(path)

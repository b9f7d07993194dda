"""Photographs: all present offline, crops, the stereo pair, the contact sheets."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tenfold.demo_data import figures, photos
from tenfold.demo_data.__main__ import main

PICTURES = Path(__file__).parents[1] / "docs"


def test_every_photograph_is_there_and_read_only() -> None:
    assert {"astronaut", "cat", "china", "coffee", "flower", "rocket"} <= set(photos.names())
    assert len(photos.names()) == 19
    for name in photos.names():
        pixels = photos.load(name)
        assert pixels.dtype == np.uint8
        assert pixels.shape[2] == 3
        assert min(pixels.shape[:2]) >= 300
        assert pixels.std() > 4
        assert not pixels.flags.writeable


def test_crops_are_seeded_each_for_itself() -> None:
    few, more = photos.crops(3, 24, seed=5), photos.crops(6, 24, seed=5)
    assert more.shape == (6, 24, 24, 3)
    assert more.dtype == np.uint8
    assert np.array_equal(few, more[:3])
    assert len({crop.tobytes() for crop in more}) == 6
    assert not np.array_equal(few, photos.crops(3, 24, seed=6))
    assert photos.crops(0, 24).shape == (0, 24, 24, 3)


def test_disparity_maps_the_left_view_onto_the_right() -> None:
    left, right, disparity = photos.stereo()[:3]
    assert left.shape == right.shape == (*disparity.shape, 3) == (500, 741, 3)
    known = np.isfinite(disparity)
    assert 0.9 < known.mean() < 1
    rows, columns = np.nonzero(known)
    matched = np.rint(columns - disparity[rows, columns]).astype(int)
    inside = matched >= 0
    rows, columns, matched = rows[inside], columns[inside], matched[inside]
    error = np.abs(left[rows, columns].astype(int) - right[rows, matched]).mean()
    wrong = np.minimum(2 * columns - matched, 740)
    assert error < 0.4 * np.abs(left[rows, columns].astype(int) - right[rows, wrong]).mean()


def test_depth_is_in_metres_and_falls_with_disparity() -> None:
    stereo = photos.stereo()
    depth = stereo.depth_m()
    known = np.isfinite(stereo.disparity)
    assert depth.dtype == np.float32
    assert np.array_equal(np.isfinite(depth), known)
    # By hand for the nearest point: 0.193001 * 994.978 / (59.909 + 31.086).
    assert depth[known].min() == pytest.approx(2.1103, abs=1e-3)
    assert depth[known].max() < 6


@pytest.mark.parametrize(
    ("n", "size", "match"), [(-1, 8, "n must be >= 0"), (1, 0, "size >= 1, got n=1, size=0")]
)
def test_bad_crops(n: int, size: int, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        photos.crops(n, size)


def test_unknown_and_missing_photographs(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="unknown photo 'dog': choose one of astronaut, "):
        photos.load("dog")
    gone = replace(photos.PHOTOS["cat"], file="data/gone.png")
    monkeypatch.setitem(photos.PHOTOS, "gone", gone)
    with pytest.raises(FileNotFoundError, match=r"scikit-image .* lacks data/gone.png"):
        photos.load("gone")


@pytest.mark.parametrize("name", sorted(figures.SHEETS))
def test_contact_sheets(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TENFOLD_CACHE", str(tmp_path / "cache"))
    out = tmp_path / f"{name}.png"
    assert main(["show", name, "--out", str(out)]) == 0
    assert capsys.readouterr().out.startswith(f"wrote {out}")
    with Image.open(out) as made, Image.open(PICTURES / f"demo_{name}.png") as shipped:
        assert made.size == shipped.size
    assert out.stat().st_size < 200_000
    assert (PICTURES / f"demo_{name}.png").stat().st_size < 200_000

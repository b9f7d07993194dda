"""The verb that fits a linear map: its file takes the place of h."""

from pathlib import Path

import numpy as np
import pytest

from fastfill.cache_writing import write_cache
from fastfill.card import ModelCard
from fastfill.cli import APP
from fastfill.feature_cache import FeatureCache
from fastfill.transform import transform_all
from fastfill.weights import load_transformation


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    draw = np.random.default_rng(0)
    old = draw.normal(size=(64, 4)).astype(np.float32)
    new = old @ draw.normal(size=(4, 3)).astype(np.float32) + 2
    return write_cache(
        tmp_path / "train",
        ids=[str(number) for number in range(64)],
        old=old,
        new=new,
        old_card=ModelCard("old", 4, "l2", "a"),
        new_card=ModelCard("new", 3, "l2", "b"),
        dtype="float32",
    )


def test_a_linear_relation_is_found(cache: FeatureCache, tmp_path: Path) -> None:
    out = tmp_path / "linear.safetensors"
    words = ["fit-closed-form", str(cache.folder), str(out), "--kind", "linear"]
    assert APP.main(words) == 0
    h, card = load_transformation(out)
    assert (card.kind, card.old, card.new) == ("linear", cache.cards.old, cache.cards.new)
    z, s = transform_all(h, cache.old())
    np.testing.assert_allclose(z, cache.new(), atol=1e-4)
    assert not s.any()


def test_the_file_has_its_ending(
    cache: FeatureCache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert APP.main(["fit-closed-form", str(cache.folder), str(tmp_path / "map.bin")]) == 2
    assert "out must end in .safetensors" in capsys.readouterr().err

"""Rolling a gallery back and forward, and finishing it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gallery_files import NEW_DIM, OLD_DIM, cards, make, new_vectors, vectors

from fastfill.card import ModelCard
from fastfill.gallery import (
    Gallery,
    GalleryCards,
    Message,
    Version,
    submit,
)


def rows(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


def test_roll_back_to_transformed_and_forward_again(tmp_path: Path) -> None:
    folder = make(tmp_path / "g", 4)
    z = vectors("z", 4, NEW_DIM)
    with Gallery.open(folder, "w") as gallery:
        gallery.apply(rows(3, 1), new_vectors(2))
        gallery.add(["more"], new_vectors(1))
        assert gallery.rollback("transformed", z=lambda wanted: z[wanted]) == 2
        np.testing.assert_array_equal(gallery.vectors(np.arange(4)), z)
        assert gallery.versions().tolist() == [1, 1, 1, 1, Version.NEW]
        assert gallery.queue(9).tolist() == [3, 2, 1, 0]


def test_roll_back_to_old_searches_old_vectors(tmp_path: Path) -> None:
    folder = make(tmp_path / "g", 3)
    z = vectors("z", 3, NEW_DIM)
    with Gallery.open(folder, "w") as gallery:
        gallery.add(["more"], new_vectors(1))
        gallery.apply(rows(0), new_vectors(1))
        gallery.check_query_version(cards().new)
        assert gallery.rollback("old") == 3
    with Gallery.open(folder, "w") as gallery:
        assert gallery.dim == OLD_DIM
        assert gallery.live_rows().tolist() == [0, 1, 2]
        np.testing.assert_array_equal(gallery.vectors(rows(0, 1, 2)), vectors("old", 3, OLD_DIM))
        assert gallery.describe(rows(0)) == ["old"]
        gallery.check_query_version("sha-old")
        with pytest.raises(ValueError, match=r"embedded by new \(sha-new\).*searched with old"):
            gallery.check_query_version(cards().new)
        with pytest.raises(ValueError, match="roll back to transformed first"):
            gallery.finalise(force=True)
        assert gallery.rollback("transformed", z=lambda wanted: z[wanted]) == 1
        assert gallery.dim == NEW_DIM
        assert gallery.live_rows().tolist() == [0, 1, 2, 3]


def test_way_forward_from_the_old_model_keeps_new_vectors(tmp_path: Path) -> None:
    folder = make(tmp_path / "g", 4)
    with Gallery.open(folder, "w") as gallery:
        gallery.apply(rows(0, 1), new_vectors(2))
        gallery.add(["more"], new_vectors(1))
        assert gallery.rollback("new") == 0
        gallery.rollback("old")
        assert gallery.rollback("new") == 5
    with Gallery.open(folder) as gallery:
        assert gallery.counts().new == 3
        assert gallery.queue(9).tolist() == [3, 2]
        np.testing.assert_array_equal(gallery.vectors(rows(0, 1)), new_vectors(2))
        gallery.check_query_version(cards().new)


def test_added_item_is_named_and_refused_while_the_old_model_is_searched(tmp_path: Path) -> None:
    folder = make(tmp_path / "g", 2)
    with Gallery.open(folder, "w") as gallery:
        gallery.add(["more"], new_vectors(1))
        gallery.rollback("old")
        assert gallery.describe(rows(2, 0)) == ["not searched", "old"]
        with pytest.raises(ValueError, match="'more' is not searched with old: only the new model"):
            gallery.vectors(rows(0, 2))
        assert [batch.tolist() for batch, _ in gallery.batches()] == [[0, 1]]


def test_roll_back_takes_the_inbox_with_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make(tmp_path / "g", 5)
    z, new = vectors("z", 5, NEW_DIM), new_vectors(5)
    result = Message(kind="result", rows=rows(1, 2), vectors=new[1:3])
    early = submit(folder, result)
    (late := early.with_suffix(".late")).write_bytes(early.read_bytes())
    with Gallery.open(folder, "w") as gallery:
        assert gallery.rollback("transformed", z=lambda wanted: z[wanted]) == 2
        assert not early.exists()
        late.rename(early)  # came to this machine after the roll-back
        submit(folder, Message(kind="result", reasons={4: "lost"}))  # of a worker that knows none
        assert gallery.apply_pending() == 2
        assert gallery.counts().new == gallery.counts().failed == 0
        assert not list((folder / "pending").iterdir())
        np.testing.assert_array_equal(gallery.vectors(np.arange(5)), z)
    assert "its 2 items were taken before the last roll-back" in caplog.text
    submit(folder, replace(result, epoch=1))
    with Gallery.open(folder, "w") as gallery:
        assert gallery.apply_pending() == 1
        assert gallery.counts().new == 2


def test_several_old_models_are_named_and_not_searched_as_one(tmp_path: Path) -> None:
    models = (ModelCard("v1", 2, "l2", "one"), ModelCard("v2", 3, "l2", "two"))
    several = GalleryCards(new=cards().new, old=models)
    vintage = np.array([0, 1, 1])
    with Gallery.open(make(tmp_path / "g", 3, cards=several, vintage=vintage), "w") as gallery:
        assert gallery.describe(np.arange(3)) == ["h(v1)", "h(v2)", "h(v2)"]
        with pytest.raises(ValueError, match="several old models"):
            gallery.rollback("old")


def test_finalise_removes_old_columns_once_nothing_is_left(tmp_path: Path) -> None:
    folder = make(tmp_path / "g", 3, side=vectors("side", 3, 2))
    with Gallery.open(folder, "w") as gallery:
        gallery.apply(rows(0, 1), new_vectors(2))
        gallery.fail(2, "lost")
        with pytest.raises(ValueError, match="1 of 3 items have no vector of the new model"):
            gallery.finalise()
        gallery.finalise(force=True)
    assert sorted(path.stem for path in folder.glob("*.npy")) == [
        "attempts",
        "status",
        "vec",
        "version",
        "vintage",
    ]
    with Gallery.open(folder, "w") as gallery:
        assert gallery.versions().tolist() == [2, 2, 1]
        assert gallery.queue(9, now=1e12).tolist() == []
        gallery.add(["more"], new_vectors(1))
        gallery.delete(["item 0"])
        gallery.finalise()
        for refused in (lambda: gallery.set_order(rows(0)), lambda: gallery.rollback("old")):
            with pytest.raises(ValueError, match="finalised"):
                refused()
        with pytest.raises(ValueError, match="no column old; it has attempts"):
            gallery.column("old")

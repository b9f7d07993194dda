"""`demo-store`: mistakes are found before any teacher trains, and a rerun makes nothing again."""

from pathlib import Path

import pytest

from dataset_reinforcement import study_teachers
from dataset_reinforcement.demo_store import demo_store
from dataset_reinforcement.store.reading import Store

SMALL = {"characters": 3, "members": 2, "width": 4, "epochs": 1, "views": 2}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small store."""
    out = tmp_path_factory.mktemp("demo") / "store"
    demo_store(out, **SMALL)
    return out


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail when a teacher trains."""

    def trained(*args: object, **kwargs: object) -> None:
        raise AssertionError("a teacher trained")

    monkeypatch.setattr(study_teachers, "train_classifier", trained)


@pytest.mark.usefixtures("no_training")
def test_what_is_there_is_not_made_again(made: Path) -> None:
    store = Store.open(made)
    assert (store.num_images, store.num_views, store.top_k) == (6, 2, 3)
    before = (made / "store.json").read_bytes()
    demo_store(made, **SMALL)
    assert (made / "store.json").read_bytes() == before


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"characters": 1}, "2 to"),
        ({"members": 0}, "members must be >= 1, got 0"),
        ({"width": 0}, "width must be >= 1, got 0"),
        ({"epochs": 0}, "epochs must be >= 1, got 0"),
        ({"views": 0}, "views must be >= 1, got 0"),
        ({"top_k": 0}, "top_k must be >= 1, got 0"),
        ({"seed": -1}, "seed must be >= 0, got -1"),
        ({"workers": 0}, "workers must be >= 1, got 0"),
    ],
)
def test_numbers_are_checked_before_teachers_train(
    options: dict[str, int], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        demo_store(tmp_path / "store", **(SMALL | options))
    assert not any(tmp_path.iterdir())


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views": 3}, "is complete with 2 views"),
        ({"top_k": 2}, r"begun with other settings \(top_k: 3 -> 2\)"),
        ({"seed": 1}, r"begun with other settings \(seed: 0 -> 1\)"),
        ({"characters": 4}, "begun with 3 characters, not 4"),
        ({"epochs": 2}, "epochs: 1 -> 2"),
        ({"members": 1}, "members: 2 -> 1"),
        ({"width": 8}, r"model: .*conv4.* -> .*conv8"),
    ],
)
def test_another_store_is_refused_before_teachers_train(
    options: dict[str, int], message: str, made: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        demo_store(made, **(SMALL | options))


@pytest.mark.usefixtures("no_training")
def test_a_folder_in_use_is_refused_before_teachers_train(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").touch()
    with pytest.raises(ValueError, match="is not empty and holds no store"):
        demo_store(tmp_path, **SMALL)
    with pytest.raises(ValueError, match="is a file"):
        demo_store(tmp_path / "letter.txt", **SMALL)

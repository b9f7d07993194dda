"""Class rules of the test sets against hand-made folders."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset_reinforcement.robustness import (
    CORRUPTIONS_C,
    EvaluationSet,
    Part,
    imagenet_synsets,
    number_labels,
    objectnet_labels,
    open_set,
    plain_labels,
    wnid_labels,
)

TENCH, GOLDFISH, SHARK = "n01440764", "n01443537", "n01484850"
IN_A = ("n01498041", "n01531178")  # labels 6 and 11


def make_images(root: Path, classes: tuple[str, ...], count: int = 1) -> str:
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for copy in range(count):
            pixels = np.full((10, 12, 3), 20 * number, dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{copy}.png")
    return str(root)


def one_part(opened: EvaluationSet) -> Part:
    (part,) = opened.parts
    return part


def test_synset_lists_are_the_published_ones() -> None:
    all_1k = imagenet_synsets()
    assert len(set(all_1k)) == 1000
    assert (all_1k[0], all_1k[1], all_1k[999]) == (TENCH, GOLDFISH, "n15075141")
    for subset in ("_a", "_r"):
        assert len(set(imagenet_synsets(subset))) == 200
        assert set(imagenet_synsets(subset)) < set(all_1k)


@pytest.mark.parametrize(("name", "classes"), [("a", IN_A), ("r", (GOLDFISH, SHARK))])
def test_a_and_r_have_200_competing_classes(
    tmp_path: Path, name: str, classes: tuple[str, ...]
) -> None:
    opened = open_set(name, make_images(tmp_path, classes), num_classes=1000)
    part = one_part(opened)
    assert opened.kind == name
    assert part.competing is not None
    names = [imagenet_synsets()[label] for label in part.competing]
    assert names == sorted(imagenet_synsets(f"_{name}"))
    assert [imagenet_synsets()[label] for (label,) in part.accepted] == list(classes)


def test_a_class_outside_the_subset_is_refused(tmp_path: Path) -> None:
    folder = make_images(tmp_path, (TENCH,))
    with pytest.raises(ValueError, match=f"set 'a': class folder '{TENCH}' is none of the 200"):
        open_set("a", folder, num_classes=1000)


def test_numbered_folders_of_v2_are_labels_not_positions(tmp_path: Path) -> None:
    part = one_part(open_set("v2", make_images(tmp_path, ("0", "2", "10")), num_classes=1000))
    assert part.images.classes == ("0", "10", "2")
    assert part.accepted == ((0,), (10,), (2,))
    assert part.competing is None
    by_name = one_part(open_set("v2", make_images(tmp_path / "x", (SHARK,)), num_classes=1000))
    assert by_name.accepted == ((2,),)


def test_sketch_is_by_wordnet_id(tmp_path: Path) -> None:
    part = one_part(open_set("sketch", make_images(tmp_path, (GOLDFISH, TENCH)), num_classes=1000))
    assert part.accepted == ((0,), (1,))


@pytest.mark.parametrize("archives", [False, True])
def test_c_is_75_folders_in_its_archives_or_not(tmp_path: Path, archives: bool) -> None:
    for number, corruption in enumerate(CORRUPTIONS_C):
        root = tmp_path / str(number % 4) if archives else tmp_path
        for severity in range(1, 6):
            make_images(root / corruption / str(severity), (GOLDFISH,))
    opened = open_set("c", str(tmp_path), num_classes=1000)
    parts = list(opened.parts)
    assert len({part.name for part in parts}) == 75
    assert all(part.accepted == ((1,),) for part in parts)


def test_a_missing_corruption_is_named(tmp_path: Path) -> None:
    make_images(tmp_path / "gaussian_noise" / "1", (GOLDFISH,))
    with pytest.raises(FileNotFoundError, match="no folder gaussian_noise/2"):
        open_set("c", str(tmp_path), num_classes=1000)


def test_corrupted_is_our_own_noise_on_any_images(tmp_path: Path) -> None:
    opened = open_set("corrupted", make_images(tmp_path, ("x", "y")), num_classes=2)
    parts = list(opened.parts)
    assert len(parts) == 25
    assert parts[0].name == "gaussian_noise/1"
    assert parts[0].accepted == ((0,), (1,))
    assert not np.array_equal(parts[0].images.load(1), parts[4].images.load(1))


def write_mappings(folder: Path, **changes: object) -> Path:
    """Ids in the order of a text file of names, as ObjectNet's are: 3 names, 2 objects mapped."""
    contents = {
        "folder_to_objectnet_label": {"clock": "Clock", "bench": "Bench", "sock": "Sock"},
        "objectnet_to_imagenet_1k": {"Clock": "analog clock; digital clock", "Sock": "sock"},
        "pytorch_to_imagenet_2012_id": {"409": 2, "530": 0, "806": 1},
        **changes,
    }
    folder.mkdir(parents=True)
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "imagenet_to_label_2012_v2").write_text("digital clock\nsock\nanalog clock\n")
    return folder


def test_objectnet_counts_each_mapped_class_and_drops_unmapped_objects(tmp_path: Path) -> None:
    write_mappings(tmp_path / "mappings")
    folder = make_images(tmp_path / "images", ("bench", "clock", "sock"), count=2)
    part = one_part(open_set("objectnet", folder, num_classes=1000))
    assert part.accepted == ((), (409, 530), (806,))
    assert part.indices() == [2, 3, 4, 5]
    assert part.border == 2
    assert part.competing is None
    elsewhere = write_mappings(tmp_path / "elsewhere")
    other = one_part(open_set("objectnet", folder, num_classes=1000, mappings=elsewhere))
    assert other.accepted == part.accepted


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pytorch_to_imagenet_2012_id": {"409": 1, "530": 2, "806": 3}}, "counted from 0"),
        ({"objectnet_to_imagenet_1k": {"Clock": "wall clock"}}, "'wall clock', which is no class"),
        ({"objectnet_to_imagenet_1k": {}}, "none of 1 object folders is mapped"),
    ],
)
def test_mappings_that_contradict_are_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    mappings = write_mappings(tmp_path / "mappings", **changes)
    with pytest.raises(ValueError, match=message):
        objectnet_labels(("clock",), mappings)


def test_missing_mappings_are_named(tmp_path: Path) -> None:
    folder = make_images(tmp_path / "images", ("clock",))
    with pytest.raises(FileNotFoundError, match=r"folder_to_objectnet_label\.json"):
        open_set("objectnet", folder, num_classes=1000)


def test_plain_sets_go_by_wordnet_id_or_position() -> None:
    assert plain_labels((SHARK, TENCH), 1000) == ((2,), (0,))
    assert plain_labels(("b", "x", "z"), 3) == ((0,), (1,), (2,))
    with pytest.raises(ValueError, match="the set has 3 classes and the model 4"):
        plain_labels(("b", "x", "z"), 4)


@pytest.mark.parametrize("name", ["v2", "a", "r", "sketch", "c", "objectnet"])
def test_sets_of_imagenet_need_its_classes(name: str) -> None:
    with pytest.raises(ValueError, match="1000 classes, the model has 10"):
        open_set(name, "anywhere", num_classes=10)


def test_names_that_are_no_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="'1000' is no number below 1000"):
        number_labels(("3", "1000"), 1000)
    with pytest.raises(ValueError, match="'cat' is none of the 1000"):
        wnid_labels(("cat",))

"""What stands beside the shards: samples, store.json, versions; and the entropy column."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_stores import AUGMENTS, CLASSES, describe, images, samples

from dataset_reinforcement.store import versions
from dataset_reinforcement.store.entropy import densified_entropy
from dataset_reinforcement.store.info import (
    DrawnViews,
    Part,
    ShardInfo,
    Skipped,
    StoreInfo,
    plan_part,
    read_info,
    write_info,
)
from dataset_reinforcement.store.samples import (
    Sample,
    check_images,
    fingerprint,
    read_samples,
    write_samples,
)


def test_samples_survive(tmp_path: Path) -> None:
    written = [*samples(images()), Sample("nämlich\n\x00", 7, 0, 0, 3)]
    write_samples(tmp_path, written)
    assert read_samples(tmp_path) == written
    write_samples(tmp_path, [])
    assert read_samples(tmp_path) == []


def test_damaged_samples_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"samples\.parquet does not exist"):
        read_samples(tmp_path)
    write_samples(tmp_path, samples(images()))
    path = tmp_path / "samples.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"samples\.parquet is damaged"):
        read_samples(tmp_path)


def test_reading_samples_starts_no_threads(tmp_path: Path) -> None:
    """Arrow's own ones may abort an interpreter that ends with an error."""
    write_samples(tmp_path, samples(images()))
    code = (
        "import sys; from pathlib import Path\n"
        "from dataset_reinforcement.store.samples import read_samples\n"
        "count = lambda: len(list(Path('/proc/self/task').iterdir()))\n"
        "before = count(); read_samples(Path(sys.argv[1])); print(before, count())"
    )
    words = [sys.executable, "-c", code, str(tmp_path)]
    before, after = subprocess.check_output(words, text=True).split()
    assert before == after


def test_the_fingerprint_sees_order_keys_sizes_and_labels() -> None:
    base = [Sample("a", 10, 4, 4, 0), Sample("b", 10, 4, 4, 0)]
    others = [
        base[::-1],
        base[:1],
        [base[0], base[1]._replace(num_bytes=11)],
        [base[0], base[1]._replace(label=1)],
        [base[0], base[1]._replace(key="c")],
        [Sample("a:10:0\n1:b", 10, 4, 4, 0)],
    ]
    assert len({fingerprint(other) for other in [base, *others]}) == 7
    assert fingerprint([s._replace(height=9) for s in base]) == fingerprint(base)


def test_other_images_are_refused_by_the_first_difference() -> None:
    source = images()
    stored = samples(source)
    check_images(stored, source)
    turned = images(order=[0, 1, 2, 5, 4, 3, 6, 7, 8, 9])
    with pytest.raises(ValueError, match=r"image 3 .*key 'image-3-\w+', .* has 'image-5-\w+'"):
        check_images(stored, turned)
    stored[4] = stored[4]._replace(label=11)
    stored[6] = stored[6]._replace(num_bytes=1)
    with pytest.raises(ValueError, match=r"image 4 .*label 11 \(key 'image-4-\w+'\).* has 4"):
        check_images(stored, source)
    with pytest.raises(ValueError, match=r"image 6 .*encoded size 1 .* has 2016"):
        check_images([*stored[:4], source_sample(4), *stored[5:]], source)


def source_sample(index: int) -> Sample:
    return samples(images())[index]


def test_missing_and_further_images_are_refused() -> None:
    shorter = images(order=range(8))
    with pytest.raises(ValueError, match=r"10 images, the data set 8: .*image 8, key 'image-8"):
        check_images(samples(images()), shorter)
    with pytest.raises(ValueError, match=r"8 images, the data set 10: .*image 8, key 'image-8"):
        check_images(samples(shorter), images())
    # A removed image in the middle is named itself, not only the other length.
    with pytest.raises(ValueError, match=r"image 2 .*key 'image-2"):
        check_images(samples(images()), images(order=[0, 1, 3, 4, 5, 6, 7, 8, 9]))


def test_damaged_sources_are_named() -> None:
    joined = replace(full_info(), seed=None, sources=(DrawnViews(0, 0, 6), DrawnViews(3, 0, 2)))
    assert StoreInfo.from_json(json.loads(json.dumps(joined.to_json()))) == joined
    assert joined.drawn == joined.sources
    with pytest.raises(ValueError, match="the sources have 6 views, the parts 8"):
        replace(joined, sources=joined.sources[:1])


def test_stores_of_before_tell_their_views_by_seed_and_parts() -> None:
    values = json.loads(json.dumps(full_info().to_json()))
    del values["sources"]
    assert StoreInfo.from_json(values).drawn == (DrawnViews(0, 0, 6), DrawnViews(0, 6, 2))


def full_info() -> StoreInfo:
    plan = plan_part(first=0, count=6, num_images=10, shard_size=4)
    shards = tuple(replace(s, bytes=9, sha256="00") for s in plan.shards)
    parts = (replace(plan, shards=shards), Part(6, 2, shards))
    return describe(
        AUGMENTS["randaug_mixing"],
        parts=parts,
        skipped=(Skipped(3, "image-3", "cut off"),),
        counts={"renormalised": 2},
        partner_group=4,
        compat="apple",
        status="complete",
    )


def test_store_json_survives(tmp_path: Path) -> None:
    write_info(tmp_path, full_info())
    assert read_info(tmp_path) == full_info()
    written = json.loads((tmp_path / "store.json").read_text())
    assert written["parts"][0]["shards"][1] == {
        "file": "views-00000-00006/shard-00001.safetensors",
        "images": [4, 8],
        "bytes": 9,
        "sha256": "00",
    }
    assert written["classes_sha256"] == full_info().classes_sha256
    assert full_info().num_views == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.update(schema=2), "schema is 2, this version reads 1"),
        (lambda values: values.update(classes=["x"] * 12), "class names do not have the hash"),
        (lambda values: values.pop("teacher"), "damaged.*teacher"),
        (lambda values: values.update(colour=1), "damaged.*colour"),
        (lambda values: values["augment"].update(sise=1), "damaged.*sise"),
        (lambda values: values["augment"].update(flip=2), r"augment\.flip must be a probability"),
        (lambda values: values.update(top_k=13), "top_k is 13 with 12 classes"),
        (lambda values: values.update(prob_dtype="int8"), "prob_dtype must be float16"),
        (lambda values: values["parts"][1].update(first=7), "view 7 should begin at view 6"),
        (lambda values: values["parts"][0]["shards"].pop(), "ends at image 8 of 10"),
        (lambda values: values["parts"][0]["shards"].pop(0), "expected to begin at 0"),
        (lambda values: values["parts"][0]["shards"][0].update(sha256=None), "has no sha256"),
        (
            lambda values: values["parts"][0]["shards"][0].update(file="../../etc/shard"),
            "'../../etc/shard' must be named like",
        ),
    ],
)
def test_a_bad_store_json_is_named(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    values = json.loads(json.dumps(full_info().to_json()))
    change(values)
    (tmp_path / "store.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=message) as caught:
        read_info(tmp_path)
    assert str(tmp_path / "store.json") in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_no_json_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "store.json").write_text(text)
    with pytest.raises(ValueError, match=r"store\.json"):
        read_info(tmp_path)


def test_a_folder_without_store_json_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is no store; make one with generate"):
        read_info(tmp_path)


def test_planned_parts_cover_all_images() -> None:
    part = plan_part(first=50, count=25, num_images=9, shard_size=4)
    assert part.shards == (
        ShardInfo("views-00050-00075/shard-00000.safetensors", (0, 4)),
        ShardInfo("views-00050-00075/shard-00001.safetensors", (4, 8)),
        ShardInfo("views-00050-00075/shard-00002.safetensors", (8, 9)),
    )


def test_the_same_versions_pass_whatever_their_build() -> None:
    here = versions.library_versions()
    assert set(here) == {"torch", "torchvision", "pillow", "numpy"}
    assert not any("+" in version for version in here.values())
    versions.check_versions(here | {"torch": here["torch"] + "+cu128", "numpy": "0.1"})
    versions.check_versions({})


def test_other_versions_are_refused_unless_allowed(caplog: pytest.LogCaptureFixture) -> None:
    here = versions.library_versions()
    stored = here | {"torchvision": "0.1.2"}
    text = rf"torchvision 0\.1\.2 \(here {here['torchvision']}\)"
    with pytest.raises(ValueError, match=text + r".*allow_other_versions"):
        versions.check_versions(stored)
    versions.check_versions(stored, allow_other_versions=True)
    assert "torchvision 0.1.2" in caplog.text
    with pytest.raises(ValueError, match="resize another"):
        versions.check_versions({"resize": "another"})


def test_another_pillow_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """By the decode policy, and by that alone: arrays are not decoded."""
    versions.check_versions(versions.library_versions() | {"pillow": "1.0"})
    assert not caplog.records
    stored, here = {"library": "pillow 1.0"}, {"library": "pillow 2.0"}
    versions.check_decode(stored, here, allow_other_versions=True)
    assert caplog.text.count("pillow 1.0") == 1


def test_another_decode_policy_is_refused() -> None:
    here = {"library": "pillow 12.1", "exif": "ignored"}
    versions.check_decode(here, dict(here))
    other = {"library": "pillow 10.0", "exif": "ignored"}
    with pytest.raises(ValueError, match=r"library pillow 10\.0 \(here pillow 12\.1\)"):
        versions.check_decode(other, here)
    versions.check_decode(other, here, allow_other_versions=True)
    for stored in ({"library": "pillow 12.1", "exif": "applied"}, {"library": "pillow 12.1"}):
        with pytest.raises(ValueError, match=r"exif (applied|absent) \(here ignored\)"):
            versions.check_decode(stored, here, allow_other_versions=True)


def test_entropy_of_a_densified_label() -> None:
    """Against the dense label, as the losses complete it."""
    stored = np.array([[0.5, 0.25], [1.0, 0.0], [0.6, 0.6]], np.float32)
    for row, found in zip(stored, densified_entropy(stored, num_classes=4), strict=True):
        kept = row.astype(np.float64) / max(1.0, float(row.sum()))
        dense = [*kept, *[max(0.0, 1 - row.astype(np.float64).sum()) / 2] * 2]
        assert found == pytest.approx(-sum(p * np.log(p) for p in dense if p > 0))
    full = np.full(len(CLASSES), 1 / len(CLASSES))
    assert densified_entropy(full, num_classes=len(CLASSES)) == pytest.approx(np.log(len(CLASSES)))
    with pytest.raises(ValueError, match="12 probabilities of 11 classes"):
        densified_entropy(full, num_classes=11)

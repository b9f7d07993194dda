"""What reinforced data say about themselves."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from published_shards import INFO

from mobileclip.published import PUBLISHED, published
from mobileclip.schema import (
    MOBILECLIP_AUGMENT,
    ReinforcementInfo,
    SampleMeta,
    TeacherInfo,
    augment_hash,
    read_info,
    write_info,
)
from tenfold.augment import positional
from tenfold.augment.config import AugmentConfig


def test_the_file_says_what_was_written(tmp_path: Path) -> None:
    info = replace(INFO, captioner="coca", seed=3, versions={"torch": "2"})
    write_info(tmp_path, info)
    assert read_info(tmp_path) == info
    assert (info.dims, info.width, info.scales) == ((6, 4), 10, (100.0, 100.0))


def test_a_sample_has_the_names_of_the_specification() -> None:
    meta = INFO.meta(height=3, width=5, image_sha256="ab")
    values = json.loads(json.dumps(meta.to_json()))
    names = {"h", "w", "image_sha256", "teachers", "captioner", "aug_config_hash", "dr_version"}
    assert set(values) == names
    assert set(values["teachers"][0]) >= {"name", "dim", "logit_scale", "input_size"}
    assert SampleMeta.from_json(values) == meta


def test_the_published_views() -> None:
    assert positional.entries(MOBILECLIP_AUGMENT) == ("crop", "rand_augment")  # no flip, no erasing
    assert MOBILECLIP_AUGMENT.interpolation == "bicubic"
    assert augment_hash(MOBILECLIP_AUGMENT) != augment_hash(replace(MOBILECLIP_AUGMENT, size=256))


@pytest.mark.parametrize(
    ("name", "views", "scales"),
    [
        ("datacompdr-12m", 30, (100, 100)),
        ("datacompdr-1b", 10, (100, 100)),
        ("dfndr-2b", 2, (70, 60)),
    ],
)
def test_the_releases(name: str, views: int, scales: tuple[int, int]) -> None:
    info = published(name)
    assert (info.num_views, info.num_captions, info.width) == (views, 5, 1536)
    assert info.scales == scales
    with pytest.raises(ValueError, match=f"one of {', '.join(PUBLISHED)}, got 'other'"):
        published("other")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, "schema is 2, this version reads 1"),
        ({"augment_hash": "0"}, "does not have the hash 0"),
        ({"teachers": []}, "at least one teacher"),
        ({"num_views": 0}, "num_views must be >= 1"),
        ({"decode": "EXIF"}, "decode is 'EXIF'"),
        ({"unknown": 1}, "damaged"),
        ({"teachers": [{"name": "a"}]}, "damaged"),
    ],
)
def test_a_damaged_file_names_itself(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    (tmp_path / "reinforcement.json").write_text(json.dumps({**INFO.to_json(), **changes}))
    with pytest.raises(ValueError, match=message) as error:
        read_info(tmp_path)
    assert "reinforcement.json" in str(error.value)


def test_what_cannot_be() -> None:
    with pytest.raises(FileNotFoundError, match="generate-embeddings"):
        read_info(Path("absent"))
    with pytest.raises(ValueError, match="teacher t: dim must be > 0, got 0"):
        TeacherInfo(name="t", dim=0, logit_scale=1.0, input_size=1)
    with pytest.raises(ValueError, match="must not mix"):
        ReinforcementInfo(
            teachers=INFO.teachers, augment=AugmentConfig(mixup=1.0), num_views=1, num_captions=0
        )
    with pytest.raises(ValueError, match="meta is damaged"):
        SampleMeta.from_json({"h": 1})

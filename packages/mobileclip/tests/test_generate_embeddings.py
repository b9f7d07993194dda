"""`generate-embeddings`: every row is that of its own view; resume, kills, workers, bad input."""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from generation_files import SIZE, VIEWS, hashes, make_image, write_ensemble, write_pairs

from mobileclip.embedding_codecs import FORMATS, Format, decode
from mobileclip.generate.embeddings import generate_embeddings
from mobileclip.generate.teacher_config import TeacherEnsembleConfig
from mobileclip.generate.teachers import Teachers, build_teachers
from mobileclip.members import stored_views
from mobileclip.schema import SampleMeta, read_info
from mobileclip.verify import verify
from tenfold.augment import positional
from tenfold.augment.config import AugmentConfig
from tenfold.augment.pipeline import Augment
from tenfold.jobs import JobError
from tenfold.shards import TarMembers, read_index
from tenfold.testing_kills import run_killed

OPTIONS: dict[str, Any] = {"views": VIEWS, "size": SIZE, "seed": 3}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TeacherEnsembleConfig:
    return write_ensemble(tmp_path_factory.mktemp("teachers"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More samples a shard than go into a batch, one of them bad."""
    folder = tmp_path_factory.mktemp("pairs") / "in"
    return write_pairs(folder, shards=2, each=6, captions=2, bad=(1,))


@pytest.fixture(scope="module")
def reinforced(
    tmp_path_factory: pytest.TempPathFactory, pairs: Path, config: TeacherEnsembleConfig
) -> Path:
    out = tmp_path_factory.mktemp("reinforced") / "out"
    generate_embeddings(str(pairs), out, config, **OPTIONS)
    return out


def test_every_row_is_that_of_its_own_view_and_caption(
    reinforced: Path, pairs: Path, config: TeacherEnsembleConfig
):
    teachers, info = build_teachers(config), read_info(reinforced)
    augment, seen = Augment(info.augment), 0
    for name in ("00000.tar", "00001.tar"):
        tar = TarMembers(reinforced / name)
        assert tar.keys == tuple(k for k in TarMembers(pairs / name).keys if k != "000001")
        for key in tar.keys:
            stored = decode(tar.read(key, "emb.bin"), "emb.bin").to(torch.float32)
            image = torch.from_numpy(make_image(int(key))).permute(2, 0, 1)
            entries = stored_views(json.loads(tar.read(key, "paug.json")))
            views = [
                augment.apply(image, positional.decode(entry, info.augment, mixing=False)[0])
                for entry in entries
            ]
            assert len(entries) == VIEWS
            _same(stored.image, teachers.encode_images(torch.stack(views)))
            _same(stored.text, teachers.encode_texts([f"picture number {int(key)}"]))
            captions = [f"synthetic {int(key)} {i}" for i in range(2)]
            _same(stored.synthetic["syn_text"], teachers.encode_texts(captions))
            seen += 1
    assert seen == 11


def _same(stored: torch.Tensor, exact: torch.Tensor) -> None:
    assert torch.equal(stored, stored.bfloat16().float())
    torch.testing.assert_close(stored, exact, atol=2e-3, rtol=1e-2)


def test_verify_finds_the_same_embeddings_again(
    reinforced: Path, config: TeacherEnsembleConfig, capsys: pytest.CaptureFixture[str]
):
    assert verify(str(reinforced), sample=0, recompute=True, teachers=config) == 0
    assert "11" in capsys.readouterr().out


def test_members_stay_and_meta_tells_image_and_teachers(reinforced: Path, pairs: Path):
    before, after = TarMembers(pairs / "00001.tar"), TarMembers(reinforced / "00001.tar")
    info = read_info(reinforced)
    for key in after.keys:
        for extension in ("png", "txt", "syn.json"):
            assert after.read(key, extension) == before.read(key, extension)
        about = json.loads(after.read(key, "json"))
        meta = SampleMeta.from_json(about.pop("meta"))
        assert about == json.loads(before.read(key, "json"))
        assert (meta.height, meta.width) == make_image(int(key)).shape[:2]
        assert meta.teachers == info.teachers
        assert meta.augment_hash == info.augment_hash


def test_the_folder_tells_what_it_holds(reinforced: Path, config: TeacherEnsembleConfig):
    info, index = read_info(reinforced), read_index(reinforced)
    assert info.teachers == build_teachers(config).describe()
    assert (info.dims, info.num_views, info.num_captions, info.seed) == ((8, 12), VIEWS, 2, 3)
    assert info.captioner == "a captioner"
    assert info.augment.size == info.augment.translate_pixels == SIZE
    assert info.augment.flip == 0
    assert {"torch", "pillow", "open_clip_torch", "resize"} <= info.versions.keys()
    assert [entry.num_samples for entry in index.entries] == [5, 6]
    assert index.metadata == {"reinforcement": "reinforcement.json", "skipped": 1}
    (row,) = map(json.loads, (reinforced / "skipped.jsonl").read_text().splitlines())
    assert row["key"] == "000001"


def test_views_depend_on_seed_uid_and_number_alone(
    tmp_path: Path, reinforced: Path, config: TeacherEnsembleConfig
):
    alone = write_pairs(tmp_path / "in", shards=1, each=1, captions=2)
    generate_embeddings(str(alone), tmp_path / "more", config, **{**OPTIONS, "views": 5})
    generate_embeddings(str(alone), tmp_path / "other", config, **{**OPTIONS, "seed": 4})
    first, more, other = (
        stored_views(json.loads(TarMembers(out / "00000.tar").read("000000", "paug.json")))
        for out in (reinforced, tmp_path / "more", tmp_path / "other")
    )
    assert more[:VIEWS] == first
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_threads_batches_and_full_memory_change_no_byte(
    tmp_path: Path,
    reinforced: Path,
    pairs: Path,
    config: TeacherEnsembleConfig,
    monkeypatch: pytest.MonkeyPatch,
):
    encode_images, encode_texts = Teachers.encode_images, Teachers.encode_texts

    def limited(encode: Any) -> Any:
        def run(self: Teachers, items: Any) -> torch.Tensor:
            if len(items) > 8:
                raise torch.OutOfMemoryError("out of memory")
            return encode(self, items)

        return run

    monkeypatch.setattr(Teachers, "encode_images", limited(encode_images))
    monkeypatch.setattr(Teachers, "encode_texts", limited(encode_texts))
    larger = TeacherEnsembleConfig(members=config.members, batch=16)
    generate_embeddings(str(pairs), tmp_path / "out", larger, view_threads=3, **OPTIONS)
    assert hashes(tmp_path / "out") == hashes(reinforced)


@pytest.mark.slow
def test_a_pool_of_workers_gives_the_same_bytes(
    tmp_path: Path, reinforced: Path, pairs: Path, config: TeacherEnsembleConfig
):
    generate_embeddings(str(pairs), tmp_path / "out", config, workers=2, **OPTIONS)
    assert hashes(tmp_path / "out") == hashes(reinforced)


def test_killed_at_any_change_a_rerun_gives_the_same_bytes(
    tmp_path: Path, reinforced: Path, pairs: Path, config: TeacherEnsembleConfig
):
    def run(out: Path, kill_at: int) -> int:
        work = partial(generate_embeddings, str(pairs), out, config, **OPTIONS)
        return run_killed(work, kill_at=kill_at, preload=["mobileclip.generate.embeddings"])

    changes = run(tmp_path / "whole", 0)
    assert hashes(tmp_path / "whole") == hashes(reinforced)
    for kill_at in (changes // 2, changes - 3, changes):
        out = tmp_path / f"killed-{kill_at}"
        run(out, kill_at)
        generate_embeddings(str(pairs), out, config, **OPTIONS)
        assert hashes(out) == hashes(reinforced), f"killed at change {kill_at} of {changes}"


def test_a_rerun_mends_lost_shards_and_refuses_other_options(
    tmp_path: Path, reinforced: Path, pairs: Path, config: TeacherEnsembleConfig
):
    out = shutil.copytree(reinforced, tmp_path / "out")
    (out / "00001.tar").unlink()
    generate_embeddings(str(pairs), out, config, **OPTIONS)
    assert hashes(out) == hashes(reinforced)
    with pytest.raises(ValueError, match="num_views: 3 -> 4"):
        generate_embeddings(str(pairs), out, config, **{**OPTIONS, "views": 4})
    scaled = TeacherEnsembleConfig(members=config.members, precision="bf16")
    with pytest.raises(ValueError, match='precision: "fp32" -> "bf16"'):
        generate_embeddings(str(pairs), out, scaled, **OPTIONS)
    assert hashes(out) == hashes(reinforced)


@pytest.mark.parametrize("format", FORMATS)
def test_all_formats_hold_the_same(
    tmp_path: Path, reinforced: Path, pairs: Path, config: TeacherEnsembleConfig, format: Format
):
    if format == "emb.bin":
        out = reinforced
    else:
        out = tmp_path / "out"
        generate_embeddings(str(pairs), out, config, format=format, **OPTIONS)
    exact, here = TarMembers(reinforced / "00000.tar"), TarMembers(out / "00000.tar")
    for key in here.keys:
        expected = decode(exact.read(key, "emb.bin"), "emb.bin")
        found = decode(here.read(key, format), format).to(torch.bfloat16)
        for (name, rows), (_, others) in zip(found.tables(), expected.tables(), strict=True):
            assert torch.equal(rows, others), name


def test_without_synthetic_captions_only_the_real_ones_are_embedded(
    tmp_path: Path, config: TeacherEnsembleConfig
):
    pairs = write_pairs(tmp_path / "in", shards=1, each=2)
    generate_embeddings(str(pairs), tmp_path / "out", config, **OPTIONS)
    tar = TarMembers(tmp_path / "out/00000.tar")
    stored = decode(tar.read("000000", "emb.bin"), "emb.bin")
    assert (len(stored.text), dict(stored.synthetic)) == (1, {})
    assert (read_info(tmp_path / "out").num_captions, read_info(tmp_path / "out").captioner) == (
        0,
        "",
    )


def test_an_augmentation_of_ones_own(tmp_path: Path, config: TeacherEnsembleConfig):
    pairs = write_pairs(tmp_path / "in", shards=1, each=1)
    own = AugmentConfig(size=SIZE, flip=0.5)
    generate_embeddings(str(pairs), tmp_path / "out", config, views=2, augment=own)
    assert read_info(tmp_path / "out").augment == own
    mixing = AugmentConfig(size=SIZE, mixup=1.0)
    with pytest.raises(ValueError, match="augment must not mix images"):
        generate_embeddings(str(pairs), tmp_path / "mixed", config, augment=mixing)


def test_samples_with_other_captions_than_the_first_are_left_out(
    tmp_path: Path, config: TeacherEnsembleConfig
):
    first = write_pairs(tmp_path / "first", shards=1, each=3, captions=2)
    second = write_pairs(tmp_path / "second", shards=1, each=3, captions=3)
    shutil.copy(second / "00000.tar", first / "00001.tar")
    pattern = f"{first}/*.tar"
    (first / "index.json").unlink()
    with pytest.raises(
        (JobError, ValueError), match=r"00001.tar: 3 of 3 samples are bad.*'syn_text': 3"
    ):
        generate_embeddings(pattern, tmp_path / "out", config, max_bad_fraction=1.0, **OPTIONS)


def test_reinforced_shards_are_refused(
    tmp_path: Path, reinforced: Path, config: TeacherEnsembleConfig
):
    with pytest.raises((JobError, ValueError), match=r"is reinforced already \(paug.json, emb.bin"):
        generate_embeddings(str(reinforced), tmp_path / "out", config, **OPTIONS)


def test_a_teacher_that_answers_with_nan_is_an_error(
    tmp_path: Path, pairs: Path, config: TeacherEnsembleConfig, monkeypatch: pytest.MonkeyPatch
):
    encode = Teachers.encode_images

    def broken(self: Teachers, views: torch.Tensor) -> torch.Tensor:
        rows = encode(self, views)
        rows[0, 8:] = torch.nan
        return rows

    monkeypatch.setattr(Teachers, "encode_images", broken)
    with pytest.raises(
        (JobError, ValueError), match=r"answer to 000000 is no embedding: image_emb"
    ):
        generate_embeddings(str(pairs), tmp_path / "out", config, **OPTIONS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views": 0}, "^views must be >= 1, got 0"),
        ({"size": 0}, "augment.size must be > 0, got 0"),
        ({"format": "pickle"}, "format must be one of emb.bin, npz, pth.gz, got 'pickle'"),
        ({"workers": 0}, "workers and threads must be >= 1"),
        ({"devices": ["cuda:99"]}, "devices has 'cuda:99', which is not here"),
        ({"max_bad_fraction": 2.0}, r"max_bad_fraction must lie in 0\.\.1, got 2.0"),
    ],
)
def test_impossible_options(
    tmp_path: Path,
    pairs: Path,
    config: TeacherEnsembleConfig,
    options: dict[str, Any],
    message: str,
):
    with pytest.raises(ValueError, match=message):
        generate_embeddings(str(pairs), tmp_path / "out", config, **options)
    assert not (tmp_path / "out").exists()

"""Batches of stored pairs: what belongs together stays together, and what does not is rejected."""

import json
import tarfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published_shards import (
    AUGMENT,
    CAPTIONS,
    INFO,
    VIEWS,
    Made,
    encode_arrays,
    make_sample,
    write_folder,
    write_release,
    write_tar,
)

from mobileclip.images import decode_image
from mobileclip.pairs import Pair, pair_schema
from mobileclip.reader import PairBatch, PairBatches, choose, pair_loader
from mobileclip.reader_config import ReaderConfig
from mobileclip.replay import Replay
from mobileclip.schema import MOBILECLIP_AUGMENT
from mobileclip.tokenizer import tokenize
from tenfold.augment import positional
from tenfold.augment.config import AugmentConfig
from tenfold.augment.pipeline import Augment
from tenfold.shards import ShardError, ShardIndex, TarMembers, index_folder

CONFIG = ReaderConfig(image_size=24, context_length=16)
Release = tuple[ShardIndex, dict[str, Made]]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return write_release(tmp_path_factory.mktemp("release"))


def read(index: ShardIndex, config: ReaderConfig = CONFIG, **options: Any) -> list[PairBatch]:
    options = {"batch_size": 4, "num_batches": 6, **options}
    return list(pair_loader(index, config, options.pop("info", INFO), **options))


def pair_of(made: Made, **changes: Any) -> Pair:
    captions = {"syn_text": tuple(json.loads(made.members["syn.json"])["syn_text"])}
    values = {
        "key": made.uid,
        "uid": made.uid,
        "image": decode_image(made.members["jpg"]),
        "captions": ("real",),
        "synthetic": captions,
        "views": made.views,
    }
    return Pair(**{**values, **changes})


@pytest.mark.parametrize("layout", ["legacy", "new"])
@pytest.mark.parametrize("form", ["npz", "pth.gz", "emb.bin"])
def test_both_layouts_give_the_same_batches(
    tmp_path: Path, release: Release, layout: Any, form: Any
) -> None:
    index, _ = write_release(tmp_path, layout=layout, form=form)
    for one, other in zip(read(index), read(release[0]), strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert (value == other[name]) if name == "keys" else torch.equal(value, other[name])


def test_view_captions_and_rows_belong_together(release: Release) -> None:
    index, made = release
    epochs = 12 // 4
    for number, batch in enumerate(read(index)):
        for row, key in enumerate(batch["keys"]):
            sample = made[key]
            choice = choose(pair_of(sample), CONFIG, number // epochs)
            assert np.array_equal(batch["teacher_image"][row], sample.image[choice.view])
            assert np.array_equal(batch["teacher_text"][row], sample.text[0])
            assert np.array_equal(
                batch["teacher_synthetic"][row], sample.synthetic[choice.synthetic]
            )
            texts = [f"real caption {int(key, 16)}", f"synthetic {int(key, 16)} {choice.synthetic}"]
            tokens = tokenize(texts, context_length=16)
            assert torch.equal(batch["tokens"][row], tokens[0])
            assert torch.equal(batch["synthetic_tokens"][row], tokens[1])
            view, _ = positional.decode(sample.views[choice.view], AUGMENT, mixing=False)
            student = Augment(replace(AUGMENT, interpolation="bilinear"))
            pixels = student.apply(decode_image(sample.members["jpg"]), view, size=24)
            assert torch.equal(batch["image"][row], pixels)
    assert batch["image"].dtype == torch.uint8
    assert batch["teacher_image"].dtype == torch.float32


@pytest.mark.parametrize(
    ("mode", "captions", "names"),
    [
        ("dr", "both", "teacher_image teacher_text teacher_synthetic tokens synthetic_tokens"),
        ("dr", "real", "teacher_image teacher_text tokens"),
        ("dr", "synthetic", "teacher_image teacher_synthetic synthetic_tokens"),
        ("dr", "mix", "teacher_image teacher_text tokens"),
        ("clip", "both", "tokens synthetic_tokens"),
        ("clip", "real", "tokens"),
        ("clip", "mix", "tokens"),
        ("online", "both", "teacher_view tokens synthetic_tokens text synthetic_text"),
        ("online", "synthetic", "teacher_view synthetic_tokens synthetic_text"),
    ],
)
def test_what_a_batch_holds(release: Release, mode: Any, captions: Any, names: str) -> None:
    config = replace(CONFIG, mode=mode, captions=captions)
    batch = read(release[0], config, num_batches=1)[0]
    assert batch.keys() == {"image", "keys", *names.split()}


def test_mix_takes_caption_and_row_together(release: Release) -> None:
    index, made = release
    taken: Counter[str] = Counter()
    for batch in read(index, replace(CONFIG, captions="mix", mix_ratio=0.25), num_batches=30):
        for row, key in enumerate(batch["keys"]):
            stored = {"real": made[key].text, "synthetic": made[key].synthetic}
            found = [
                (kind, n)
                for kind, rows in stored.items()
                for n in range(len(rows))
                if np.array_equal(rows[n], batch["teacher_text"][row])
            ]
            ((kind, number),) = found
            taken[kind] += 1
            text = f"real caption {int(key, 16)}"
            if kind == "synthetic":
                text = f"synthetic {int(key, 16)} {number}"
            assert torch.equal(batch["tokens"][row], tokenize([text], context_length=16)[0])
    assert 0.15 < taken["synthetic"] / taken.total() < 0.35


def test_online_sees_the_stored_views(release: Release) -> None:
    online = read(release[0], replace(CONFIG, mode="online"))
    for one, other in zip(read(release[0]), online, strict=True):
        assert one["keys"] == other["keys"]
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["tokens"], other["tokens"])
    first = online[0]
    made = release[1][first["keys"][0]]
    choice = choose(pair_of(made), CONFIG, 0)
    view, _ = positional.decode(made.views[choice.view], AUGMENT, mixing=False)
    pixels = Augment(AUGMENT).apply(decode_image(made.members["jpg"]), view)
    assert torch.equal(first["teacher_view"][0], pixels)


def test_the_baseline_draws_a_light_crop_of_its_own(release: Release) -> None:
    config = replace(CONFIG, mode="clip", captions="real")
    assert config.drawn_augment == AugmentConfig(size=24, scale=(0.9, 1.0), flip=0.0)
    with_store, without = read(release[0], config), read(release[0], config, info=None)
    for one, other in zip(with_store, without, strict=True):
        assert torch.equal(one["image"], other["image"])
    assert replace(CONFIG, mode="online").drawn_augment == MOBILECLIP_AUGMENT
    first, second = (read(release[0], config, start=start)[0] for start in (0, 12))
    assert first["keys"] != second["keys"]


def test_draws_are_uniform_and_depend_on_the_sample_alone() -> None:
    pair = pair_of(make_sample(1), synthetic={"syn_text": ("a", " ", "b"), "syn_text_x": ("c",)})
    chosen = [choose(pair, CONFIG, epoch) for epoch in range(4000)]
    views = np.bincount([choice.view for choice in chosen], minlength=VIEWS)
    chi_square = float((np.square(views - 1000) / 1000).sum())
    assert chi_square < 16.3  # p = 0.001 with 3 degrees of freedom
    keys = Counter((choice.key, choice.synthetic) for choice in chosen)
    assert set(keys) == {("syn_text", 0), ("syn_text", 2), ("syn_text_x", 0)}  # the blank one never
    assert 1800 < keys["syn_text_x", 0] < 2200  # uniform over keys, then over captions
    assert choose(pair, CONFIG, 7) == chosen[7]
    assert choose(pair, replace(CONFIG, seed=1), 7) != choose(pair, CONFIG, 7) or (
        choose(pair, replace(CONFIG, seed=1), 8) != choose(pair, CONFIG, 8)
    )


def test_sequential_sampling_takes_all_in_turn() -> None:
    config = replace(CONFIG, sampling="sequential")
    chosen = [choose(pair_of(make_sample(1)), config, epoch) for epoch in range(2 * VIEWS)]
    assert [choice.view for choice in chosen] == [*range(VIEWS)] * 2
    assert [choice.synthetic for choice in chosen] == [n % CAPTIONS for n in range(2 * VIEWS)]


def test_sequential_sampling_reaches_every_caption_of_several_keys() -> None:
    config = replace(CONFIG, sampling="sequential")
    texts = ("a", "b", "c", "d")
    pair = pair_of(make_sample(1), synthetic={"syn_text": texts, "syn_text_more": texts})
    chosen = [choose(pair, config, epoch) for epoch in range(100)]
    assert len({(choice.key, choice.synthetic) for choice in chosen}) == 8


def test_translations_stay_in_pixels_unless_they_are_scaled() -> None:
    made = make_sample(0)
    views = [[[0, 0, *made.size], [[3, 150.0 / 331.0 * 32 * 9 / 30], [0, 0.0]]]]
    pair = pair_of(made, views=views)

    def shift(**changes: Any) -> int:
        replay = Replay(replace(CONFIG, image_size=64, **changes), INFO)
        view = replay.student_view(pair, replay.params(pair, 0, 0))
        return int((view.sum((0, 1)) == 0).sum())

    assert shift() == 4  # int(150/331 * 32 * 0.3), the teacher's pixels
    assert shift(scale_translate=True) == 8


def test_workers_and_resume_change_nothing(release: Release) -> None:
    straight = read(release[0])
    for options in ({"workers": 1}, {"start": 8, "num_batches": 4}):
        later = read(release[0], **options)
        for one, other in zip(straight[-len(later) :], later, strict=True):
            assert one["keys"] == other["keys"]
            assert torch.equal(one["image"], other["image"])
            assert torch.equal(one["teacher_synthetic"], other["teacher_synthetic"])


def test_ranks_share_a_batch(release: Release) -> None:
    halves = [read(release[0], batch_size=2, rank=rank, world_size=2) for rank in (0, 1)]
    for whole, one, other in zip(read(release[0]), *halves, strict=True):
        assert whole["keys"] == one["keys"] + other["keys"]
        assert torch.equal(whole["image"], torch.cat([one["image"], other["image"]]))


def drop(extension: str) -> Callable[[Made], dict[str, bytes]]:
    return lambda made: {name: d for name, d in made.members.items() if name != extension}


def put(extension: str, data: bytes) -> Callable[[Made], dict[str, bytes]]:
    return lambda made: {**made.members, extension: data}


def with_arrays(change: Callable[[dict[str, Any]], None]) -> Callable[[Made], dict[str, bytes]]:
    def members(made: Made) -> dict[str, bytes]:
        arrays = {
            "image_emb": made.image.copy(),
            "text_emb": made.text.copy(),
            "syn_text_emb": made.synthetic.copy(),
        }
        change(arrays)
        return {**made.members, "npz": encode_arrays(arrays, "npz")}

    return members


def cut(name: str, rows: Any) -> Callable[[dict[str, Any]], None]:
    return lambda arrays: arrays.update({name: arrays[name][rows]})


def spoil(arrays: dict[str, Any]) -> None:
    arrays["image_emb"][2, 7] = np.nan


def zero(arrays: dict[str, Any]) -> None:
    arrays["syn_text_emb"][1] = 0


def paug(change: Callable[[list[Any]], list[Any]]) -> Callable[[Made], dict[str, bytes]]:
    def members(made: Made) -> dict[str, bytes]:
        data = json.dumps({"param_aug": change(json.loads(json.dumps(made.views)))})
        return {**made.members, "paug.json": data.encode()}

    return members


def outside(views: list[Any]) -> list[Any]:
    views[1][0] = [30, 0, 31, 10]
    return views


def other_size(made: Made) -> dict[str, bytes]:
    meta = INFO.meta(height=1, width=2, image_sha256="").to_json()
    return {**made.members, "json": json.dumps({"uid": made.uid, "meta": meta}).encode()}


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (drop("jpg"), "required 'jpg' or .* is missing"),
        (drop("txt"), "required 'txt' is missing"),
        (drop("syn.json"), r"required 'syn\.json' is missing"),
        (drop("paug.json"), r"required 'paug\.json' is missing"),
        (drop("npz"), r"required 'emb\.bin' or 'npz' or 'pth\.gz' is missing"),
        (put("jpg", b"no image"), "cannot be decoded"),
        (put("txt", b" \n"), "captions: the real caption is empty"),
        (put("txt", b"\xff\xfe"), "cannot decode: UnicodeDecodeError"),
        (put("syn.json", b'{"syn_text": []}'), "captions: all synthetic captions are empty"),
        (put("syn.json", b'{"syn_text": ["", " "]}'), "all synthetic captions are empty"),
        (put("syn.json", b'{"syn_text": ["a", "b"]}'), "embeddings: 2 captions of syn_text, but 3"),
        (put("syn.json", b'{"syn_text_x": ["a"]}'), "1 captions of syn_text_x, but 0 rows"),
        (put("paug.json", b"{}"), "views: param_aug"),
        (put("npz", b"no zip"), "cannot decode"),
        (with_arrays(cut("image_emb", slice(3))), "embeddings: 4 views, but 3 rows for them"),
        (with_arrays(cut("syn_text_emb", slice(2))), "3 captions of syn_text, but 2 rows"),
        (with_arrays(cut("text_emb", [0, 0])), "1 real captions, but 2 rows"),
        (
            with_arrays(lambda arrays: arrays.update({k: v[:, :9] for k, v in arrays.items()})),
            r"embeddings: embeddings are 9 wide, the teachers \[6, 4\] together 10",
        ),
        (with_arrays(spoil), "image_emb row 2 has norm nan for teacher 1"),
        (with_arrays(zero), "syn_text_emb row 1 has norm 0"),
        (paug(lambda views: views[:3]), "embeddings: 3 views, but 4 rows"),
        (paug(outside), "crop box: box .* of view 1 reaches out of the image"),
        (paug(lambda views: [view[:1] for view in views]), "this pipeline's are crop, rand_aug"),
        (other_size, "crop box: views were drawn for 1 x 2 pixels, the image has"),
        (put("pkl", b""), "pickled data can run code"),
    ],
)
def test_bad_samples_are_rejected_with_a_reason(
    tmp_path: Path, broken: Callable[[Made], dict[str, bytes]], message: str
) -> None:
    made = [make_sample(number) for number in range(6)]
    made[2] = replace(made[2], members=broken(made[2]))
    index = write_folder(tmp_path, [made])
    schema = pair_schema(CONFIG, INFO)
    members = TarMembers(tmp_path / "00000000.tar")
    with pytest.raises(ShardError, match=message):
        schema.read(members, made[2].uid)
    batch = read(index, batch_size=6, num_batches=1)[0]
    assert made[2].uid not in batch["keys"]
    assert len(batch["keys"]) == 6  # another sample stands in its place
    noted = (tmp_path / "quarantine.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in noted] == [made[2].uid]


def test_a_released_shard_without_images_fails_at_once(tmp_path: Path) -> None:
    # Defect 6: the official filter drops every sample and loops for ever.
    made = [make_sample(number) for number in range(6)]
    bare = [replace(one, members=drop("jpg")(one)) for one in made]
    index = write_folder(tmp_path / "all", [bare])
    with pytest.raises(ShardError, match=r"no good sample at all.*'jpg'"):
        read(index, max_bad_fraction=0.99)
    some = write_folder(tmp_path / "some", [made[:4] + bare[4:]])
    assert len(read(some, max_bad_fraction=0.5)) == 6
    with pytest.raises(
        ShardError, match=r"2 of 6 samples are bad, more than max_bad_fraction=0\.2"
    ):
        read(some, quarantine=tmp_path / "other.jsonl")


def test_boxes_are_rescaled_for_resized_images(tmp_path: Path) -> None:
    made = make_sample(0)
    height, width = made.size
    double = {"height": 2 * height, "width": 2 * width}
    meta = INFO.meta(**double, image_sha256="").to_json()
    members = {**made.members, "json": json.dumps({"meta": meta}).encode()}
    write_tar(tmp_path / "0.tar", {"a": members})
    index_folder(tmp_path)
    tar = TarMembers(tmp_path / "0.tar")
    with pytest.raises(ShardError, match="crop box: views were drawn for"):
        pair_schema(CONFIG, INFO).read(tar, "a")
    pair = pair_schema(replace(CONFIG, rescale_boxes=True), INFO).read(tar, "a")["pair"]
    for now, then in zip(pair.views, made.views, strict=True):
        assert np.abs(np.array(now[0]) - np.array(then[0]) / 2).max() <= 1
        assert now[1] == then[1]


def test_a_view_of_another_pipeline_names_its_sample() -> None:
    pair = pair_of(make_sample(0), views=[[[0, 0, 8, 8], [[1, 0.123], [0, 0.0]]]])
    batches = PairBatches(CONFIG, INFO, num_samples=1)
    with pytest.raises(ShardError, match=rf"sample '{pair.key}': RandAugment magnitude 0\.123"):
        batches.example(pair, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "other"}, "data.mode must be one of clip, online, dr"),
        ({"captions": "all"}, "data.captions must be one of"),
        ({"sampling": "other"}, "data.sampling must be one of random, sequential"),
        ({"mix_ratio": 1.5}, r"data.mix_ratio must lie in 0\.\.1, got 1\.5"),
        ({"image_size": 0}, "data.image_size must be >= 1"),
        ({"seed": -1}, "data.seed must be >= 0"),
        ({"augment": AugmentConfig(cutmix=1.0)}, "data.augment must not mix"),
        ({"synthetic_keys": "("}, "data.synthetic_keys must be a regular expression"),
    ],
)
def test_bad_options(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **changes)
    with pytest.raises(ValueError, match="mode dr needs reinforced data"):
        pair_schema(CONFIG, None)


def test_our_tars_are_the_described_ones(release: Release) -> None:
    with tarfile.open(release[0].folder / "00000000.tar") as tar:
        names = tar.getnames()[:7]
    assert [name.partition(".")[2] for name in names] == [
        "jpg", "txt", "url.txt", "syn.json", "paug.json", "npz", "json"
    ]  # fmt: skip

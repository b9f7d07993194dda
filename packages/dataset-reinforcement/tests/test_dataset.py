"""Examples: exact replay, keyed draws, hard labels, epochs without gaps, evaluation."""

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_reinforcement import AUGMENT, CLASSES, SEED, SIZE, TinyData
from torch import Tensor
from torchvision.transforms.v2.functional import center_crop

from dataset_reinforcement.config import CurriculumConfig
from dataset_reinforcement.dataset import ReinforcedImages, ReinforcedStream
from dataset_reinforcement.evaluation_images import EvaluationImages
from dataset_reinforcement.generate import generate
from dataset_reinforcement.image_order import images_at
from dataset_reinforcement.images import open_images
from dataset_reinforcement.replay import Place, ReplayConfig, as_float, collate, one_hot
from dataset_reinforcement.resolution import FixedPlan
from dataset_reinforcement.store.reading import Store
from dataset_reinforcement.store.samples import read_samples, write_samples
from dataset_reinforcement.views import draw_reinforcement, make_view
from tenfold.augment.config import AugmentConfig
from tenfold.augment.pipeline import Augment
from tenfold.testing import run_ranks

MIXING = replace(AUGMENT, mixup=0.5, cutmix=0.5)


def dataset(tiny: TinyData, store: Path | None = None, **options: Any) -> ReinforcedImages:
    images = open_images(tiny.train)
    opened = Store.open(store) if store else None
    config = {
        "mode": "dr" if store else "erm",
        "augment": AUGMENT,
        "stored": opened.augment if opened else None,
        "seed": SEED,
        "num_classes": CLASSES,
        "top_k": opened.top_k if opened else 1,
    }
    return ReinforcedImages(images, ReplayConfig(**(config | options)), store=opened)


def place(index: int, epoch: int = 0, size: int = SIZE, progress: float = 0.0) -> Place:
    return Place(epoch, index, size, progress)


def same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


@pytest.mark.parametrize("augment", [AUGMENT, MIXING], ids=["plain", "mixing"])
def test_a_replayed_example_is_one_of_the_stored_views_bit_for_bit(
    tiny: TinyData, augment: AugmentConfig
) -> None:
    data = dataset(tiny, tiny.store(augment=augment), share=1.0)
    store, pipeline, drawn = data.store, Augment(augment), set()
    for index in range(len(data)):
        example = data[place(index, epoch=2)]
        stored = [store.read(index, view) for view in range(store.num_views)]
        load = data.images.load
        views = [make_view(pipeline, load, s.own, s.mix, index) for s in stored]
        (view,) = [n for n, image in enumerate(views) if same(image, example["image"])]
        assert example["classes"].tolist() == stored[view].classes.tolist()
        assert np.array_equal(example["probabilities"], stored[view].probabilities)
        assert example["label"] == data.images.label(index)
        assert example["reinforced"]
        drawn.add(view)
    assert drawn == {0, 1, 2}


def test_an_example_depends_on_seed_epoch_and_index_alone(tiny: TinyData) -> None:
    store = tiny.store()
    first, again = dataset(tiny, store), dataset(tiny, store)
    for index in (3, 0, 7):
        assert same(first[place(index, 4)]["image"], again[place(index, 4)]["image"])
    other = dataset(tiny, store, seed=SEED + 1)
    images = [
        [d[place(i, e)]["image"] for i in range(23)]
        for d, e in ((first, 0), (first, 1), (other, 0))
    ]
    changed = [
        sum(not same(a, b) for a, b in zip(images[0], run, strict=True)) for run in images[1:]
    ]
    assert min(changed) > 10


def test_without_reinforcements_it_is_what_plain_training_sees(tiny: TinyData) -> None:
    mixing = dataset(tiny, tiny.store(augment=MIXING), share=0.0, augment=MIXING)
    plain = dataset(tiny)
    for index in range(23):
        example, expected = mixing[place(index, 1)], plain[place(index, 1)]
        assert same(example["image"], expected["image"])
        assert not example["reinforced"]
        assert example["classes"][0] == example["label"]
        assert example["probabilities"].tolist() == [1, 0, 0]
        assert "classes" not in expected


def test_the_share_of_reinforced_examples_is_p(tiny: TinyData) -> None:
    data = dataset(tiny, tiny.store(), share=0.8)
    taken = [data[place(index, epoch)]["reinforced"] for epoch in range(20) for index in range(23)]
    assert abs(np.mean(taken) - 0.8) < 4 * np.sqrt(0.16 / len(taken))


def test_views_that_the_teacher_draws_itself_are_the_stores(tiny: TinyData) -> None:
    stored = dataset(tiny, tiny.store(augment=MIXING), share=1.0)
    drawn = dataset(tiny, mode="kd", augment=MIXING, num_views=3)
    beside = dataset(tiny, tiny.store(augment=MIXING), mode="kd", share=0.0)
    for index in range(23):
        expected = stored[place(index, 1)]["image"]
        assert same(drawn[place(index, 1)]["image"], expected)
        assert same(beside[place(index, 1)]["image"], expected)
        assert "classes" not in drawn[place(index, 1)]


def test_without_a_number_of_views_each_epoch_has_another(tiny: TinyData) -> None:
    data = dataset(tiny, mode="kd", num_views=0)
    few = dataset(tiny, mode="kd", num_views=2)
    endless = {data[place(5, epoch)]["image"].numpy().tobytes() for epoch in range(6)}
    assert len(endless) == 6
    assert len({few[place(5, epoch)]["image"].numpy().tobytes() for epoch in range(12)}) == 2


def test_a_curriculum_draws_from_the_open_views_only(tiny: TinyData) -> None:
    curriculum = CurriculumConfig(order="easy_to_hard", start=0.1, ramp=1.0)
    data = dataset(tiny, tiny.store(), share=1.0, curriculum=curriculum)
    for index in range(23):
        easiest = int(np.argsort(data.store.entropies(index), kind="stable")[0])
        own = data.store.read(index, easiest).own
        expected = make_view(Augment(AUGMENT), data.images.load, own, None, index)
        for epoch in range(3):
            assert same(data[place(index, epoch)]["image"], expected)
    late = [data[place(4, epoch, progress=1.0)]["image"].numpy().tobytes() for epoch in range(20)]
    assert len(set(late)) == 3


def test_another_size_shows_the_same_region(tiny: TinyData) -> None:
    store = tiny.store(augment=AugmentConfig(size=SIZE))
    data = dataset(tiny, store, share=1.0)
    small, large = (data[place(2, size=size)]["image"] for size in (SIZE, 2 * SIZE))
    assert large.shape == (3, 2 * SIZE, 2 * SIZE)
    shrunk = torch.nn.functional.avg_pool2d(as_float(large), 2)
    assert (shrunk - as_float(small)).abs().mean() < 0.05


def test_hard_labels_in_stored_form() -> None:
    for label in range(4):
        classes, probabilities = one_hot(label, top_k=4, num_classes=4)
        assert sorted(classes) == [0, 1, 2, 3]
        dense = np.zeros(4)
        dense[classes] = probabilities
        assert dense.tolist() == np.eye(4)[label].tolist()


def test_a_batch_with_one_mixed_view_is_float(tiny: TinyData) -> None:
    data = dataset(tiny, tiny.store(augment=MIXING), share=1.0)
    examples = [data[place(index)] for index in range(23)]
    kinds = Counter(example["image"].dtype for example in examples)
    assert kinds[torch.uint8]
    assert kinds[torch.float32]
    batch = collate(examples)
    assert batch["image"].dtype == torch.float32
    for example, image in zip(examples, batch["image"], strict=True):
        assert torch.equal(as_float(example["image"]), image)
    whole = collate([e for e in examples if e["image"].dtype == torch.uint8])
    assert whole["image"].dtype == torch.uint8
    assert whole["classes"].dtype == torch.int64
    assert whole["probabilities"].dtype == torch.float32


def test_every_epoch_has_every_image_once_in_another_order() -> None:
    epochs: dict[int, list[int]] = {}
    for begin in range(0, 45, 3):  # batches of 3 run across the borders of 7 images
        for epoch, index in images_at(range(begin, begin + 3), size=7, seed=1):
            epochs.setdefault(epoch, []).append(index)
    assert [sorted(epochs[epoch]) for epoch in range(6)] == [list(range(7))] * 6
    assert len({tuple(epochs[epoch]) for epoch in range(6)}) > 4


def test_the_curriculum_hears_how_much_of_the_run_is_done(tiny: TinyData) -> None:
    stream = ReinforcedStream(dataset(tiny), FixedPlan(10, SIZE), total=23)
    assert {p.progress for p in stream.places(0)} == {0.0}
    assert {(p.epoch, p.progress) for p in stream.places(22)} == {(9, 0.9)}


def ranks_of_one_run(rank: int, world_size: int, tiny: TinyData, store: Path) -> list[list[str]]:
    plan, options = FixedPlan(8, SIZE, divisor=world_size), {"rank": rank, "world_size": world_size}
    batches = list(ReinforcedStream(dataset(tiny, store), plan, total=4, **options))
    everywhere = [torch.empty_like(batches[0]["label"]) for _ in range(world_size)]
    torch.distributed.all_gather(everywhere, batches[0]["label"])
    (whole, *_) = ReinforcedStream(dataset(tiny, store), FixedPlan(8, SIZE), total=4)
    assert torch.equal(torch.cat(everywhere), whole["label"])
    return [batch["keys"] for batch in batches]


def test_two_processes_share_a_batch(tiny: TinyData) -> None:
    store = tiny.store()
    answers = run_ranks(ranks_of_one_run, 2, tiny, store, timeout_s=250)
    straight = ReinforcedStream(dataset(tiny, store), FixedPlan(8, SIZE), total=4)
    for one, other, batch in zip(*answers, straight, strict=True):
        assert set(one).isdisjoint(other)
        assert one + other == batch["keys"]


@pytest.mark.parametrize(("batch_size", "ranks"), [(4, 1), (4, 2), (2, 3), (100, 4), (1, 2)])
def test_evaluation_takes_every_image_once_and_ranks_alike(
    tiny: TinyData, batch_size: int, ranks: int
) -> None:
    images = open_images(tiny.val)
    shares = [
        EvaluationImages(
            images, size=SIZE, resize=None, batch_size=batch_size, rank=rank, world_size=ranks
        )
        for rank in range(ranks)
    ]
    keys = [key for share in shares for n in range(len(share)) for key in share[n]["keys"]]
    assert sorted(keys) == sorted(images.key(index) for index in range(11))
    # DistributedDataParallel sends buffers at each batch: a rank with one more would wait for ever.
    assert len({len(share) for share in shares}) == 1
    largest = max(len(share[n]["label"]) for share in shares for n in range(len(share)))
    assert largest <= max(batch_size, 2)


def test_evaluation_crops_the_centre(tiny: TinyData) -> None:
    images = open_images(tiny.val)
    (batch,) = EvaluationImages(images, size=8, resize=15, batch_size=11)
    assert torch.equal(batch["image"][3], center_crop(images.load(3), [8, 8]))
    with pytest.raises(ValueError, match="11 images are too few for 12 ranks"):
        EvaluationImages(images, size=8, resize=None, batch_size=4, world_size=12)


def test_a_damaged_image_gives_its_place_to_the_next(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.new("RGB", (20, 20), (80 * number, 10, 10)).save(tmp_path / "a" / f"{number}.jpg")
    (tmp_path / "a" / "1.jpg").write_bytes(b"no image")
    config = ReplayConfig(mode="erm", augment=AUGMENT, num_classes=2)
    data = ReinforcedImages(open_images(str(tmp_path)), config)
    assert same(data[place(1)]["image"], data[place(2)]["image"])
    assert "image 1 replaced by the next one" in caplog.text
    for number in (0, 2):
        (tmp_path / "a" / f"{number}.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match="image 1 and the 16 after it are damaged"):
        data[place(1)]


def test_a_damaged_partner_is_drawn_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a").mkdir()
    for number in range(3):
        Image.new("RGB", (20, 20), (80 * number, 10, 10)).save(tmp_path / "a" / f"{number}.jpg")
    (tmp_path / "a" / "1.jpg").write_bytes(b"no image")
    images, augment = open_images(str(tmp_path)), replace(AUGMENT, mixup=1.0)
    data = ReinforcedImages(images, ReplayConfig(mode="kd", augment=augment, seed=SEED))
    sizes = [(20, 20), (0, 0), (20, 20)]
    for epoch in range(10):
        own, mix = draw_reinforcement(Augment(augment), SEED, 0, epoch, sizes)
        example = data[place(0, epoch)]
        assert example["key"] == images.key(0)
        assert same(example["image"], make_view(Augment(augment), images.load, own, mix, 0))
    assert "image 0 gets another partner" in caplog.text
    assert "replaced" not in caplog.text
    assert data[place(1)]["key"] == images.key(2)


def test_an_image_of_another_size_than_the_stores_is_refused(
    tiny: TinyData, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    for label in range(CLASSES):
        (folder / f"class-{label}").mkdir(parents=True)
        Image.new("RGB", (20, 24), (40 * label, 10, 10)).save(folder / f"class-{label}" / "a.png")
    augment, out = replace(AUGMENT, mixup=1.0), tmp_path / "store"
    generate(str(folder), out, tiny.teacher, augment=augment, views=4, top_k=3, seed=SEED)
    store, images = Store.open(out), open_images(str(folder))
    config = {"augment": AUGMENT, "stored": augment, "num_classes": CLASSES, "top_k": 3}
    stored = ReinforcedImages(images, ReplayConfig(mode="dr", share=1.0, **config), store=store)
    plain = ReinforcedImages(images, ReplayConfig(mode="dr", share=0.0, **config), store=store)
    for data in (stored, plain):
        assert data[place(2)]["key"] == "class-2/a.png"
    Image.new("RGB", (40, 48)).save(folder / "class-2" / "a.png")  # holds every stored crop
    message = r"image 2 \(key 'class-2/a\.png'\) is 48 x 40 pixels, 24 x 20 in "
    for data in (stored, plain):
        with pytest.raises(ValueError, match=message):
            data[place(2)]
    others = [place(index, epoch) for index in (0, 1, 3, 4) for epoch in range(5)]
    with pytest.raises(ValueError, match=r"needs image 2 as its partner.*24 x 20"):
        [stored[other] for other in others]
    assert [plain[other]["key"] for other in others]


def test_a_size_that_an_imported_store_does_not_know_is_not_compared(
    tiny: TinyData, tmp_path: Path
) -> None:
    copied = shutil.copytree(tiny.store(), tmp_path / "store")
    unknown = [sample._replace(height=0, width=0) for sample in read_samples(copied)]
    write_samples(copied, unknown)
    known, imported = dataset(tiny, tiny.store()), dataset(tiny, copied)
    assert known.store.sizes.tolist() == [[16, 15]] * 23
    assert imported.store.sizes.tolist() == [[0, 0]] * 23
    assert same(imported[place(4)]["image"], known[place(4)]["image"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mode": "dr"}, r"loss\.mode dr needs data\.store"),
        ({"mode": "erm", "augment": MIXING}, r"data\.augment\.mixup and cutmix must be 0"),
        ({"mode": "erm", "share": 1.5}, r"data\.share must lie in 0\.\.1, got 1\.5"),
        ({"mode": "kd", "num_views": -1}, r"data\.views must be >= 0"),
    ],
)
def test_bad_config(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReplayConfig(**({"augment": AUGMENT} | values))

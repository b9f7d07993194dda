"""Pixels of a view: against torchvision's own transforms, and the same at every replay."""

import sys

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from tenfold import keyed
from tenfold.augment import pipeline, randaugment
from tenfold.augment.backend import describe
from tenfold.augment.config import AugmentConfig
from tenfold.augment.geometry import scale_box
from tenfold.augment.magnitudes import OPS, PLAIN, SIGNED, level_of, magnitude
from tenfold.augment.params import Box, Op, ViewParams
from tenfold.augment.pipeline import Augment
from tenfold.demo_data import photos

FULL = AugmentConfig(size=48, rand_augment=1.0, erase=0.5)


def noise(height: int, width: int, *, key: int = 0) -> Tensor:
    rng = keyed.generator("noise", height, width, key)
    return torch.from_numpy(rng.integers(0, 256, (3, height, width), dtype="uint8"))


def photo() -> Tensor:
    return torch.from_numpy(photos.load("cat")[:300, :400].copy()).permute(2, 0, 1)


class Recorder(v2.RandAugment):
    """torchvision's transform, which tells what it drew and takes magnitudes from our table."""

    def _apply_image_or_video_transform(self, image, transform_id, drawn, **options):
        bins, level = self.num_magnitude_bins, self.magnitude
        find = {"size": 40, "bins": bins, "preferred": level, "translate_pixels": None}
        op = level_of(OPS.index(transform_id), drawn, **find)
        self.ops.append(op)
        pinned = magnitude(*op, height=40, width=40, bins=bins)
        return super()._apply_image_or_video_transform(image, transform_id, pinned, **options)


@pytest.mark.parametrize("side", [32, 97])
@pytest.mark.parametrize("level", [0, 1, 9, 30])
def test_every_operation_is_torchvisions(side: int, level: int):
    image, oracle = functional.resize(photo(), [side, side]), v2.RandAugment()
    for index, name in enumerate(OPS):
        for sign in (1, -1) if name in SIGNED and level else (1,):
            op = Op(index, 0 if name in PLAIN else sign * level)
            strength = magnitude(index, op.level, height=side, width=side, bins=31)
            found = randaugment.apply_ops(image, (op,), AugmentConfig())
            expected = oracle._apply_image_or_video_transform(
                image, name, strength, interpolation=oracle.interpolation, fill=oracle._fill
            )
            assert torch.equal(found, expected), name


@pytest.mark.parametrize(
    ("height", "width"), [(1, 9), (2, 2), (3, 3), (9, 3), (64, 65), (224, 224)]
)
def test_sharpness_is_torchvisions_to_the_bit(height: int, width: int):
    sharpness = OPS.index("Sharpness")
    for key in range(6):
        image = noise(height, width, key=key)
        before = image.clone()
        for level in (-30, -17, -9, -1, 0, 4, 9, 21, 30):
            strength = magnitude(sharpness, level, height=height, width=width, bins=31)
            expected = functional.adjust_sharpness(image, 1.0 + strength)
            found = randaugment.apply_ops(image, (Op(sharpness, level),), AugmentConfig())
            assert torch.equal(found, expected)
        assert torch.equal(image, before)


def test_operations_are_not_all_the_identity():
    image = functional.resize(photo(), [64, 64])
    same = {
        name
        for index, name in enumerate(OPS)
        if torch.equal(
            image,
            randaugment.apply_ops(image, (Op(index, 0 if name in PLAIN else 9),), AugmentConfig()),
        )
    }
    assert same == {"Identity"}


@pytest.mark.parametrize("options", [{}, {"magnitude": 20}, {"num_magnitude_bins": 10}])
def test_random_augment_of_torchvision_is_replayed(options: dict[str, int]):
    transform = Recorder(**options)
    config = AugmentConfig(size=40, bins=transform.num_magnitude_bins)
    torch.manual_seed(0)
    for key in range(60):
        image, transform.ops = noise(40, 40, key=key), []
        expected = transform(image)
        assert {abs(level) for _, level in transform.ops} <= {0, transform.magnitude}
        assert torch.equal(randaugment.apply_ops(image, transform.ops, config), expected)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("antialias", [True, False])
def test_random_resized_crops_of_torchvision_are_replayed(interpolation: str, antialias: bool):
    config = AugmentConfig(size=48, interpolation=interpolation, antialias=antialias)
    transform = v2.RandomResizedCrop(48, interpolation=interpolation, antialias=antialias)
    torch.manual_seed(0)
    for _ in range(20):
        params = transform.make_params([photo()])
        box = Box(*(params[name] for name in ("top", "left", "height", "width")))
        expected = transform.transform(photo(), params)
        assert torch.equal(Augment(config).apply(photo(), ViewParams(crop=box)), expected)


def test_random_crops_of_torchvision_are_replayed():
    config = AugmentConfig(size=32, resize=32, crop="random", padding=4)
    resize, transform = v2.Resize(32), v2.RandomCrop(32, padding=4)
    torch.manual_seed(0)
    for _ in range(20):
        image = resize(photo())
        params = transform.make_params([image])
        box = Box(params["top"] - 4, params["left"] - 4, 32, 32)
        expected = transform.transform(image, params)
        assert torch.equal(Augment(config).apply(photo(), ViewParams(crop=box)), expected)


def test_erasing_of_torchvision_is_replayed():
    config = AugmentConfig(size=40, crop="none", erase=1.0)
    transform = v2.RandomErasing(p=1.0)
    torch.manual_seed(0)
    for key in range(20):
        image = noise(40, 40, key=key)
        params = transform.make_params([image])
        box = Box(*(params[name] for name in "ijhw"))
        before = image.clone()
        found = Augment(config).apply(image, ViewParams(erase=box))
        assert torch.equal(found, transform.transform(image, params))
        assert torch.equal(image, before)


def test_evaluation_crops_are_torchvisions():
    center = Augment(AugmentConfig(size=48, resize=57, crop="center", flip=0.0))
    expected = v2.Compose([v2.Resize(57), v2.CenterCrop(48)])(photo())
    assert torch.equal(center.apply(photo(), ViewParams()), expected)
    whole = Augment(AugmentConfig(size=48, crop="none", flip=0.0))
    assert torch.equal(whole.apply(photo(), ViewParams()), v2.Resize((48, 48))(photo()))


def test_steps_are_applied_in_the_official_order():
    params = ViewParams(
        crop=Box(10, 20, 200, 150),
        flip=True,
        ops=(Op(OPS.index("TranslateX"), 9), Op(OPS.index("Solarize"), 9)),
        erase=Box(5, 6, 20, 10),
    )
    view = functional.resized_crop(photo(), 10, 20, 200, 150, [48, 48])
    view = view.flip(-1)
    shift = int(150 / 331 * 48 * 9 / 30)
    view = torch.cat([torch.zeros_like(view[..., :shift]), view[..., :-shift]], dim=-1)
    view = torch.where(view >= 0.7 * 255, 255 - view, view)
    view[:, 5:25, 6:16] = 0
    assert torch.equal(Augment(FULL).apply(photo(), params), view)


CONFIGS = {
    "rrc": AugmentConfig(size=48),
    "full": FULL,
    "cifar": AugmentConfig(size=48, resize=48, crop="random", padding=4, rand_augment=1.0),
    "skipping": AugmentConfig(
        size=48, rand_augment=0.5, erase=0.5, flip=0.5, interpolation="bicubic"
    ),
    "center": AugmentConfig(size=48, resize=50, crop="center", rand_augment=0.7, erase=0.3),
    "whole": AugmentConfig(size=48, crop="none", translate_pixels=224, rand_augment=1.0),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_replay_is_the_same_to_the_bit_and_draws_nothing(name: str):
    augment, image = Augment(CONFIGS[name]), photo()
    laid_out = image.contiguous()
    assert not image.is_contiguous()
    state, threads, pristine = torch.get_rng_state(), torch.get_num_threads(), image.clone()
    for key in range(25):
        params = augment.draw(keyed.generator(name, key), 300, 400)
        first = augment.apply(image, params)
        assert first.dtype == torch.uint8
        assert first.shape == (3, 48, 48)
        torch.set_num_threads(3)
        assert torch.equal(augment.apply(laid_out, params), first)
        torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(image, pristine)


@pytest.mark.parametrize("side", [224, 320])
def test_replay_does_not_depend_on_the_number_of_threads(side: int):
    augment = Augment(AugmentConfig(size=side, rand_augment=1.0, num_ops=1))
    box, threads = Box(3, 7, 280, 390), torch.get_num_threads()
    for index, name in enumerate(OPS):
        params = ViewParams(crop=box, ops=(Op(index, 0 if name in PLAIN else 17),))
        found = []
        for count in (1, 2, 3, 5):
            torch.set_num_threads(count)
            found.append(augment.apply(photo(), params))
        torch.set_num_threads(threads)
        assert all(torch.equal(view, found[0]) for view in found[1:]), name


def test_skipped_steps_change_nothing():
    plain = ViewParams(crop=Box(0, 0, 300, 400))
    augment = Augment(FULL)
    expected = functional.resized_crop(photo(), 0, 0, 300, 400, [48, 48])
    assert torch.equal(augment.apply(photo(), plain), expected)
    empty = ViewParams(crop=plain.crop, ops=())
    assert torch.equal(augment.apply(photo(), empty), expected)


def test_a_crop_is_the_same_region_at_another_size():
    augment = Augment(AugmentConfig(size=48))
    params = ViewParams(crop=Box(20, 30, 200, 160), flip=True)
    for size in (16, 48, 224):
        expected = functional.resized_crop(photo(), 20, 30, 200, 160, [size, size]).flip(-1)
        assert torch.equal(augment.apply(photo(), params, size=size), expected)


def test_an_erased_region_is_scaled_with_the_output():
    augment = Augment(AugmentConfig(size=48, crop="none"))
    white = torch.full((3, 60, 60), 255, dtype=torch.uint8)
    for size, box in ((96, (12, 24, 40, 20)), (24, (3, 6, 10, 5)), (36, (4, 9, 16, 7))):
        view = augment.apply(white, ViewParams(erase=Box(6, 12, 20, 10)), size=size)
        expected = torch.full((3, size, size), 255, dtype=torch.uint8)
        top, left, height, width = box
        expected[:, top : top + height, left : left + width] = 0
        assert torch.equal(view, expected), size


@pytest.mark.parametrize(("translate_pixels", "shift"), [(None, 26), (224, 30), (112, 15)])
def test_translations_scale_unless_their_pixels_are_fixed(translate_pixels, shift):
    config = AugmentConfig(size=224, crop="none", translate_pixels=translate_pixels)
    image = noise(192, 192)
    params = ViewParams(ops=(Op(OPS.index("TranslateY"), -9),))
    view = Augment(config).apply(image, params, size=192)
    assert torch.equal(view[:, :-shift], image[:, shift:])
    assert not view[:, -shift:].any()


def test_a_random_crop_at_another_size_shows_the_same_region():
    config = AugmentConfig(size=32, resize=40, crop="random", padding=4)
    box = Box(-3, 6, 32, 32)
    cut = functional.crop(functional.resize(photo(), [40]), -3, 6, 32, 32)
    view = Augment(config).apply(photo(), ViewParams(crop=box), size=48)
    assert torch.equal(view, functional.resize(cut, [48, 48]))


@pytest.mark.parametrize(
    ("box", "size"),
    [
        (Box(0, 0, 41, 20), (40, 50)),
        (Box(0, 31, 20, 20), (40, 50)),
        (Box(-1, 0, 20, 20), (40, 50)),
        (Box(0, -1, 20, 20), (40, 50)),
        (Box(0, 0, 0, 20), (40, 50)),
        (Box(0, 0, 224, 224), (100, 100)),
    ],
)
def test_a_box_that_does_not_fit_is_refused_with_its_numbers(box: Box, size: tuple[int, int]):
    numbers = rf"crop box \({', '.join(map(str, box))}\) .* image of {size[0]} x {size[1]} pixels"
    with pytest.raises(ValueError, match=numbers):
        Augment(AugmentConfig()).apply(noise(*size), ViewParams(crop=box))


def test_padding_bounds_a_random_crop():
    augment = Augment(AugmentConfig(size=32, crop="random", padding=4))
    image = noise(32, 32)
    view = augment.apply(image, ViewParams(crop=Box(-4, 4, 32, 32)))
    assert torch.equal(view[:, 4:, :28], image[:, :28, 4:])
    assert not view[:, :4].any()
    assert not view[:, :, 28:].any()
    for box in (Box(-5, 0, 32, 32), Box(0, 5, 32, 32)):
        with pytest.raises(ValueError, match=r"does not fit into the image of 32 x 32"):
            augment.apply(image, ViewParams(crop=box))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (noise(40, 50)[:1], r"shape \[3, H, W\], got \[1, 40, 50\]: convert it to RGB"),
        (noise(40, 50)[0], r"got \[40, 50\]"),
        (torch.cat([noise(40, 50), noise(40, 50)[:1]]), r"got \[4, 40, 50\]: convert it to RGB"),
        (noise(40, 50)[None], r"got \[1, 3, 40, 50\]"),
        (noise(40, 50).permute(1, 2, 0), r"got \[40, 50, 3\]"),
        (noise(40, 50) / 255, "must be uint8, got torch.float32"),
        (noise(40, 50)[:, :0], r"must not be empty, got \[3, 0, 50\]"),
        (torch.empty(3, 40, 50, dtype=torch.uint8, device="meta"), "on the CPU, got meta"),
    ],
    ids=["grey", "flat", "rgba", "batch", "height first", "float", "empty", "device"],
)
def test_an_image_of_another_form_is_refused(image: Tensor, message: str):
    with pytest.raises(ValueError, match=message):
        Augment(AugmentConfig()).apply(image, ViewParams(crop=Box(0, 0, 20, 20)))


@pytest.mark.parametrize(
    ("config", "params", "message"),
    [
        (AugmentConfig(), ViewParams(), "a random_resized crop has a crop box, got None"),
        (
            AugmentConfig(crop="none"),
            ViewParams(crop=Box(0, 0, 9, 9)),
            r"a none crop has no crop box, got Box",
        ),
        (
            AugmentConfig(size=32, crop="none"),
            ViewParams(erase=Box(20, 0, 13, 5)),
            r"box \(20, 0, 13, 5\) .* output of 32 x 32 pixels",
        ),
        (
            AugmentConfig(size=64, crop="center"),
            ViewParams(),
            "image of 40 x 50 pixels is smaller than the center crop of 64; set augment.resize",
        ),
        (
            AugmentConfig(size=32, crop="none"),
            ViewParams(ops=(Op(14, 9),)),
            r"operation must lie in 0\.\.13, got 14",
        ),
        (
            AugmentConfig(size=32, crop="none", bins=10, magnitude=5),
            ViewParams(ops=(Op(1, 10),)),
            "ShearX has no level 10 in a table of 10 bins",
        ),
    ],
)
def test_parameters_of_another_pipeline_are_refused(
    config: AugmentConfig, params: ViewParams, message: str
):
    with pytest.raises(ValueError, match=message):
        Augment(config).apply(noise(40, 50), params)


def test_a_wrong_size_is_refused():
    with pytest.raises(ValueError, match="size must be > 0, got 0"):
        Augment(AugmentConfig(crop="none")).apply(noise(9, 9), ViewParams(), size=0)


def test_scaled_boxes_stay_inside():
    for key in range(200):
        rng = keyed.generator("box", key)
        drawn, size = (int(side) for side in rng.integers(1, 300, 2))
        top, bottom = sorted(int(edge) for edge in rng.integers(0, drawn + 1, 2))
        left, right = sorted(int(edge) for edge in rng.integers(0, drawn + 1, 2))
        box = scale_box(Box(top, left, bottom - top, right - left), drawn, size)
        assert 0 <= box.top <= box.top + box.height <= size
        assert 0 <= box.left <= box.left + box.width <= size
        assert abs(box.top - top * size / drawn) <= 0.5
        assert abs(box.left + box.width - right * size / drawn) <= 0.5
    assert scale_box(Box(0, 0, 7, 7), 7, 13) == Box(0, 0, 13, 13)


def test_what_a_replay_depends_on_is_told():
    found = describe()
    assert found["torch"] == torch.__version__
    assert found["resize"] in ("uint8", "float32")
    assert set(found) == {"backend", "torch", "torchvision", "resize"}


def test_without_torchvision_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "tenfold.augment.backend")
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ImportError, match=r"install it with tenfold\[augment\]"):
        __import__("tenfold.augment.backend")
    assert pipeline.Augment is Augment

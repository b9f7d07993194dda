"""The pinned table of RandAugment against the installed torchvision's."""

import numpy as np
import pytest
from torchvision.transforms import v2

from tenfold.augment.magnitudes import OPS, PLAIN, SIGNED, level_of, magnitude
from tenfold.augment.params import Op


def theirs(name: str, *, bins: int, height: int, width: int) -> list[float] | None:
    table = v2.RandAugment._AUGMENTATION_SPACE[name][0](bins, height, width)
    return None if table is None else [float(value) for value in table]


def test_operations_are_the_official_fourteen_in_their_order():
    official = (
        "Identity ShearX ShearY TranslateX TranslateY Rotate Brightness "
        "Color Contrast Sharpness Posterize Solarize AutoContrast Equalize"
    )
    assert official.split() == list(OPS)
    assert tuple(v2.RandAugment._AUGMENTATION_SPACE) == OPS


def test_signed_and_plain_operations_are_torchvisions():
    signed = {name for name, (_, signed) in v2.RandAugment._AUGMENTATION_SPACE.items() if signed}
    assert signed == SIGNED
    assert {name for name in OPS if theirs(name, bins=31, height=9, width=9) is None} == PLAIN


@pytest.mark.parametrize("bins", [2, 5, 10, 31, 64, 128])
@pytest.mark.parametrize(("height", "width"), [(224, 224), (32, 32), (97, 160)])
def test_table_is_torchvisions(bins: int, height: int, width: int):
    for op, name in enumerate(OPS):
        expected = theirs(name, bins=bins, height=height, width=width)
        if expected is None:
            assert magnitude(op, 0, height=height, width=width, bins=bins) == 0
            continue
        for level, value in enumerate(expected):
            found = magnitude(op, level, height=height, width=width, bins=bins)
            # torch.linspace's last bits depend on the processor's vectors; the table's do not.
            assert found == pytest.approx(value, rel=2e-6, abs=1e-7)
            if name in SIGNED and level:
                assert magnitude(op, -level, height=height, width=width, bins=bins) == -found


def test_the_defaults_are_pinned_to_the_bit():
    found = {
        name: magnitude(op, 0 if name in PLAIN else 9, height=224, width=224, bins=31)
        for op, name in enumerate(OPS)
    }
    colour, shear, shift = 0.26999998092651367, 0.09000000357627869, 30.45317268371582
    assert found == {
        "Identity": 0.0,
        "ShearX": shear,
        "ShearY": shear,
        "TranslateX": shift,
        "TranslateY": shift,
        "Rotate": 9.0,
        "Brightness": colour,
        "Color": colour,
        "Contrast": colour,
        "Sharpness": colour,
        "Posterize": 7.0,
        "Solarize": float(np.float32(0.7)),
        "AutoContrast": 0.0,
        "Equalize": 0.0,
    }
    for name, value in found.items():
        expected = theirs(name, bins=31, height=224, width=224)
        assert expected is None or expected[9] == value


def test_translations_follow_the_side_or_the_pinned_pixels():
    x, y = OPS.index("TranslateX"), OPS.index("TranslateY")
    kwargs = {"height": 100, "width": 200, "bins": 31}
    assert magnitude(x, 30, **kwargs) == pytest.approx(150 / 331 * 200)
    assert magnitude(y, 30, **kwargs) == pytest.approx(150 / 331 * 100)
    for op in (x, y):
        pinned = magnitude(op, -30, translate_pixels=224, **kwargs)
        assert pinned == pytest.approx(-150 / 331 * 224)


@pytest.mark.parametrize("bins", [2, 10, 31, 128])
@pytest.mark.parametrize("translate_pixels", [None, 224])
def test_every_level_is_found_again(bins: int, translate_pixels: int | None):
    for op, name in enumerate(OPS):
        for level in range(bins) if name not in PLAIN else (0,):
            for sign in (1, -1) if name in SIGNED and level else (1,):
                value = magnitude(
                    op,
                    sign * level,
                    height=64,
                    width=64,
                    bins=bins,
                    translate_pixels=translate_pixels,
                )
                found = level_of(
                    op,
                    value,
                    size=64,
                    bins=bins,
                    preferred=level,
                    translate_pixels=translate_pixels,
                )
                assert found == Op(op, sign * level)


def test_a_magnitude_of_torchvision_is_found_at_its_level():
    for op, name in enumerate(OPS):
        for level, value in enumerate(theirs(name, bins=31, height=224, width=224) or ()):
            found = level_of(op, value, size=224, bins=31, preferred=level, translate_pixels=None)
            assert found == Op(op, level)


def test_of_several_levels_the_preferred_is_taken_and_then_the_first():
    posterize = OPS.index("Posterize")
    find = {"size": 224, "bins": 31, "translate_pixels": None}
    assert level_of(posterize, 7, preferred=9, **find) == Op(posterize, 9)
    assert level_of(posterize, 7, preferred=0, **find) == Op(posterize, 4)


@pytest.mark.parametrize(
    ("op", "value", "size", "message"),
    [
        ("Brightness", 0.275, 224, "magnitude 0.275 of Brightness is no level of the table"),
        ("TranslateX", 30.45317268371582, 256, "with bins 31 at size 256"),
        ("Solarize", -0.7, 224, "magnitude -0.7 of Solarize"),
        ("Identity", 0.1, 224, "magnitude 0.1 of Identity"),
        ("Rotate", float("nan"), 224, "magnitude nan of Rotate"),
    ],
)
def test_an_unknown_magnitude_is_refused(op: str, value: float, size: int, message: str):
    with pytest.raises(ValueError, match=message):
        level_of(OPS.index(op), value, size=size, bins=31, preferred=9, translate_pixels=None)


@pytest.mark.parametrize(
    ("op", "level", "message"),
    [
        (1, 31, "ShearX has no level 31 in a table of 31 bins"),
        (1, -31, "ShearX has no level -31"),
        (10, -1, "Posterize has no level -1"),
        (13, 9, "Equalize has no level 9"),
        (14, 0, r"must lie in 0\.\.13, got 14"),
        (-1, 0, r"must lie in 0\.\.13, got -1"),
    ],
)
def test_an_unknown_level_is_refused(op: int, level: int, message: str):
    with pytest.raises(ValueError, match=message):
        magnitude(op, level, height=224, width=224, bins=31)

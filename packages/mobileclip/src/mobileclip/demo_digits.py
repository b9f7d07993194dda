"""scikit-learn's handwritten digits as demo pairs: the setting of the spec's pilot (7a). No torch.

The captioner sees the coarse shape of a digit and never names it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mobileclip.demo_pairs import Aspects, Drawings, Source
from tenfold import keyed

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
KINDS: Mapping[str, tuple[str, ...]] = {
    "closed round shape": ("zero",),
    "double loop": ("eight",),
    "loop with a tail": ("six", "nine"),
    "thin straight stroke": ("one", "seven"),
    "angled open shape": ("four",),
    "curved open shape": ("two", "three", "five"),
}
TEMPLATES = ("the digit {}", "a handwritten {}", "number {} on black")
KIND_TEMPLATES = (
    "a drawing of a {}",
    "this picture shows a {}",
    "a white {} on black",
    "one {}",
    "it looks like a {}",
)
# Numbers of images: 500 to teach the teachers, 900 from the web, the rest to test on.
PARTS = {"teaching": slice(0, 500), "web": slice(500, 1400), "test": slice(1400, None)}
_ENLARGED = 4


def load(part: str, num_classes: int) -> Drawings:
    """Return the digits of a part, enlarged to 32 pixels.

    Raises:
        ValueError: There are not so many digits.
    """
    from sklearn.datasets import load_digits

    if not 2 <= num_classes <= len(NAMES):
        raise ValueError(f"classes must lie in 2..{len(NAMES)} for digits, got {num_classes}")
    digits: Any = load_digits()
    order = keyed.generator("digits").permutation(len(digits.target))[PARTS[part]]
    order = order[digits.target[order] < num_classes]
    small = np.rint(digits.images[order] * (255 / 16)).astype(np.uint8)
    return Drawings(
        images=small.repeat(_ENLARGED, axis=1).repeat(_ENLARGED, axis=2),
        label=digits.target[order].astype(np.int64),
        keys=tuple(f"digit-{number:04d}" for number in order),
        names=NAMES[:num_classes],
    )


def aspects(name: str) -> Aspects:
    """Return the coarse shape of a digit."""
    return (next(kind for kind, names in KINDS.items() if name in names),)


def say(told: Aspects) -> list[str]:
    """Return captions of a shape."""
    return [template.format(told[0]) for template in KIND_TEMPLATES]


DIGITS = Source(
    load=load,
    templates=TEMPLATES,
    aspects=aspects,
    say=say,
    kind_templates=KIND_TEMPLATES,
)

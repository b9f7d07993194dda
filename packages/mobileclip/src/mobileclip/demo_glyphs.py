"""Characters of many faces as demo pairs. Free of torch.

A character's Unicode name is the caption that the web should have ("latin small letter e with
acute"). The captioner tells kind, shape and mark, and leaves one of them out in each caption.
"""

import numpy as np

from mobileclip.demo_pairs import Aspects, Drawings, Source
from tenfold.demo_data import characters, glyphs
from tenfold.demo_data.glyph_faces import FACES, drawable_in_all_faces

SIZE = 32
KIND_TEMPLATES = ("a drawing of a {}", "this is a {} on black")
_TEST = (
    "DejaVuSans-BoldOblique",
    "DejaVuSansMono-Oblique",
    "DejaVuSerif-Bold",
    "DejaVuSerif-BoldItalic",
    "STIXGeneralItalic",
)
_OTHERS = tuple(face.name for face in FACES if face.name not in _TEST)
PARTS = {"web": _OTHERS[:6], "teaching": _OTHERS[5:], "test": _TEST}
_OTHER_KINDS = (
    "quotation",
    "accent",
    "sign",
    "mark",
    "bracket",
    "parenthesis",
    "superscript",
    "dash",
)


def load(part: str, num_classes: int) -> Drawings:
    """Draw the first characters, by code point, that all faces have.

    Raises:
        ValueError: There are not so many.
    """
    texts = drawable_in_all_faces()
    if not 2 <= num_classes <= len(texts):
        raise ValueError(f"classes must lie in 2..{len(texts)} for glyphs, got {num_classes}")
    ids = np.array([characters.character_ids()[text] for text in texts[:num_classes]])
    drawn = glyphs.load("all", size=SIZE, faces=PARTS[part])
    drawn = drawn.select(np.isin(drawn.character_ids, ids))
    alphabet = characters.alphabet()
    return Drawings(
        images=drawn.images,
        label=np.searchsorted(ids, drawn.character_ids),
        keys=tuple(
            f"{FACES[face].name}-{ord(alphabet[character].text):04x}"
            for face, character in zip(drawn.face_ids, drawn.character_ids, strict=True)
        ),
        names=tuple(alphabet[index].caption for index in ids),
    )


def aspects(name: str) -> Aspects:
    """Return kind (`latin small letter`), shape (`e`) and mark (`acute`); empty where none is."""
    words = name.split()
    if "letter" not in words:
        return (next((word for word in _OTHER_KINDS if word in words), "symbol"), "", "")
    end = words.index("letter") + 1
    shape, mark = words[end:], []
    if "with" in shape:
        cut = shape.index("with")
        shape, mark = shape[:cut], shape[cut + 1 :]
    return " ".join(words[:end]), " ".join(shape), " ".join(mark)


def say(told: Aspects) -> list[str]:
    """Return captions, each of which leaves an aspect out."""
    kind, shape, mark = told
    marked = f"with {mark}" if mark else "without mark"
    return [
        *(template.format(kind) for template in KIND_TEMPLATES),
        f"{kind} {shape}".strip(),
        f"{kind} {marked}",
        f"letter {shape} {marked}" if shape else kind,
    ]


GLYPHS = Source(
    load=load,
    templates=("{}",),
    aspects=aspects,
    say=say,
    kind_templates=KIND_TEMPLATES,
)

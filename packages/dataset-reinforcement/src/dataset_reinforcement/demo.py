"""Small real data sets that need no download: characters in many faces, handwritten digits.

`demo:glyphs/<part>[/<characters>]` shows characters (the classes) that all sixteen faces draw:
the student's own two faces, the teachers' eleven, which are the student's and nine more, and five
other faces for testing. The teachers' extra faces play the part of the web-scale data on which the
paper's teachers were trained before.
`demo:digits/<part>` is scikit-learn's 1,797 digits of 8 x 8 pixels, 60 % `train`, 40 % `test`.
"""

import numpy as np
from numpy.typing import NDArray

from dataset_reinforcement.array_images import ArrayImages
from tenfold import keyed
from tenfold.demo_data import characters, glyphs
from tenfold.demo_data.glyph_faces import FACES, drawable_in_all_faces

NUM_CHARACTERS = 300
GLYPH_SIZE = 32

STUDENT_FACES = ("DejaVuSans", "STIXGeneral")
TEST_FACES = (
    "DejaVuSans-BoldOblique",
    "DejaVuSansMono-Oblique",
    "DejaVuSerif-Bold",
    "DejaVuSerif-BoldItalic",
    "STIXGeneralItalic",
)
TEACHER_FACES = tuple(face.name for face in FACES if face.name not in TEST_FACES)
PARTS = {"student": STUDENT_FACES, "teacher": TEACHER_FACES, "test": TEST_FACES}

_DIGIT_PARTS = {"train": slice(0, 1078), "test": slice(1078, None)}


def open_demo(name: str) -> ArrayImages:
    """Open `glyphs/<part>[/<characters>]` or `digits/<part>`.

    Raises:
        ValueError: There is no such data set.
    """
    match name.split("/"):
        case ["glyphs", part] if part in PARTS:
            return open_glyphs(part)
        case ["glyphs", part, number] if part in PARTS and number.isdecimal():
            return open_glyphs(part, num_characters=int(number))
        case ["digits", part] if part in _DIGIT_PARTS:
            return open_digits(part)
    raise ValueError(
        f"there is no demo:{name}: choose demo:glyphs/student, /teacher or /test, each with an "
        "optional number of characters (demo:glyphs/student/50), demo:digits/train or /test"
    )


def open_glyphs(part: str, *, num_characters: int = NUM_CHARACTERS) -> ArrayImages:
    """Return the drawings of a part, 32 x 32 pixels, by face and code point.

    Raises:
        ValueError: So many characters are not in all faces.
    """
    texts = drawable_in_all_faces()
    if not 2 <= num_characters <= len(texts):
        raise ValueError(
            f"demo:glyphs has 2 to {len(texts)} characters in all faces, got {num_characters}"
        )
    ids = np.array([characters.character_ids()[text] for text in texts[:num_characters]])
    drawn = glyphs.load("all", size=GLYPH_SIZE, faces=PARTS[part])
    drawn = drawn.select(np.isin(drawn.character_ids, ids))
    alphabet = characters.alphabet()
    names = [
        f"{FACES[face].name}/{ord(alphabet[character].text):04x}"
        for face, character in zip(drawn.face_ids, drawn.character_ids, strict=True)
    ]
    labels = np.searchsorted(ids, drawn.character_ids)
    classes = [alphabet[index].caption for index in ids]
    return ArrayImages(drawn.images, labels, classes, names=names)


def open_digits(part: str) -> ArrayImages:
    """Return scikit-learn's digits of a part, a fixed random share."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images: NDArray[np.uint8] = np.rint(np.asarray(pixels) * (255 / 16)).astype(np.uint8)
    order = keyed.generator("demo digits").permutation(len(images))[_DIGIT_PARTS[part]]
    rows = np.sort(order)
    classes = [str(digit) for digit in range(10)]
    names = [f"digit/{row:04d}" for row in rows]
    chosen = np.asarray(labels, dtype=np.int64)[rows]
    return ArrayImages(images.reshape(-1, 8, 8)[rows], chosen, classes, names=names)

"""Characters over photographs, in files: the images of `reproduce --scale gpu` (spec 7b).

Students see two faces, teachers eleven, tests are in five others, as in `demo`. Colour, size and
place of image i of a part depend on `(part, i)` alone.
"""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dataset_reinforcement.classifier_training import StudyImages
from dataset_reinforcement.demo import PARTS
from tenfold import atomic, keyed
from tenfold.demo_data import glyph_faces, glyphs, photos
from tenfold.demo_data.glyph_faces import drawable_in_all_faces
from tenfold.jobs import run_jobs

CHUNK = 5000
"""Images that one job draws."""
EM = (0.45, 0.85)
"""Smallest and largest character, as part of the image's side."""


@dataclass(frozen=True, kw_only=True)
class RenderedGlyphs:
    """How many images are drawn, and of what.

    Attributes:
        characters: Classes.
        size: Side in pixels.
        student: Images that students train on.
        teacher: Images that teachers train on.
        test: Images to measure on.
    """

    characters: int
    size: int
    student: int
    teacher: int
    test: int

    def prepare(self, folder: Path, *, workers: int) -> StudyImages:
        """Draw the images that are missing in `folder`, an `.npz` for each part.

        Args:
            folder: Where the files go.
            workers: Processes that draw.

        Raises:
            ValueError: There are not so many characters.
        """
        if not 2 <= self.characters <= (most := len(drawable_in_all_faces())):
            raise ValueError(f"characters must lie in 2..{most}, got {self.characters}")
        for part in PARTS:
            path = self._file(folder, part)
            if not path.is_file():
                self._draw_part(part, path, workers)
        return StudyImages(
            student=str(self._file(folder, "student")),
            teacher=str(self._file(folder, "teacher")),
            test=str(self._file(folder, "test")),
            num_student=self.student,
            num_teacher=self.teacher,
        )

    def _file(self, folder: Path, part: str) -> Path:
        return folder / f"{part}.npz"

    def _draw_part(self, part: str, path: Path, workers: int) -> None:
        number: int = getattr(self, part)
        tasks = {
            f"{part}-{first:07d}": Chunk(
                part, first, min(first + CHUNK, number), self.characters, self.size
            )
            for first in range(0, number, CHUNK)
        }
        title = f"draw-{part}"
        run_jobs(
            draw_chunk,
            tasks,
            out=path.parent,
            settings={},
            workers=min(workers, len(tasks)),
            title=title,
        )
        chunks = [path.parent / task.file for task in tasks.values()]
        classes = drawable_in_all_faces()[: self.characters]
        labels = np.arange(number) % self.characters
        shape = (number, self.size, self.size, 3)
        _join(chunks, path, shape=shape, labels=labels, classes=classes)
        for chunk in chunks:
            chunk.unlink()


@dataclass(frozen=True)
class Chunk:
    """Images `first ... stop - 1` of a part."""

    part: str
    first: int
    stop: int
    characters: int
    size: int

    @property
    def file(self) -> str:
        """Name of the file of its pixels."""
        return f"{self.part}-{self.first:07d}.npy"


def draw_chunk(chunk: Chunk, folder: Path) -> None:
    """Write the images of a chunk, uint8 `[n, size, size, 3]`; a job of `tenfold.jobs`."""
    images = np.stack([draw_image(chunk, index) for index in range(chunk.first, chunk.stop)])
    np.save(folder / chunk.file, images, allow_pickle=False)


def draw_image(chunk: Chunk, index: int) -> NDArray[np.uint8]:
    """Draw image `index` of a part: the characters in turn, and after each round another face."""
    rounds, character = divmod(index, chunk.characters)
    text = drawable_in_all_faces()[character]
    face = PARTS[chunk.part][rounds % len(PARTS[chunk.part])]
    rng = keyed.generator("rendered glyph", chunk.part, index)
    image = photos.crop(rng, chunk.size).copy()
    ink = glyph_faces.fit(face, text, round(rng.uniform(*EM) * chunk.size), chunk.size - 2)
    free = np.array([chunk.size, chunk.size]) - ink.coverage.shape
    top, left = rng.integers(free + 1).tolist()
    glyphs.paint(rng, image, ink, top=top, left=left)
    return image


def _join(
    chunks: Sequence[Path],
    path: Path,
    *,
    shape: tuple[int, ...],
    labels: NDArray[np.int64],
    classes: Sequence[str],
) -> None:
    """Write the arrays `images`, `labels` and `classes`; the pixels never are in memory at once."""
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    with atomic.open_atomic(path) as file, zipfile.ZipFile(file, "w") as archive:
        with archive.open("images.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, header)
            for chunk in chunks:
                member.write(np.load(chunk, allow_pickle=False).tobytes())
        for name, values in (("labels", labels), ("classes", np.array(classes))):
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, values, allow_pickle=False)

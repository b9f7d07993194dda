"""Drawn image files: the same pixels in any chunks, faces kept apart, resumed where interrupted."""

from pathlib import Path

import numpy as np
import pytest

from dataset_reinforcement import rendered_images
from dataset_reinforcement.demo import STUDENT_FACES, TEACHER_FACES, TEST_FACES
from dataset_reinforcement.images import open_images
from dataset_reinforcement.rendered_images import Chunk, RenderedGlyphs, draw_image
from tenfold import atomic

IMAGES = RenderedGlyphs(characters=3, size=16, student=7, teacher=5, test=6)


def test_images_have_labels_in_turn_and_do_not_depend_on_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = IMAGES.prepare(tmp_path / "whole", workers=1)
    monkeypatch.setattr(rendered_images, "CHUNK", 3)
    parts = IMAGES.prepare(tmp_path / "parts", workers=1)
    for part in ("student", "teacher", "test"):
        one, other = Path(getattr(whole, part)), Path(getattr(parts, part))
        with np.load(one) as ours, np.load(other) as theirs:
            assert ours["images"].dtype == np.uint8
            np.testing.assert_array_equal(ours["images"], theirs["images"])
    images = open_images(whole.student)
    assert len(images) == whole.num_student == 7
    assert [images.label(index) for index in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    assert images.classes == ("!", '"', "#")
    drawn = draw_image(Chunk("student", 5, 6, 3, 16), 5)
    np.testing.assert_array_equal(images.load(5).permute(1, 2, 0).numpy(), drawn)
    # Nothing of the chunks is left.
    assert not list((tmp_path / "parts").glob("*.npy"))


def test_parts_and_images_differ() -> None:
    student, test = (draw_image(Chunk(part, 0, 1, 3, 32), 0) for part in ("student", "test"))
    again = draw_image(Chunk("student", 3, 4, 3, 32), 3)
    assert (student != test).any()
    assert (student != again).any()
    assert not set(TEST_FACES) & {*STUDENT_FACES, *TEACHER_FACES}


def test_a_finished_part_is_not_drawn_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = IMAGES.prepare(tmp_path, workers=1)
    kept = {path.name: atomic.sha256_file(path) for path in tmp_path.glob("*.npz")}
    Path(images.test).unlink()
    drawn: list[str] = []
    original = rendered_images.draw_chunk

    def watched(chunk: Chunk, folder: Path) -> None:
        drawn.append(chunk.part)
        original(chunk, folder)

    monkeypatch.setattr(rendered_images, "draw_chunk", watched)
    IMAGES.prepare(tmp_path, workers=1)
    assert drawn == ["test"]
    found = np.load(tmp_path / "test.npz")["images"]
    assert found.shape == (6, 16, 16, 3)
    assert {path.name: atomic.sha256_file(path) for path in tmp_path.glob("s*.npz")} == {
        "student.npz": kept["student.npz"]
    }


def test_too_many_characters_are_refused(tmp_path: Path) -> None:
    images = RenderedGlyphs(characters=9999, size=16, student=1, teacher=1, test=1)
    with pytest.raises(ValueError, match=r"characters must lie in 2..\d+, got 9999"):
        images.prepare(tmp_path, workers=1)

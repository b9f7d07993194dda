"""What `backfill` refuses, and how it says to go on."""

from pathlib import Path

import pytest
from backfill_files import Backfill, draw, make_model

from fastfill.backfill import resume_command
from fastfill.gallery import Gallery


def test_mistakes_are_named(tmp_path: Path) -> None:
    there = Backfill(tmp_path / "one")
    make_model(tmp_path / "other.safetensors", seed=1)
    with pytest.raises(ValueError, match=r"model of the backfill: expected new .*weights differ"):
        there.run(model=str(tmp_path / "other.safetensors"))
    with pytest.raises(ValueError, match=r"metric of new .* is l2, of new .* it is cosine"):
        there.run(metric="cosine")
    (tmp_path / "texts.txt").write_text("a text\n")
    with pytest.raises(ValueError, match=r"embeds images, but .* has texts"):
        there.run(source=str(tmp_path / "texts.txt"))
    (tmp_path / "elsewhere").mkdir()
    draw(tmp_path / "elsewhere" / "other.png", 1)
    with pytest.raises(ValueError, match=r"has none of the 40 items of .*'000.png'.*'other.png'"):
        there.run(source=str(tmp_path / "elsewhere"))
    assert there.open().counts().failed == 0
    for options in ({"stop_at": 1.5}, {"max_items": -1}, {"rate": -1.0}, {"lease_s": 0.0}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} must"):
            there.run(**options)
    there.gallery = tmp_path / "nothing"
    with pytest.raises(FileNotFoundError, match="is no gallery"):
        there.run()


def test_finalised_gallery_is_refused(tmp_path: Path) -> None:
    there = Backfill(tmp_path, items=3)
    there.run()
    with Gallery.open(there.gallery, "w") as gallery:
        gallery.finalise()
    with pytest.raises(ValueError, match="is finalised"):
        there.run()


def test_resume_command_quotes_and_leaves_out_defaults() -> None:
    options = {"model": "a b", "source": "images", "devices": ["cpu", "cuda:0"], "rate": 0.0}
    assert resume_command(Path("g"), options) == (
        "fastfill backfill g --model 'a b' --source images --devices cpu cuda:0"
    )

"""Where originals are, by one text: folder, tars, file of texts, or demo data. Free of torch."""

from pathlib import Path

from fastfill.demo_sources import DEMOS, open_demo
from fastfill.image_sources import ImageFolder, Tars
from fastfill.originals import Original, OriginalError, Source
from fastfill.text_sources import TextFile

__all__ = ["Original", "OriginalError", "Source", "open_source"]


def open_source(spec: str) -> Source:
    """Open the originals that a text names.

    - a folder of images, flat or one subfolder a class
    - a folder with `*.tar`, one tar, or a pattern such as `data/part-*.tar`: webdataset samples
      with `jpg`, `png`, `webp` or `txt`, and `cls`
    - a `.txt` with a text a line, or a `.jsonl` with `id`, `text`, `label` and `group`
    - `digits:<split>[:<classes>]` and `glyphs:<split>[:<characters>[:<classes>]]`: demo data that
      is always there; see `fastfill.demo_sources`

    Raises:
        FileNotFoundError: There is nothing of that name. A folder is listed when its ids are asked
            for; without images it is an error then.
        ValueError: It is of another kind, or its content is malformed.
    """
    spec = str(spec)
    path = Path(spec)
    if spec.split(":")[0] in DEMOS and not path.exists():
        return open_demo(spec)
    if path.is_dir():
        tars = sorted(path.glob("*.tar"))
        return Tars(tars, name=spec) if tars else ImageFolder(path, name=spec)
    if path.suffix == ".tar":
        return Tars(_tars(path), name=spec)
    if not path.is_file():
        raise FileNotFoundError(
            f"{spec} does not exist: expected a folder of images or tars, a .txt, a .jsonl, or "
            f"demo data such as {', '.join(f'{name}:train' for name in DEMOS)}"
        )
    if path.suffix in (".txt", ".jsonl"):
        return TextFile(path, name=spec)
    raise ValueError(f"{spec} is a file of unknown kind, expected .tar, .txt or .jsonl")


def _tars(path: Path) -> list[Path]:
    if "*" not in path.name:
        return [path]
    found = sorted(path.parent.glob(path.name))
    if not found:
        raise FileNotFoundError(f"{path} names no tar")
    return found

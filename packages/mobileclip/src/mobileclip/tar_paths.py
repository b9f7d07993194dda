"""The tars that a folder or a pattern names, for work that goes through them one by one.

Unlike `shard_sources` this needs no index. Free of torch.
"""

import os
from pathlib import Path
from typing import NamedTuple

from mobileclip.shard_sources import expand
from tenfold.shards import read_index
from tenfold.shards.index import INDEX_NAME


class TarFile(NamedTuple):
    """One tar as a task of `tenfold.jobs`: a changed file is another task.

    Attributes:
        path: Where it lies, absolute.
        name: Its path below the folder that all tars share.
        num_bytes: Its size.
        changed_ns: When it was changed, nanoseconds.
    """

    path: str
    name: str
    num_bytes: int
    changed_ns: int


def list_tars(spec: Path | str) -> tuple[Path, list[TarFile]]:
    """Return the folder that all tars share, and the tars in order.

    Args:
        spec: A folder, whose index says what belongs to it, or all whose tars are taken; or a
            brace or glob pattern.

    Raises:
        FileNotFoundError: There is no tar, or one is missing.
    """
    folder = Path(spec).absolute()
    if not folder.is_dir():
        paths = expand(str(spec))
        folder = Path(os.path.commonpath([path.parent for path in paths]))
    elif (folder / INDEX_NAME).is_file():
        paths = [folder / entry.name for entry in read_index(folder).entries]
    else:
        paths = sorted(folder.rglob("*.tar"))
    if not paths:
        raise FileNotFoundError(f"{folder} holds no .tar files")
    return folder, [_tar_file(path, folder) for path in paths]


def _tar_file(path: Path, folder: Path) -> TarFile:
    try:
        stat = path.stat()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} does not exist, but the index lists it") from error
    return TarFile(str(path), path.relative_to(folder).as_posix(), stat.st_size, stat.st_mtime_ns)

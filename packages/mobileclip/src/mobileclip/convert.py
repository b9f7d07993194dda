"""The verb `convert`: the same shards with their embeddings in another member."""

import logging
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mobileclip.embedding_codecs import FORMATS, Format, decode, encode
from mobileclip.members import real_captions
from mobileclip.schema import INFO
from mobileclip.tar_paths import TarFile, list_tars
from tenfold.jobs import run_jobs
from tenfold.shards import ShardEntry, ShardError, TarMembers, write_index, write_shard
from tenfold.shards.index import INDEX_NAME

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ConvertTask:
    """One shard."""

    shard: TarFile
    to: Format


def convert(
    shards: str,
    out: Path,
    *,
    to: Format = "emb.bin",
    workers: int = 1,
    ray_address: str | None = None,
) -> None:
    """Write shards anew with their embeddings as `emb.bin`, `npz` or `pth.gz`.

    `emb.bin` and `pth.gz` hold bfloat16 and `npz` float32: between them bfloat16 values stay what
    they are, float32 values of an `npz` are rounded once. All other members are copied. Arrays are
    those of the new published layout. A rerun after an interruption goes on where it was.

    Args:
        shards: A folder of shards, or a brace or glob pattern of tars.
        out: Folder to write; must not hold an index yet.
        to: Member that holds the embeddings.
        workers: Processes.
        ray_address: Ray cluster to run on instead, see `tenfold.jobs`.

    Raises:
        FileExistsError: `out` has an index.
        FileNotFoundError: There are no shards.
        ValueError: No such format.
    """
    out = Path(out).absolute()
    if to not in FORMATS:
        raise ValueError(f"to must be one of {', '.join(FORMATS)}, got {to!r}")
    if (out / INDEX_NAME).exists():
        raise FileExistsError(f"{out} holds shards already; choose another folder")
    folder, tars = list_tars(shards)
    tasks = {f"{number:08d}": ConvertTask(tar, to) for number, tar in enumerate(tars)}
    results = run_jobs(
        _convert_shard,
        tasks,
        out=out,
        settings={"convert": 1, "to": to},
        workers=workers,
        ray_address=ray_address,
        title="convert",
    )
    if (folder / INFO).is_file():
        shutil.copyfile(folder / INFO, out / INFO)
    write_index(out, [ShardEntry(**entry) for entry in results.values()])
    logger.info("wrote shards with %s to %s: %d", to, out, len(results))


def _convert_shard(task: ConvertTask, folder: Path) -> dict[str, Any]:
    path = folder / task.shard.name
    path.parent.mkdir(parents=True, exist_ok=True)
    entry = write_shard(path, _samples(TarMembers(task.shard.path), task.to))
    return {**asdict(entry), "name": task.shard.name}


def _samples(members: TarMembers, to: Format) -> Iterator[dict[str, Any]]:
    for key in members.keys:
        sample: dict[str, Any] = {
            extension: members.read(key, extension) for extension in members.extensions(key)
        }
        found: Format | None = next((form for form in FORMATS if form in sample), None)
        if found is None:
            raise ShardError(f"{members.path}: sample {key!r} has no embeddings to convert")
        try:
            embeddings = decode(sample[found], found, num_real=_num_real(sample))
        except ValueError as error:
            raise ShardError(f"{members.path}: member '{key}.{found}': {error}") from error
        kept = {extension: data for extension, data in sample.items() if extension not in FORMATS}
        yield {"__key__": key, **kept, to: encode(embeddings, to)}


def _num_real(sample: dict[str, bytes]) -> int:
    return len(real_captions(sample["txt"].decode())) if "txt" in sample else 1

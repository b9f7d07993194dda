"""The verb `embed`: originals to an `.npy` of vectors, as an old gallery has it."""

from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from fastfill.cache_job import bad_vectors, in_batches
from fastfill.config import Metric
from fastfill.encoders import Encoder, load_encoder
from fastfill.failures import note_failures
from fastfill.originals import OriginalError, Source
from fastfill.sources import open_source
from tenfold import atomic


def embed(
    out: Path,
    *,
    model: str,
    data: str,
    metric: Metric | None = None,
    batch_size: int = 256,
    read_threads: int = 1,
    device: str = "cpu",
) -> None:
    """Embed originals with one model into an array of vectors.

    Beside `gallery.npy` it writes `gallery.ids.txt` (an id a line, in the order of the rows),
    `gallery.card.json` (the model) and, where originals failed, `gallery.failed.jsonl`; the array
    comes last.

    Args:
        out: The array, `*.npy`, float32 `[n, d]`; must not exist.
        model: A run folder, checkpoint or weights of `fit-backbone`, `timm:<model>`,
            `timm:<model>:<file>`, or `open_clip:<model>:<tag or file>` (`:text` for texts).
        data: Originals: a folder of images or tars, a `.txt` or `.jsonl`, or demo data such as
            `digits:test`.
        metric: What is near, where the model does not say itself.
        batch_size: Originals at once; halved when memory runs out.
        read_threads: Threads that read images, for a GPU to be fed.
        device: `auto`, `cpu`, `cuda` or `cuda:<n>`.

    Raises:
        FileNotFoundError: Originals or weights are missing.
        ValueError: An option is impossible, `out` exists, an id has a line break, or no original
            can be read.
    """
    out = Path(out)
    _check(out, batch_size=batch_size, read_threads=read_threads)
    source = open_source(data)
    if broken := next((id for id in source.ids() if len(id.splitlines()) != 1), None):
        raise ValueError(f"{data}: id {broken!r} has a line break, which a list of ids cannot hold")
    encoder = load_encoder(model, device=device, metric=metric, batch_size=batch_size)
    if encoder.kind != source.kind:
        raise ValueError(
            f"{encoder.card.name} embeds {encoder.kind}s, but {data} has {source.kind}s"
        )
    ids: list[str] = []
    failed: dict[str, str] = {}
    with atomic.open_atomic(out) as file:
        _write_header(file, 0, encoder.card.dim)
        for rows in _vectors(encoder, source, ids, failed, size=batch_size, threads=read_threads):
            file.write(rows.tobytes())
        note_failures(out.with_suffix(".failed.jsonl"), failed)
        if not ids:
            id, reason = next(iter(failed.items()))
            raise ValueError(f"no original of {data} can be used; the first, {id!r}, {reason}")
        file.seek(0)
        _write_header(file, len(ids), encoder.card.dim)
        atomic.write_text(out.with_suffix(".ids.txt"), "".join(f"{id}\n" for id in ids))
        atomic.write_json(out.with_suffix(".card.json"), encoder.card.to_json())
    Console(markup=False).print(
        f"{out}: {len(ids):,} vectors of {encoder.card.dim}, {len(failed):,} originals failed",
        soft_wrap=True,
    )


def _vectors(
    encoder: Encoder,
    source: Source,
    ids: list[str],
    failed: dict[str, str],
    *,
    size: int,
    threads: int,
) -> Iterator[NDArray[np.float32]]:
    """Yield vectors `[n, d]`; their ids and what failed are added to the arguments."""
    names = source.ids()

    def read(row: int) -> tuple[str, Tensor] | OriginalError:
        try:
            return names[row], encoder.prepare(source.load(names[row]))
        except OriginalError as error:
            return error

    for batch in in_batches(range(len(names)), read, size=size, threads=threads):
        failed.update({item.id: item.reason for item in batch if isinstance(item, OriginalError)})
        items = [item for item in batch if not isinstance(item, OriginalError)]
        vectors = encoder.embed_prepared([prepared for _, prepared in items])
        reasons = bad_vectors(vectors)
        for (id, _), reason in zip(items, reasons, strict=True):
            if reason is None:
                ids.append(id)
            else:
                failed[id] = reason
        yield vectors[[reason is None for reason in reasons]]


def _write_header(file: IO[bytes], count: int, dim: int) -> None:
    # numpy leaves room in a header for the first dimension to grow, so its length stays the same.
    npy.write_array_header_1_0(
        file, {"descr": "<f4", "fortran_order": False, "shape": (count, dim)}
    )


def _check(out: Path, *, batch_size: int, read_threads: int) -> None:
    if out.suffix != ".npy":
        raise ValueError(f"out must end in .npy, got {out}")
    if out.exists():
        raise ValueError(f"{out} exists: delete it or choose another name")
    for name, value in (("batch_size", batch_size), ("read_threads", read_threads)):
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")

"""Read pairs with their embeddings as emb.bin, npz and pth.gz, and as a plain CLIP training does.

One process reads shards of the published sizes (30 views, 1 + 5 captions, two teachers of 768) from
the page cache: JPEGs of photographs, replayed views of 256 pixels, tokens. `parse` is the time of a
member's bytes to the three rows that a step uses, without image; `checked` adds the norms of all
rows, which the reader tests; `pairs/s` is the whole reader. `clip` reads the same shards without
embeddings, with the baseline's light crop, `clip, strong` with RandAugment drawn anew.

    python benchmarks/reader.py [--pairs 256] [--parses 300] [--runs 5]
"""

import argparse
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor

from mobileclip.embedding_codecs import FORMATS, Format, decode, encode
from mobileclip.embeddings import Embeddings, check_units
from mobileclip.published import published
from mobileclip.reader import pair_loader
from mobileclip.reader_config import ReaderConfig
from mobileclip.schema import ReinforcementInfo
from mobileclip.stats import expected_bytes
from tenfold import keyed
from tenfold.augment import positional
from tenfold.augment.drawing import draw_view
from tenfold.demo_data import photos
from tenfold.measurements import one_thread
from tenfold.results import this_machine
from tenfold.shards import ShardIndex, write_index, write_shard

INFO = published("datacompdr-12m")
BATCH = 32


class Found(NamedTuple):
    """Microseconds a sample, and bytes of its embeddings."""

    parse_us: float
    checked_us: float
    num_bytes: float


def jpegs() -> list[tuple[bytes, int, int]]:
    """Return photographs of at most 512 pixels as JPEG, with height and width."""
    found: list[tuple[bytes, int, int]] = []
    for name, photo in photos.PHOTOS.items():
        if not photo.everyday:
            continue
        image = Image.fromarray(photos.load(name)).convert("RGB")
        image.thumbnail((512, 512))
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=90)
        found.append((buffer.getvalue(), image.height, image.width))
    return found


def make_embeddings(number: int, info: ReinforcementInfo) -> Embeddings:
    """Return random unit rows in the published numbers."""
    rng = keyed.generator("benchmark", number)

    def rows(count: int) -> Tensor:
        parts = [torch.from_numpy(rng.standard_normal((count, dim))) for dim in info.dims]
        return torch.cat([part / part.norm(dim=1, keepdim=True) for part in parts], dim=1).float()

    image, text, synthetic = rows(info.num_views), rows(1), rows(info.num_captions)
    return Embeddings(image=image, text=text, synthetic={"syn_text": synthetic})


def write_pairs(folder: Path, form: Format, count: int) -> ShardIndex:
    """Write one shard of pairs."""
    images = jpegs()

    def samples() -> Iterator[dict[str, Any]]:
        for number in range(count):
            jpg, height, width = images[number % len(images)]
            rng = keyed.generator("views", number)
            drawn = [
                draw_view(rng, INFO.augment, height=height, width=width)
                for _ in range(INFO.num_views)
            ]
            views = [positional.encode(view, None, INFO.augment) for view in drawn]
            texts = [f"a photograph of thing {number} number {s}" for s in range(INFO.num_captions)]
            yield {
                "__key__": f"{number:032x}",
                "jpg": jpg,
                "txt": f"thing {number}",
                "syn.json": {"syn_text": texts},
                "paug.json": {"param_aug": json.dumps(views)},
                form: encode(make_embeddings(number, INFO), form),
            }

    folder.mkdir()
    return write_index(folder, [write_shard(folder / "0.tar", samples())])


def parse(form: Format, count: int, *, checked: bool) -> float:
    """Return the processor time of one member, microseconds."""
    members = [encode(make_embeddings(number, INFO), form) for number in range(8)]
    start = time.process_time()
    for number in range(count):
        read = decode(members[number % 8], form)
        if checked:
            check_units(read, INFO.dims)
        for rows in (read.image[number % 30], read.text[0], read.synthetic["syn_text"][number % 5]):
            rows.to(torch.float32)
    return 1e6 * (time.process_time() - start) / count


def pairs_per_second(index: ShardIndex, config: ReaderConfig) -> float:
    """Return what one process reads in a second of processor time."""
    batches = max(index.num_samples // BATCH, 1)
    loader = pair_loader(index, config, INFO, batch_size=BATCH, num_batches=batches)
    start = time.process_time()
    for _ in loader:
        pass
    return batches * BATCH / (time.process_time() - start)


def median(measure: Callable[[], float], runs: int) -> float:
    """Return the median of several runs; one before them is not counted."""
    measure()
    return statistics.median(measure() for _ in range(runs))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=256)
    parser.add_argument("--parses", type=int, default=300)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    table = Table("member", "parse us", "checked us", "bytes", "formula", "pairs/s", "of clip")
    config = ReaderConfig(mode="dr", captions="both")
    with one_thread(), tempfile.TemporaryDirectory() as temporary:
        folders = {form: Path(temporary) / form for form in FORMATS}
        indexes = {form: write_pairs(folders[form], form, options.pairs) for form in FORMATS}
        plain = ReaderConfig(mode="clip", captions="both")
        clip = median(lambda: pairs_per_second(indexes["emb.bin"], plain), options.runs)
        table.add_row("clip", "", "", "", "", f"{clip:.0f}", "1.00")
        strong = replace(plain, augment=INFO.augment)
        speed = median(lambda: pairs_per_second(indexes["emb.bin"], strong), options.runs)
        table.add_row("clip, strong", "", "", "", "", f"{speed:.0f}", f"{speed / clip:.2f}")
        for form in FORMATS:
            found = measure(form, options.parses, options.runs)
            speed = median(lambda form=form: pairs_per_second(indexes[form], config), options.runs)
            table.add_row(
                form,
                f"{found.parse_us:.0f}",
                f"{found.checked_us:.0f}",
                f"{found.num_bytes:,.0f}",
                f"{found.num_bytes / expected_bytes(INFO, form):.3f}x",
                f"{speed:.0f}",
                f"{speed / clip:.2f}",
            )
    console = Console(soft_wrap=True)
    console.print(f"{this_machine()}; medians of {options.runs} runs, one thread")
    console.print(table)


def measure(form: Format, parses: int, runs: int) -> Found:
    """Measure one member."""
    sizes = [len(encode(make_embeddings(number, INFO), form)) for number in range(8)]
    return Found(
        parse_us=median(lambda: parse(form, parses, checked=False), runs),
        checked_us=median(lambda: parse(form, parses, checked=True), runs),
        num_bytes=statistics.mean(sizes),
    )


if __name__ == "__main__":
    main()

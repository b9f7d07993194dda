"""Our preparation against the official list-and-text way, on the same files.

Docstrings of installed libraries, as heavy-tailed as web text, cut to D_6 to D_13 with the same
greedy rule; one process and one tokenizer thread each. Timed twice: with the tokenizer, and on
several copies of the files with a stand-in that hands out ids made beforehand, as the lists that
the tokenizer library returns. The official way is written anew from its description; ours also
shuffles, hashes and syncs to disk.

    python benchmarks/preparation.py [--documents sources] [--megabytes 8] [--copies 8] [--runs 3]
"""

import argparse
import io
import json
import math
import os
import statistics
import tarfile
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer as LibraryTokenizer

from dataset_decomposition.decompose import CutRule
from dataset_decomposition.inputs import find_sources
from dataset_decomposition.pipeline import Pipeline
from dataset_decomposition.prepare import make_settings
from dataset_decomposition.tokenizer import TokenizerSpec, Tokens, token_dtype, train_bpe
from tenfold.demo_data import documents
from tenfold.results import this_machine

VOCABULARY = 16_384
EOT = "<|endoftext|>"
RULE = CutRule(min_bucket=6, max_bucket=13)


class Replay:
    """A tokenizer that hands out the ids of the documents in order, as lists."""

    fingerprint = "replay"
    vocab_size = VOCABULARY
    eot_id = VOCABULARY - 1

    def __init__(self, ids: Sequence[list[int]]) -> None:
        self._ids = cycle(ids)

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """Return the next ids as arrays; the way from list to array is ours to pay."""
        return [self._close(next(self._ids)) for _ in texts]

    def _close(self, ids: list[int]) -> Tokens:
        closed = (*ids, self.eot_id)
        return np.fromiter(closed, dtype=token_dtype(self.vocab_size), count=len(closed))

    def decode(self, ids: NDArray[Any]) -> str:
        """Print the ids, which is all that a replay knows."""
        return " ".join(map(str, ids))


@dataclass(frozen=True)
class ReplaySpec(TokenizerSpec):
    """A specification whose tokenizer starts the replay anew."""

    def load(self) -> Replay:
        """Start the replay."""
        return Replay(_ids)


_ids: list[list[int]] = []


class Corpus:
    """Documents in files, a tokenizer, and the ids that it makes of them."""

    def __init__(self, folder: Path, kind: documents.Kind, *, num_bytes: int) -> None:
        self.texts = _texts(kind, num_bytes)
        self.num_bytes = sum(len(text.encode()) for text in self.texts)
        self.tokenizer = folder / "tokenizer.json"
        train_bpe(iter(self.texts[::2]), self.tokenizer, vocab_size=VOCABULARY)
        self.library = LibraryTokenizer.from_file(str(self.tokenizer))
        _ids[:] = map(self.encode, self.texts)

    def encode(self, text: str) -> list[int]:
        """Encode one document with the library alone."""
        return self.library.encode(text, add_special_tokens=False).ids

    def write(self, folder: Path, *, copies: int) -> list[Path]:
        """Write a file of JSON Lines a copy."""
        content = "".join(json.dumps({"text": text}) + "\n" for text in self.texts)
        files = [folder / f"part-{number:03d}.jsonl" for number in range(copies)]
        for file in files:
            file.write_text(content)
        return files


def _texts(kind: documents.Kind, num_bytes: int) -> list[str]:
    """Take documents from all over the corpus."""
    found = [document.text for document in documents.load(kind, "all")]
    return found[:: max(1, round(sum(map(len, found)) / num_bytes))]


def prepare_ours(corpus: Corpus, files: Sequence[Path], out: Path, *, replay: bool) -> None:
    """Run our pipeline in this process."""
    out.mkdir()
    name = ReplaySpec("replay", None) if replay else TokenizerSpec("bpe", str(corpus.tokenizer))
    settings = make_settings(name, method="dd", rule=RULE, text_key="text", seed=0, format="packed")
    sources = tuple(find_sources([str(file) for file in files]))
    Pipeline(out=out, sources=sources, heldout=(), settings=settings, max_bad=0.001).run()


def prepare_theirs(corpus: Corpus, files: Sequence[Path], out: Path, *, replay: bool) -> None:
    """Run the list-and-text way in this process, documents encoded one at a time.

    Unlike in the official code, cuts are greedy and partial shards are kept, so that both ways
    write the same tokens.
    """
    ids = cycle(_ids)
    rows: dict[int, list[list[int | str]]] = defaultdict(list)
    shards: Counter[int] = Counter()

    def flush(bucket: int) -> None:
        _write_text(out / f"D_{bucket}", shards[bucket], rows.pop(bucket))
        shards[bucket] += 1

    for file in files:
        for line in file.read_text().splitlines():
            text = json.loads(line)["text"]
            tokens: list[int | str] = [*(next(ids) if replay else corpus.encode(text)), EOT]
            for bucket, row in _text_pieces(tokens):
                rows[bucket].append(row)
                if len(rows[bucket]) == min(2 ** (20 - bucket), 65536):
                    flush(bucket)
    for bucket in list(rows):
        flush(bucket)


def _text_pieces(tokens: list[int | str]) -> Iterator[tuple[int, list[int | str]]]:
    while len(tokens) > 1:
        bucket = min(int(math.log2(len(tokens) - 1)), RULE.max_bucket)
        if bucket < RULE.min_bucket:
            return
        yield bucket, tokens[: 2**bucket + 1]
        tokens = tokens[2**bucket + 1 :]


def _write_text(folder: Path, number: int, rows: list[list[int | str]]) -> None:
    """Write one shard as webdataset's TarWriter does; times cost it an extended header a row."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / f"shard-{number:07d}.tar", "w") as tar:
        for index, row in enumerate(rows):
            content = str(row).encode()
            member = tarfile.TarInfo(f"{index:012d}.txt")
            member.size, member.mtime = len(content), time.time()
            member.uname = member.gname = "bigdata"
            tar.addfile(member, io.BytesIO(content))


@dataclass(frozen=True)
class Figures:
    """Medians of several runs: seconds on the clock and of the processor, and bytes of tars."""

    wall: float
    cpu: float
    size: int


def measure(run: Callable[[Path], None], folder: Path, *, runs: int) -> Figures:
    """Run several times into fresh folders."""
    walls, cpus, size = [], [], 0
    for number in range(runs):
        out = folder / f"{number}"
        wall, cpu = time.perf_counter(), time.process_time()
        run(out)
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
        size = sum(path.stat().st_size for path in out.rglob("*.tar"))
    return Figures(statistics.median(walls), statistics.median(cpus), size)


def compare(corpus: Corpus, table: Table, *, copies: int, runs: int, replay: bool) -> str:
    """Measure both ways, add them to the table, and return the ratios."""
    what = f"without tokenizer, {copies} copies" if replay else "with tokenizer"
    found: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory() as name:
        files = corpus.write(Path(name), copies=copies)
        for way, function in (("ours", prepare_ours), ("list and text", prepare_theirs)):
            (Path(name) / way).mkdir()
            run = partial(function, corpus, files, replay=replay)
            found[way] = figures = measure(run, Path(name) / way, runs=runs)
            table.add_row(
                what,
                way,
                f"{copies * corpus.num_bytes / 1e6 / figures.wall:.2f}",
                f"{copies * len(corpus.texts) / figures.wall:,.0f}",
                f"{figures.wall:.2f}",
                f"{figures.cpu:.2f}",
                f"{figures.size / 1e6:.2f}",
            )
    ours, theirs = found["ours"], found["list and text"]
    return (
        f"{what}: {theirs.wall / ours.wall:.2f}x as fast (CPU time {theirs.cpu / ours.cpu:.2f}x), "
        f"files {theirs.size / ours.size:.2f}x smaller"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Compare two ways of preparing the same files.")
    parser.add_argument("--documents", choices=get_args(documents.Kind), default="docstrings")
    parser.add_argument("--megabytes", type=float, default=8, help="Text to prepare.")
    parser.add_argument("--copies", type=int, default=8, help="Of the text, without tokenizer.")
    parser.add_argument("--runs", type=int, default=3, help="Runs of each.")
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    table = Table("", "way", "MB/s", "documents/s", "s", "CPU s", "MB of tars")
    with tempfile.TemporaryDirectory() as folder:
        corpus = Corpus(Path(folder), options.documents, num_bytes=int(options.megabytes * 1e6))
        ratios = [
            compare(corpus, table, copies=options.copies, runs=options.runs, replay=True),
            compare(corpus, table, copies=1, runs=options.runs, replay=False),
        ]
    tokens = sum(map(len, _ids))
    console = Console(soft_wrap=True)
    console.print(f"{this_machine()}; medians of {options.runs} runs")
    console.print(
        f"{len(corpus.texts):,} documents, {corpus.num_bytes / 1e6:.1f} MB of text, "
        f"{tokens:,} tokens, {tokens / len(corpus.texts):.0f} a document"
    )
    console.print(table)
    console.print("\n".join(ratios))


if __name__ == "__main__":
    main()

"""A program: prepare CORPUS into OUT and die, without any clean-up, at the NUMBER-th change.

A change is a call that changes the file system. Number 0 never comes: that run is whole, and prints
how many changes there were.
"""

import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

from prepare_corpus import BUCKETS, SMALL

from dataset_decomposition import prepare as prepare_module
from dataset_decomposition.settings import Layout

CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir")


def prepare_with_bpe(corpus: Path, out: Path) -> None:
    """Prepare with all that a preparation can do: a trained tokenizer and held-out documents."""
    prepare_module.prepare(
        [f"{corpus}/*.jsonl"],
        out,
        heldout=[f"{corpus}/*.txt"],
        tokenizer="bpe",
        vocab_size=300,
        **BUCKETS,
    )


def main(corpus: str, out: str, number: str) -> None:
    """Count the changes through an audit hook, and die at one of them."""
    seen = 0

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in CHANGES or (event == "open" and _writes(args[1])):
            seen += 1
            if seen == int(number):
                os.kill(os.getpid(), signal.SIGKILL)

    prepare_module.Layout = partial(Layout, **vars(SMALL))
    sys.addaudithook(hook)
    prepare_with_bpe(Path(corpus), Path(out))
    sys.stdout.write(f"changes {seen}\n")


def _writes(mode: Any) -> bool:
    return isinstance(mode, str) and bool(set(mode) & set("wax+"))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Logits of exported models against those of the models they come from, with sizes on disk.

S0 goes to ONNX and `torch.export`, folded; S1, S2 and B to folders that plain open_clip loads. The
statistics of batch normalisation and LayerScale are drawn at random: with fresh ones a wrong fold
would not show.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Literal

import torch

from mobileclip.exporting import graphs, open_clip_folder
from mobileclip.exporting.parity import Parity
from mobileclip.models.clip import MobileCLIP, build_model
from mobileclip.models.fold import fold, randomise_
from tenfold.results import this_machine

Format = Literal["open_clip", "onnx", "torch"]
EXPORTS: tuple[tuple[str, Format], ...] = (
    ("s0", "onnx"),
    ("s0", "torch"),
    ("s1", "open_clip"),
    ("s2", "open_clip"),
    ("b", "open_clip"),
)


def main() -> None:
    """Export each and print one line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    names = sorted({name for name, _ in EXPORTS})
    parser.add_argument("--models", nargs="+", choices=names, default=names)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(this_machine())
    for name, kind in EXPORTS:
        if name in options.models:
            with tempfile.TemporaryDirectory() as folder:
                print(line(name, kind, Path(folder)))


def line(name: str, kind: Format, folder: Path) -> str:
    """Export one model and describe it."""
    began = time.perf_counter()
    parity = exported(random_model(name), kind, folder)
    seconds = time.perf_counter() - began
    mebibytes = sum(path.stat().st_size for path in folder.iterdir()) / 2**20
    return f"{name:>2} {kind:>9}: {parity}; {mebibytes:.0f} MiB, {seconds:.0f} s"


def random_model(name: str) -> MobileCLIP:
    """Return a model as it might be after training."""
    torch.manual_seed(0)
    model = build_model(name).eval()
    randomise_(model, torch.Generator().manual_seed(0))
    return model


def exported(model: MobileCLIP, kind: Format, folder: Path) -> Parity:
    """Write the model, load it as a user would, and compare."""
    if kind == "open_clip":
        open_clip_folder.write(model, folder)
        return open_clip_folder.check(model, folder)
    folded = fold(model)
    graphs.write(graphs.trace(folded), folded, folder, format=kind)
    return graphs.check(model, folder, format=kind)


if __name__ == "__main__":
    main()

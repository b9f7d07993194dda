"""Latency of the models, folded and unfolded, against ViT-B/16's CLIP (spec 10).

The paper times S2 at 2.1 times less than OpenAI's ViT-B/16 on a phone (image and text together).
Exported graphs: `--forms eager onnx torch`.
"""

import argparse

from rich.console import Console

from mobileclip.export import require_onnx
from mobileclip.latency import PEER, Row, Settings, measure, report

MODELS = ("s0", "s1", "s2", "b")
PUBLISHED_MS = {"s0": 3.1, "s1": 5.8, "s2": 6.9, "b": 13.7, PEER: 14.8}


def main() -> None:
    """Print the table and, beside it, the paper's ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--forms", nargs="+", choices=("eager", "onnx", "torch"), default=["eager"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    if "eager" not in options.forms:
        parser.error("the ratios need --forms eager")
    if "onnx" in options.forms:
        require_onnx("timing onnx graphs")
    settings = Settings(
        device=options.device,
        batch_size=options.batch,
        threads=options.threads,
        repeats=options.repeats,
        forms=tuple(options.forms),
    )
    rows = measure(options.models, settings)
    Console(soft_wrap=True).print(report(rows, settings))
    folded = {row.model: row for row in rows if row.form in ("folded", "")}
    unfolded = {row.model: row for row in rows if row.form == "unfolded"}
    for name in options.models:
        print(ratios(name, folded, unfolded))


def ratios(name: str, folded: dict[str, Row], unfolded: dict[str, Row]) -> str:
    """Return what folding saves, and the speed against the peer here and in the paper."""
    saved = unfolded[name].median / folded[name].median
    here = folded[PEER].median / folded[name].median
    paper = PUBLISHED_MS[PEER] / PUBLISHED_MS[name]
    return f"{name}: unfolded / folded {saved:.2f}; {PEER} / folded {here:.2f} (paper {paper:.2f})"


if __name__ == "__main__":
    main()

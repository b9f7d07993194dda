"""`python -m tenfold.demo_data`: count, show and export the demo data."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from tenfold.demo_data import counting, documents, figures


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code (2 for a user's mistake)."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        sys.stdout.write(_run(arguments))
    except (ValueError, FileNotFoundError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def _run(arguments: argparse.Namespace) -> str:
    if arguments.command == "counts":
        return counting.tables()
    if arguments.command == "show":
        size = figures.write(arguments.name, arguments.out)
        return f"wrote {arguments.out} ({size / 1000:.0f} kB)\n"
    kind, split = arguments.kind, arguments.split
    total = documents.write_jsonl(arguments.out, kind=kind, split=split)
    return f"wrote {arguments.out} ({total:,} documents)\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tenfold.demo_data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("counts", help="print the tables of counts")
    show = commands.add_parser("show", help="write a contact sheet as PNG")
    show.add_argument("name", choices=sorted(figures.SHEETS))
    show.add_argument("--out", type=Path, required=True, help="PNG file to write")
    export = commands.add_parser("documents", help="write a corpus as JSON lines")
    export.add_argument("--kind", choices=get_args(documents.Kind), default="docstrings")
    export.add_argument("--split", choices=get_args(documents.Split), default="train")
    export.add_argument("--out", type=Path, required=True, help="JSONL file to write")
    return parser


if __name__ == "__main__":
    sys.exit(main())

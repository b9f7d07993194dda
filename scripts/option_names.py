"""Store the option names of each paper's verbs in `packages/<name>/tests/option_names.json`.

Option names are an API: a test compares them with the stored ones. After a wanted change run

    .venv/bin/python scripts/option_names.py [NAME ...]

and commit the difference with the change.
"""

import argparse
import importlib
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def current_option_names(import_name: str) -> dict[str, list[str]]:
    """Return the sorted option names of every verb of an installed paper (imports its code)."""
    app = importlib.import_module(f"{import_name}.cli").APP
    return {verb: sorted(app.option_names(verb)) for verb in sorted(app.verb_names())}


def main(argv: list[str] | None = None) -> int:
    """Write the files of the named papers, of all without a name."""
    known = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))
    parser = argparse.ArgumentParser(description="Store each paper's option names.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(known)}")
    for name in parser.parse_args(argv).names or known:
        if name not in known:
            print(f"error: no package {name!r}; choose from: {', '.join(known)}", file=sys.stderr)
            return 2
        path = ROOT / "packages" / name / "tests" / "option_names.json"
        names = current_option_names(name.replace("-", "_"))
        path.write_text(json.dumps(names, indent=2) + "\n", encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Render RESULTS.md, each paper's RESULTS.md and the README table from `results/<name>/*.json`.

One file is one claim that `<name> reproduce` has checked, see `tenfold.results`; its name is the
claim's short name. A claim that does not hold is rendered like any other.
"""

import argparse
import re
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

from tenfold.results import Result, load_result

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
HEADER = "Rendered by `make results` from the files in `results/`; edit nothing here.\n"


def load_results(root: Path) -> dict[str, list[Result]]:
    """Return the results of every paper below `packages/`, sorted by file name.

    Raises:
        ValueError: A result file is wrong or belongs to no paper.
    """
    names = sorted(path.parent.name for path in root.glob("packages/*/pyproject.toml"))
    files = sorted(root.glob("results/*/*.json"))
    if strays := [path for path in files if path.parent.name not in names]:
        raise ValueError(f"{strays[0]}: no package '{strays[0].parent.name}'; choose from {names}")
    return {n: [load_result(p) for p in files if p.parent.name == n] for n in names}


def render(root: Path) -> dict[Path, str]:
    """Return path and text of every rendered file; nothing is written.

    Raises:
        ValueError: A result file is wrong, or the README has no result markers.
        FileNotFoundError: There is no README.
    """
    results = load_results(root)
    papers = {name: root / "packages" / name for name in results}
    rendered = {root / "RESULTS.md": _overview(results)}
    for name, folder in papers.items():
        rendered[folder / "RESULTS.md"] = (
            f"# Results of {name}\n\n{HEADER}\n{_claims(results[name])}"
        )
    readme = root / "README.md"
    table = _readme_table({papers[name]: found for name, found in results.items()})
    rendered[readme] = replace_between_markers(readme.read_text(encoding="utf-8"), table)
    return rendered


def replace_between_markers(text: str, table: str) -> str:
    """Return `text` with `table` in place of what stands between the two result markers."""
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"README.md has no '{BEGIN}' ... '{END}'; put both where the table goes")
    return pattern.sub(lambda _: f"{BEGIN}\n{table}{END}", text, count=1)


def _overview(results: Mapping[str, list[Result]]) -> str:
    if not any(results.values()):
        empty = "No results are committed yet. `make reproduce-<name>` writes them.\n"
        return f"# Results\n\n{HEADER}\n{empty}"
    parts = [f"## {name}\n\n{_claims(found)}" for name, found in results.items()]
    return f"# Results\n\n{HEADER}\n" + "\n".join(parts)


def _claims(results: list[Result]) -> str:
    if not results:
        return "No result is committed yet.\n"
    return "\n".join(map(_claim, results))


def _claim(result: Result) -> str:
    verdict = "holds" if result.holds else "**does not hold**"
    seeds = ", ".join(map(str, result.seeds))
    lines = [
        f"**Claim:** {result.claim} ({result.paper})",
        "",
        f"At scale `{result.scale}` it {verdict}, margin {result.margin:.4g}.",
        f"`{result.command}` at commit `{result.commit}`, seeds {seeds}, on {result.machine}.",
        "",
        "| arm | metric | mean | spread | per seed |",
        "|---|---|---:|---:|---|",
        *(
            f"| {row.arm} | `{row.metric}` | {row.mean:.4g} | {row.spread:.2g} "
            f"| {', '.join(f'{value:.4g}' for value in row.per_seed)} |"
            for row in result.rows
        ),
    ]
    return "\n".join([*lines, *(["", result.notes] if result.notes else [])]) + "\n"


def _readme_table(results: Mapping[Path, list[Result]]) -> str:
    lines = ["| package | what | command | measured |", "|---|---|---|---|"]
    for folder, found in results.items():
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        measured = "<br>".join(map(_measured, found)) or "not measured yet"
        name = f"[{folder.name}](packages/{folder.name})"
        command = f"`make reproduce-{folder.name}`"
        lines.append(f"| {name} | {project['description']} | {command} | {measured} |")
    return "\n".join(lines) + "\n"


def _measured(result: Result) -> str:
    verdict = "holds" if result.holds else "does not hold"
    return f"{result.claim} ({result.scale}: {verdict}, margin {result.margin:.3g})"


def main(argv: list[str] | None = None) -> int:
    """Write every rendered file."""
    argparse.ArgumentParser(description="Render the result files.").parse_args(argv)
    try:
        rendered = render(ROOT)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for path, text in rendered.items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

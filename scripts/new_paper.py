"""Start a new paper: copy `scripts/template/` to `packages/<name>/` and add it to every list.

The template is itself a small working member called `paper-template`, a classifier of handwritten
digits; the copy trains, reproduces and passes every contract test before its first edit.

Not here: resolving `uv.lock` for the new member (`make new-paper` does it afterwards).
"""

import argparse
import keyword
import re
import shutil
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = Path(__file__).resolve().parent / "template"
TEMPLATE_NAME = "paper-template"
_ARRAY = r"(^{key} = \[\n)((?:.*\n)*?)(^\]$)"


def create_paper(root: Path, name: str) -> Path:
    """Make `root/packages/<name>` and return it.

    Raises:
        ValueError: The name is not kebab-case, or is a word of Python's.
        FileExistsError: A package or an installed module has that name.
    """
    check_name(name)
    folder = root / "packages" / name
    if folder.exists():
        raise FileExistsError(f"{folder} exists; choose another name or remove it")
    project = root / "pyproject.toml"
    changed = add_member(project.read_text(encoding="utf-8"), name)
    for path in sorted(p for p in TEMPLATE.rglob("*") if p.is_file()):
        if "__pycache__" not in path.parts:
            target = folder / rename(path.relative_to(TEMPLATE).as_posix(), name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(rename(path.read_text(encoding="utf-8"), name), encoding="utf-8")
            shutil.copymode(path, target)
    project.write_text(changed, encoding="utf-8")
    return folder


def check_name(name: str) -> None:
    """Raise if `name` cannot be the name of a package, a folder and a console script at once."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise ValueError(f"name must be kebab-case like 'my-paper', got {name!r}")
    import_name = name.replace("-", "_")
    if keyword.iskeyword(import_name) or import_name in sys.stdlib_module_names:
        raise ValueError(f"name {name!r} is Python's own; choose another")
    if name in ("tenfold", "shared", TEMPLATE_NAME):
        raise ValueError(f"name {name!r} is taken; choose another")


def rename(text: str, name: str) -> str:
    """Return the template's `text` with its three spellings of the name replaced."""
    words = name.split("-")
    spellings = {
        TEMPLATE_NAME: name,
        TEMPLATE_NAME.replace("-", "_"): "_".join(words),
        "PaperTemplate": "".join(map(str.capitalize, words)),
    }
    for old, new in spellings.items():
        text = text.replace(old, new)
    return text


def add_member(project: str, name: str) -> str:
    """Return the root pyproject's text with `name` in each list that names every member.

    Raises:
        ValueError: A list is not where it is expected.
    """
    import_name = name.replace("-", "_")
    project = project.replace(
        "[tool.uv.sources]\n", f"[tool.uv.sources]\n{name} = {{ workspace = true }}\n", 1
    )
    for key, item in (
        ("members", name),
        ("root_packages", import_name),
        ("modules", import_name),
        ("forbidden_modules", import_name),
    ):
        project = _append(project, key, item)
    if name not in tomllib.loads(project)["tool"]["uv"]["sources"]:
        raise ValueError("pyproject.toml has no table [tool.uv.sources]; restore it")
    return project


def _append(project: str, key: str, item: str) -> str:
    pattern = re.compile(_ARRAY.format(key=key), re.MULTILINE)
    if len(pattern.findall(project)) != 1:
        raise ValueError(f"pyproject.toml needs one array '{key} = [' with one item a line")
    return pattern.sub(lambda match: f'{match[1]}{match[2]}    "{item}",\n{match[3]}', project)


def main(argv: list[str] | None = None) -> int:
    """Run `new_paper.py NAME`."""
    parser = argparse.ArgumentParser(description="Start packages/NAME from the template.")
    parser.add_argument("name", help="kebab-case, for example my-paper")
    arguments = parser.parse_args(argv)
    try:
        folder = create_paper(ROOT, arguments.name)
    except (ValueError, FileExistsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {folder.relative_to(ROOT)}; next: make train-{arguments.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

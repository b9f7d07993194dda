"""Shipped recipes: YAML files whose first line is a comment that says what they train."""

import difflib
from collections.abc import Sequence
from pathlib import Path


def recipe_table(folder: Path) -> str:
    """Return one line a recipe: name and first comment line."""
    recipes = sorted(folder.rglob("*.yaml"))
    if not recipes:
        raise FileNotFoundError(f"no recipes in {folder}: reinstall the package")
    names = [_name(path, folder) for path in recipes]
    width = max(map(len, names))
    rows = zip(names, map(_headline, recipes), strict=True)
    return "".join(f"{name:<{width}}  {headline}\n" for name, headline in rows)


def with_recipes(argv: Sequence[str], folder: Path) -> list[str]:
    """Put the file in the place of each recipe that follows `--config`, as `--config=<file>`.

    Raises:
        FileNotFoundError: A word is neither a file nor a recipe.
    """
    words: list[str] = []
    for word in argv:
        if words and words[-1] in ("--config", "-c"):
            words[-1] = f"--config={find_recipe(word, folder)}"
        elif word.startswith("--config="):
            words.append(f"--config={find_recipe(word.partition('=')[2], folder)}")
        else:
            words.append(word)
    return words


def find_recipe(value: str, folder: Path) -> Path:
    """Return the recipe file that `value` names: a path, or the name of a shipped recipe.

    Raises:
        FileNotFoundError: Neither exists; names the nearest recipes.
    """
    path, shipped = Path(value), folder / f"{value}.yaml"
    if path.is_file():
        return path
    if shipped.is_file():
        return shipped
    known = [_name(found, folder) for found in sorted(folder.rglob("*.yaml"))]
    nearest = difflib.get_close_matches(value, known, n=3, cutoff=0.4)
    hint = f"; nearest: {', '.join(nearest)}" if nearest else ""
    raise FileNotFoundError(
        f"no such recipe: {value} (neither a file nor one of the {len(known)} that the verb "
        f"recipes lists{hint})"
    )


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


def _headline(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return file.readline().lstrip("# ").strip()

"""Shipped recipes: YAML files whose first line is a comment that says what they train."""

from pathlib import Path


def recipe_table(folder: Path) -> str:
    """Return one line a recipe: name and first comment line."""
    recipes = sorted(folder.rglob("*.yaml"))
    if not recipes:
        raise FileNotFoundError(f"no recipes in {folder}: reinstall the package")
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in recipes]
    width = max(map(len, names))
    rows = zip(names, map(_headline, recipes), strict=True)
    return "".join(f"{name:<{width}}  {headline}\n" for name, headline in rows)


def find_recipe(value: str, folder: Path) -> Path:
    """Return the recipe file that `value` names: a path, or the name of a shipped recipe.

    Raises:
        FileNotFoundError: Neither exists.
    """
    path, shipped = Path(value), folder / f"{value}.yaml"
    if path.is_file():
        return path
    if shipped.is_file():
        return shipped
    known = ", ".join(sorted(p.stem for p in folder.rglob("*.yaml")))
    raise FileNotFoundError(f"no such recipe: {value} (neither a file nor one of: {known})")


def _headline(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return file.readline().lstrip("# ").strip()

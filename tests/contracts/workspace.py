"""The lists that name every member: workspace sources, default group, import contracts, results."""

import re
import tomllib
from pathlib import Path

import lock
import render_results
from contracts.tree import papers, problem


def check_workspace(root: Path) -> list[str]:
    """The root pyproject names each paper in its sources, `members` group and import contracts."""
    path = root / "pyproject.toml"
    project = tomllib.loads(path.read_text(encoding="utf-8"))
    names = {paper.name for paper in papers(root)}
    packages = {paper.import_name for paper in papers(root)}
    linter = project["tool"]["importlinter"]
    contracts = {contract["type"]: contract for contract in linter["contracts"]}
    group = {re.split(r"[\[<>=~! ]", item)[0] for item in project["dependency-groups"]["members"]}
    lists = {
        "[tool.uv.sources]": (set(project["tool"]["uv"]["sources"]), names | {"tenfold"}),
        "the members group": (group, names | {"tenfold"}),
        "importlinter root_packages": (set(linter["root_packages"]), packages | {"tenfold"}),
        "the independence contract": (set(contracts["independence"]["modules"]), packages),
        "the forbidden contract": (set(contracts["forbidden"]["forbidden_modules"]), packages),
    }
    return [
        problem(
            root, path, None, f"{where}: {', '.join(sorted(found ^ wanted))} missing or too many"
        )
        for where, (found, wanted) in lists.items()
        if found != wanted
    ]


def check_member_projects(root: Path) -> list[str]:
    """A paper's folder, distribution and console script have one name; licence and recipes ship."""
    problems: list[str] = []
    for paper in papers(root):
        text = paper.pyproject()
        project = text["project"]
        wheel = (
            text.get("tool", {})
            .get("hatch", {})
            .get("build", {})
            .get("targets", {})
            .get("wheel", {})
        )
        expected = {
            "project.name": (project["name"], paper.name),
            "project.license": (project.get("license"), "Apache-2.0"),
            "project.scripts": (
                project.get("scripts", {}).get(paper.name),
                f"{paper.import_name}.cli:main",
            ),
            "wheel force-include": (
                wheel.get("force-include", {}).get("recipes"),
                f"{paper.import_name}/recipes",
            ),
        }
        problems += [
            problem(
                root,
                paper.folder / "pyproject.toml",
                None,
                f"{key}: {found!r}, expected {wanted!r}",
            )
            for key, (found, wanted) in expected.items()
            if found != wanted
        ]
    return problems


def check_lock_addresses(root: Path) -> list[str]:
    """`uv.lock` holds no address."""
    path = root / "uv.lock"
    found = lock.find_addresses(path.read_text(encoding="utf-8"))
    return [problem(root, path, None, f"names {found[0]}; run `make lock`")] if found else []


def check_results(root: Path) -> list[str]:
    """Rendered results are what `results/` says, not typed."""
    try:
        rendered = render_results.render(root)
    except (ValueError, FileNotFoundError) as error:
        return [f"results: {error}"]
    return [
        problem(root, path, None, "is not what `make results` renders")
        for path, text in rendered.items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]

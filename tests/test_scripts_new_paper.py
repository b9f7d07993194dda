"""`make new-paper`: the scaffold keeps every contract, and it trains."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import new_paper
import render_results
from contracts.light import check_light
from contracts.registry import CHECKS
from contracts.tree import ROOT, Member, repository_files

NAME = "fresh-paper"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of what is committed, README markers included, with a new paper in it."""
    for path in repository_files(ROOT):
        target = tmp_path / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    new_paper.create_paper(tmp_path, NAME)
    for path, text in render_results.render(tmp_path).items():
        path.write_text(text, encoding="utf-8")
    return tmp_path


def test_the_new_paper_keeps_every_contract(copy: Path) -> None:
    problems = [problem for check in CHECKS for problem in check(copy)]
    assert [problem for problem in problems if "fresh" in problem] == []
    assert [problem for problem in problems if problem.startswith("pyproject.toml")] == []
    text = "".join(p.read_text() for p in (copy / "packages" / NAME).rglob("*") if p.is_file())
    assert "template" not in text.lower()
    assert "class FreshPaperModule" in text


def test_the_new_paper_answers_without_torch(copy: Path) -> None:
    assert check_light(Member(copy / "packages" / NAME, NAME)) == []


def test_the_new_paper_is_formatted_and_linted(copy: Path) -> None:
    ruff = str(Path(sys.executable).with_name("ruff"))
    folder = str(copy / "packages" / NAME)
    # As the Makefile does: a shorter or longer name moves line breaks and import order.
    subprocess.run([ruff, "check", "--quiet", "--fix", folder], cwd=copy, check=True)
    subprocess.run([ruff, "format", "--quiet", folder], cwd=copy, check=True)


@pytest.mark.slow
def test_the_tests_of_the_new_paper_pass(copy: Path) -> None:
    folder = copy / "packages" / NAME
    script = (
        "import json, option_names; from pathlib import Path\n"
        f"stored = json.loads(Path({str(folder / 'tests/option_names.json')!r}).read_text())\n"
        "assert option_names.current_option_names('fresh_paper') == stored\n"
    )
    path = f"{folder / 'src'}{os.pathsep}{ROOT / 'scripts'}"
    environment = {**os.environ, "PYTHONPATH": path}
    for words in (["-c", script], ["-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)]):
        done = subprocess.run(
            [sys.executable, *words],
            cwd=copy,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_each_list_gets_one_more_line() -> None:
    before = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    after = new_paper.add_member(before, "a-new-one")
    added = [line for line in after.splitlines() if line not in before.splitlines()]
    assert sorted(added) == [
        *['    "a-new-one",'],
        *['    "a_new_one",'] * 3,
        "a-new-one = { workspace = true }",
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("My-Paper", "must be kebab-case like 'my-paper', got 'My-Paper'"),
        ("my_paper", "must be kebab-case"),
        ("", "must be kebab-case"),
        ("../x", "must be kebab-case"),
        ("json", "'json' is Python's own"),
        ("tenfold", "'tenfold' is taken"),
    ],
)
def test_bad_names(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        new_paper.create_paper(tmp_path, name)


def test_an_existing_paper_is_kept(tmp_path: Path) -> None:
    (tmp_path / "packages" / "taken").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="taken exists; choose another name"):
        new_paper.create_paper(tmp_path, "taken")


def test_a_reshaped_pyproject_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[tool.uv.sources]\n[dependency-groups]\nmembers = ["a"]\n'
    )
    with pytest.raises(ValueError, match=r"needs one array 'members = \['"):
        new_paper.create_paper(tmp_path, NAME)
    assert not (tmp_path / "packages").exists()

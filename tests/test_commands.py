"""Each paper's command line: light answers, stored option names, README commands that run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import option_names
from contracts.light import check_light, readme_dry_runs
from contracts.tree import ROOT, Member, papers

PAPERS = papers(ROOT)
each_paper = pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: paper.name)

FAKE_CLI = """
import sys
{imports}
class APP:
    verb_names = staticmethod(lambda: ["fit", "recipes"])
    @staticmethod
    def main(argv):
        if argv == ["no-such-verb"]:
            sys.stderr.write({error!r})
            return {code}
        sys.stdout.write("fit recipes tiny_cpu")
        return 0
"""


@each_paper
def test_light_answers(paper: Member) -> None:
    assert check_light(paper) == []


@pytest.mark.parametrize(
    ("values", "problems"),
    [
        ({}, []),
        ({"imports": "import torch"}, ["imports torch for help"]),
        ({"code": 1}, ["an unknown verb exits with 1, expected 2"]),
        ({"error": "a\nb\n"}, ["an unknown verb is answered by 'a\\nb\\n'"]),
    ],
)
def test_light_check_bites(tmp_path: Path, values: dict[str, str], problems: list[str]) -> None:
    package = tmp_path / "src" / "fake_paper"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    values = {"imports": "", "error": "error: x\n", "code": "2", **values}
    (package / "cli.py").write_text(FAKE_CLI.format(**values))
    # A stand-in: the check looks at the name only, and the real one takes seconds.
    (package.parent / "torch.py").touch()
    found = check_light(Member(tmp_path, "fake-paper"))
    assert found == [f"fake-paper: {problem}" for problem in problems]


@each_paper
def test_option_names_are_the_stored_ones(paper: Member) -> None:
    stored = json.loads(paper.option_names.read_text(encoding="utf-8"))
    current = option_names.current_option_names(paper.import_name)
    assert current == stored, f"if wanted: python scripts/option_names.py {paper.name}"


@pytest.mark.slow
@each_paper
def test_readme_dry_runs_run(paper: Member, tmp_path: Path) -> None:
    commands = readme_dry_runs(paper)
    assert commands, f"{paper.name}: the README shows no command with --dry_run"
    (tmp_path / "packages").symlink_to(ROOT / "packages")
    script = Path(sys.executable).with_name(paper.name)
    for words in commands:
        done = subprocess.run(
            [script, *words],
            cwd=tmp_path,
            env=os.environ,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stderr}"

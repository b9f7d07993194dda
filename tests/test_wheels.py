"""Every member's wheel builds and works on its own in a clean environment."""

import os
import subprocess
from pathlib import Path

import pytest

from contracts.tree import ROOT, members, papers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def run(*words: str | Path, cwd: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        words, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(map(str, words))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_wheels_install_and_list_their_recipes(uv: str, tmp_path: Path) -> None:
    uv = str(Path(uv).absolute())
    wheels = tmp_path / "wheels"
    run(uv, "build", "--project", ROOT, "--all-packages", "--wheel", "-o", wheels, cwd=ROOT)
    built = sorted(wheels.glob("*.whl"))
    assert len(built) == len(members(ROOT))

    pinned = tmp_path / "requirements.txt"
    export = ["export", "--frozen", "--all-packages", "--no-emit-workspace", "--no-dev"]
    run(uv, *export, "--project", ROOT, "--output-file", pinned, cwd=tmp_path)
    run(uv, "venv", "--python", "3.11", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    run(uv, "pip", "install", "--python", python, "--constraint", pinned, *built, cwd=tmp_path)
    run(uv, "pip", "check", "--python", python, cwd=tmp_path)
    for paper in papers(ROOT):
        script = python.with_name(paper.name)
        assert paper.name in run(script, "--help", cwd=tmp_path)
        listed = run(script, "recipes", cwd=tmp_path)
        assert {"tiny_cpu", "h200"} <= {line.split()[0] for line in listed.splitlines()}

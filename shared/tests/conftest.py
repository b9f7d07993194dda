"""Fixtures of the shared tests."""

import sys
from pathlib import Path

import pytest

# For the modules beside the tests; workers that a test spawns inherit the path.
sys.path.append(str(Path(__file__).parent))

from jobs_program import SETTINGS, pages, tree, write_page

from tenfold.jobs import run_jobs

TOY = Path(__file__).parent / "toy_member" / "src"


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Make `toy_member` importable, here and in subprocesses, and work in an empty folder."""
    monkeypatch.syspath_prepend(str(TOY))
    monkeypatch.setenv("PYTHONPATH", str(TOY))
    monkeypatch.chdir(tmp_path)
    for name in [name for name in sys.modules if name.startswith("toy_member")]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The tree of the jobs of `jobs_program` after one undisturbed run in process."""
    root = tmp_path_factory.mktemp("undisturbed")
    run_jobs(write_page, pages(), out=root / "out", settings=SETTINGS)
    return tree(root / "out")


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Return the folder of the shards of `numbered_shards`."""
    # Loads torch, which most of these tests do without.
    from numbered_shards import write_numbered

    return write_numbered(tmp_path / "data")

"""Fixtures of the tests of `prepare`."""

import sys
from functools import partial
from pathlib import Path

import pytest

# For the modules beside the tests; workers that a test spawns inherit the path.
sys.path.append(str(Path(__file__).parent))

from prepare_corpus import SMALL, make_texts, write_jsonl

from dataset_decomposition import prepare as prepare_module
from dataset_decomposition.settings import Layout


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `prepare` cut its work into small parts."""
    monkeypatch.setattr(prepare_module, "Layout", partial(Layout, **vars(SMALL)))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of JSON Lines and text files, which no test changes."""
    folder = tmp_path_factory.mktemp("corpus")
    for index in range(4):
        write_jsonl(folder / f"part-{index}.jsonl", make_texts(index, 150))
    for index, text in enumerate(make_texts(9, 12)):
        (folder / f"text-{index}.txt").write_text(text)
    return folder

"""What the tests of training share."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tiny_reinforcement import TinyData

# For the modules beside the tests; processes that a test spawns inherit the path.
sys.path.append(str(Path(__file__).parent))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> "TinyData":
    """Images, teacher and stores, which no test changes."""
    from tiny_reinforcement import make_tiny  # torch, which other tests may not need

    return make_tiny(tmp_path_factory.mktemp("tiny"))

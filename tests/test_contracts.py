"""Every static contract holds in this repository."""

from collections.abc import Callable
from pathlib import Path

import pytest

from contracts.registry import CHECKS
from contracts.tree import ROOT


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract_holds(check: Callable[[Path], list[str]]) -> None:
    problems = check(ROOT)
    assert not problems, "\n".join(problems)

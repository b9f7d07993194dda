import os
import shutil

import pytest

from contracts.tree import ROOT


@pytest.fixture
def uv() -> str:
    private = ROOT / ".uv" / "bin" / "uv"
    found = (
        os.environ.get("UV") or shutil.which("uv") or (str(private) if private.is_file() else "")
    )
    assert found, "no uv: put it on PATH, or run the tests with `make test`"
    return found

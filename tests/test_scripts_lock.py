"""`scripts/lock.py`: addresses go, versions stay, on a package index served from this process."""

import hashlib
import http.server
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

import lock
from contracts.tree import ROOT

ADDRESS = "https:" + "//index.example/simple"
WITH_ADDRESSES = f"""
source = {{ registry = "{ADDRESS}" }}
sdist = {{ url = "{ADDRESS}/ab/a-1.0.tar.gz", hash = "sha256:aa", size = 3, upload-time = "2026" }}
wheels = [
    {{ url = "{ADDRESS}/cd/a-1.0%2Bcpu-py3-none-any.whl#egg", hash = "sha256:bb", size = 4 }},
    {{ url = "{ADDRESS}/cd/a-1.0-py2-none-any.whl", hash = "sha256:cc" }},
]
http = ["a"]
"""
WITHOUT = """
source = { registry = "wheels" }
sdist = { path = "a-1.0.tar.gz", hash = "sha256:aa", size = 3 }
wheels = [
    { path = "a-1.0+cpu-py3-none-any.whl", hash = "sha256:bb", size = 4 },
    { path = "a-1.0-py2-none-any.whl", hash = "sha256:cc" },
]
http = ["a"]
"""


class Index(http.server.ThreadingHTTPServer):
    """A package index of empty wheels."""

    def __init__(self, folder: Path) -> None:
        handler = partial(QuietHandler, directory=str(folder))
        super().__init__(("127.0.0.1", 0), handler)
        self.folder = folder

    def publish(self, name: str, version: str, requires: str = "") -> None:
        project = self.folder / "simple" / name
        project.mkdir(parents=True, exist_ok=True)
        info = f"{name}-{version}.dist-info"
        wheel = project / f"{name}-{version}-py3-none-any.whl"
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}"
        with zipfile.ZipFile(wheel, "w") as file:
            file.writestr(f"{info}/METADATA", metadata)
            file.writestr(
                f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            file.writestr(f"{info}/RECORD", "")
        links = "".join(map(link, sorted(project.glob("*.whl"))))
        (project / "index.html").write_text(f"<!DOCTYPE html><html><body>{links}")


def link(path: Path) -> str:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return f'<a href="{path.name}#sha256={digest}">{path.name}</a>'


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    server = Index(tmp_path / "index")
    server.publish("alpha", "1.0")
    server.publish("beta", "1.0")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"http://127.0.0.1:{server.server_port}/simple")
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    monkeypatch.setenv("UV_NO_CACHE", "1")
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def workspace(tmp_path: Path) -> Callable[..., Path]:
    def write(*dependencies: str) -> Path:
        root = tmp_path / "workspace"
        root.mkdir(exist_ok=True)
        listed = ", ".join(f'"{name}"' for name in dependencies)
        (root / "pyproject.toml").write_text(
            f'[project]\nname = "w"\nversion = "1"\nrequires-python = ">=3.11"\n'
            f"dependencies = [{listed}]\n[tool.uv]\npackage = false\n"
        )
        return root

    return write


def test_addresses_are_stripped() -> None:
    assert lock.strip_addresses(WITH_ADDRESSES) == WITHOUT
    assert lock.find_addresses(WITHOUT) == []


def test_stripping_is_a_fixed_point() -> None:
    committed = (ROOT / "uv.lock").read_text(encoding="utf-8")
    assert lock.strip_addresses(committed) == committed


def test_a_git_dependency_is_refused() -> None:
    with pytest.raises(ValueError, match=r"still names 'git\+ssh://host/a.git'; .* remove the git"):
        lock.strip_addresses('source = { git = "git+ssh://host/a.git" }\n')


def test_committed_lock_is_right(uv: str) -> None:
    assert lock.check(ROOT, uv) == []


def test_an_unrelated_change_keeps_versions(
    index: Index, workspace: Callable[..., Path], uv: str
) -> None:
    root = workspace("alpha")
    lock.resolve(root, uv)
    first = (root / "uv.lock").read_text()
    assert 'path = "alpha-1.0-py3-none-any.whl", hash = "sha256:' in first
    assert lock.check(root, uv) == []

    index.publish("alpha", "2.0")
    lock.resolve(workspace("alpha", "beta"), uv)
    text = (root / "uv.lock").read_text()
    assert "alpha-1.0" in text
    assert "beta-1.0" in text
    assert lock.find_addresses(text) == []


def test_upgrade_takes_newer_versions(
    index: Index, workspace: Callable[..., Path], uv: str
) -> None:
    root = workspace("alpha", "beta")
    lock.resolve(root, uv)
    index.publish("alpha", "2.0")
    index.publish("beta", "2.0")
    lock.resolve(root, uv, upgrade=["beta"])
    text = (root / "uv.lock").read_text()
    assert "alpha-1.0" in text
    assert "beta-2.0" in text
    lock.resolve(root, uv, upgrade=[])
    assert "alpha-2.0" in (root / "uv.lock").read_text()


def test_check_reports_addresses_and_age(
    index: Index, workspace: Callable[..., Path], uv: str
) -> None:
    root = workspace("alpha")
    lock.resolve(root, uv)
    workspace("alpha", "beta")
    with (root / "uv.lock").open("a") as file:
        file.write(f"# {ADDRESS}\n")
    problems = lock.check(root, uv)
    assert len(problems) == 2
    assert problems[0] == f"uv.lock names {ADDRESS}; run `make lock`"
    assert problems[1].startswith("uv.lock is not up to date; run `make lock`")

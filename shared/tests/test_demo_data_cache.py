"""Cache of the demo data: fingerprints, damage, concurrent builders, left-overs."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

from tenfold import keyed
from tenfold.demo_data import cache, libraries
from tenfold.demo_data.cache import Recipe


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TENFOLD_CACHE", str(tmp_path))
    return tmp_path / "demo_data"


def recipe(**changes: object) -> Recipe:
    fields: dict[str, object] = {
        "name": "numbers",
        "file_name": "numbers.bin",
        "version": 1,
        "libraries": ("numpy",),
        "parameters": {"n": 3},
    }
    return Recipe(**(fields | changes))  # pyright: ignore[reportArgumentType]


class Builder:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, file: IO[bytes]) -> None:
        self.calls += 1
        file.write(b"payload")


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_fetch_builds_once_and_reads_afterwards(folder: Path) -> None:
    build = Builder()
    first = cache.fetch(recipe(), build=build, read=Path.read_bytes)
    second = cache.fetch(recipe(), build=build, read=Path.read_bytes)
    assert first == second == (b"payload", recipe().fingerprint())
    assert build.calls == 1
    assert entries(folder) == [f"numbers-{recipe().fingerprint()[:16]}"]


def test_fingerprint_is_the_hash_of_the_facts_and_of_nothing_else() -> None:
    # sha256 of {"libraries": {}, "name": "numbers", "parameters": {"n": 3}, "version": 1}
    expected = "480f26b54f32be44f5423b96e6a9f0d91a7de0bb6c99d37c45392ab23f35c3f8"
    assert recipe(libraries=()).fingerprint() == expected


@pytest.mark.parametrize("changes", [{"version": 2}, {"parameters": {"n": 4}}, {"name": "other"}])
def test_fingerprint_follows_every_fact(changes: dict[str, object]) -> None:
    assert recipe(**changes).fingerprint() != recipe().fingerprint()


def test_fingerprint_follows_library_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    before = recipe().fingerprint()
    monkeypatch.setattr(libraries, "version", lambda name: "0.0.1")
    assert recipe().fingerprint() != before


@pytest.mark.parametrize(
    ("file_name", "content", "reason"),
    [
        ("numbers.bin", b"paYload", "sha256"),
        ("numbers.bin", b"pay", "size"),
        ("manifest.json", b"{", "JSONDecodeError"),
        ("manifest.json", b"[]", "TypeError"),
        ("manifest.json", b"{}", "KeyError"),
        ("numbers.bin", None, "FileNotFoundError"),
        ("manifest.json", None, "FileNotFoundError"),
    ],
)
def test_damaged_entry_is_logged_and_rebuilt(
    folder: Path,
    caplog: pytest.LogCaptureFixture,
    file_name: str,
    content: bytes | None,
    reason: str,
) -> None:
    build = Builder()
    cache.fetch(recipe(), build=build, read=Path.read_bytes)
    (path,) = folder.glob(f"numbers-*/{file_name}")
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        value, _ = cache.fetch(recipe(), build=build, read=Path.read_bytes)
    assert value == b"payload"
    assert build.calls == 2
    assert "rebuilding the cache entry" in caplog.text
    assert reason in caplog.text
    assert len(entries(folder)) == 1


def test_the_first_of_two_builders_wins_and_the_other_reads_its_entry(folder: Path) -> None:
    inner = Builder()

    def outer(file: IO[bytes]) -> None:
        # The other process finishes while this one is still building.
        cache.fetch(recipe(), build=inner, read=Path.read_bytes)
        file.write(b"payload, differently")

    value, _ = cache.fetch(recipe(), build=outer, read=Path.read_bytes)
    assert value == b"payload"
    assert inner.calls == 1
    assert len(entries(folder)) == 1


def test_two_processes_build_the_same_entry_at_once(tmp_path: Path, folder: Path) -> None:
    code = (
        "import hashlib, sys; from tenfold.demo_data import glyphs;"
        "images = glyphs.load('all', background='photo', limit=300).images;"
        "sys.stdout.write(hashlib.sha256(images.tobytes()).hexdigest());"
        "assert 'torch' not in sys.modules, 'demo data must not import torch'"
    )
    command = [sys.executable, "-c", code]
    environment = os.environ | {"TENFOLD_CACHE": str(tmp_path)}
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    digests = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert len(digests) == 1
    assert len(entries(folder)) == 1


def test_failed_build_leaves_nothing(folder: Path) -> None:
    def fail(file: IO[bytes]) -> None:
        file.write(b"half")
        raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="disk on fire"):
        cache.fetch(recipe(), build=fail, read=Path.read_bytes)
    assert entries(folder) == []


def test_only_old_left_overs_of_killed_builders_are_removed(folder: Path) -> None:
    old, young = folder / ".numbers-1.tmp-a", folder / ".numbers-1.tmp-b"
    for left_over in (old, young):
        left_over.mkdir(parents=True)
    os.utime(old, (0, 0))
    cache.fetch(recipe(), build=Builder(), read=Path.read_bytes)
    assert not old.exists()
    assert young.exists()


def test_cache_lies_in_the_users_folder_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TENFOLD_CACHE")
    assert cache.root().name == "tenfold"
    monkeypatch.setenv("TENFOLD_CACHE", "elsewhere")
    assert cache.root() == Path("elsewhere")


def test_missing_library_and_missing_file_are_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"needs the library 'no-such-library'.*install it"):
        recipe(libraries=("no-such-library",)).fingerprint()
    with pytest.raises(FileNotFoundError, match="needs the library 'no_such_library'"):
        libraries.folder("no_such_library")
    with pytest.raises(FileNotFoundError, match=r"numpy .* lacks no/such.file.*reinstall numpy"):
        libraries.shipped_file("numpy", "no/such.file")


def test_keyed_draws_depend_on_the_whole_key_only() -> None:
    keys = [("a", 1, 2), ("a", 1, 3), ("a", 2, 2), ("b", 1, 2), ("a", 12), ("a", "1", 2)]
    draws = [keyed.generator(*key).integers(2**62) for key in keys]
    assert len(set(draws)) == len(keys)
    assert keyed.generator("a", 1, 2).integers(2**62) == draws[0]
    share = sum(keyed.one_in(20, "share", i) for i in range(20_000)) / 20_000
    assert 0.045 < share < 0.055

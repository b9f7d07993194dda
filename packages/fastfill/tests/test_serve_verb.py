"""The verb `serve`: options, the process and its end, the backfill beside it."""

import json
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from served import make_world, running, wait_for

from fastfill.gallery import Gallery
from fastfill.serve.run import serve
from fastfill.serve.security import Security, is_loopback

BAD = [
    ({"host": "0.0.0.0"}, "host 0.0.0.0 can be reached from other machines: give a token"),
    ({"host": "0.0.0.0", "token": "short"}, "a token must be 16 or more"),
    ({"token": "with a space and long"}, "without spaces"),
    ({"max_upload_mb": 0.0}, "largest upload must be >= 1 byte"),
    ({"max_batch": 0}, "max_batch must be >= 1"),
    ({"port": 70000}, "port must lie in 0..65535"),
    ({"host": "192.0.2.1", "token": "x" * 16}, "cannot listen on 192.0.2.1 port 0"),
    ({"host": "not a host", "token": "x" * 16}, "is no address of this machine"),
    ({"backfill": True}, "--backfill needs --source"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict, message: str
) -> None:
    monkeypatch.delenv("FASTFILL_TOKEN", raising=False)
    with pytest.raises(ValueError, match=message):
        serve(tmp_path, model="none", **{"port": 0, **options})


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is no gallery"):
        serve(tmp_path, model="none", port=0)


def test_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastfill.serve.run.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'fastfill\[serve\]'"):
        serve(tmp_path, model="none")


def test_token_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTFILL_TOKEN", "short")
    with pytest.raises(ValueError, match="of 5 characters"):
        serve(tmp_path, model="none", port=0)


def test_token_is_not_shown() -> None:
    assert "secret" not in repr(Security(host="0.0.0.0", token="a-secret-of-length"))


def test_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.8.0.1", "::1", "localhost", "LOCALHOST")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "", "10.0.0.1", "localhost.example")))


@pytest.mark.slow
def test_process_ends_cleanly_on_sigterm(tmp_path: Path) -> None:
    world = make_world(tmp_path, items=8)
    command = [
        *(sys.executable, "-c", "from fastfill.cli import main; main()", "serve"),
        *(str(world.gallery), "--model", str(world.model), "--port", "0"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/", line)
        assert found, line
        with urllib.request.urlopen(f"{found[0]}api/status", timeout=30) as answer:
            assert json.load(answer)["service"]["role"] == "writer"
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert "Traceback" not in errors
    with Gallery.open(world.gallery, "w"):
        pass


@pytest.mark.slow
def test_backfill_beside_the_service(tmp_path: Path) -> None:
    world = make_world(tmp_path, items=8)
    (world.images / world.ids[3]).unlink()
    with running(world, source=str(world.images), backfill=True) as client:
        wait_for(lambda: client.ask("GET", "/api/status")[1]["counts"]["new"] == 7, 120)
        status = client.ask("GET", "/api/status")[1]
        assert [failure["id"] for failure in status["failures"]] == [world.ids[3]]
        assert status["service"]["worker"] in ("running", "idle")

"""Checkpoints: whole or absent, verified, and never executed."""

import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tenfold import atomic, checkpoints
from tenfold.checkpoints import CheckpointError


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.system, (f"touch {self.path}",))


def write_with_manifest(path: Path, content: object) -> None:
    torch.save(content, path)
    manifest = {"format_version": 1, "file": path.name, "bytes": path.stat().st_size, "step": 1}
    manifest["sha256"] = atomic.sha256_file(path)
    atomic.write_json(checkpoints.manifest_path(path), manifest)


def test_a_malicious_pickle_is_refused_and_creates_no_file(tmp_path: Path) -> None:
    proof, path = tmp_path / "proof", tmp_path / "step-1.ckpt"
    write_with_manifest(path, {"state_dict": Bomb(proof)})
    with pytest.raises(CheckpointError, match=r"step-1\.ckpt cannot be read safely"):
        checkpoints.load(path)
    assert not proof.exists()
    pickle.loads(pickle.dumps(Bomb(proof)))  # noqa: S301 - shows that the bomb is live
    assert proof.exists()


def test_a_path_names_a_file_a_run_or_its_checkpoints(tmp_path: Path) -> None:
    first, second = (tmp_path / "checkpoints" / f"step-{step}.ckpt" for step in (1, 2))
    for path in (first, second):
        checkpoints.save(path, {"global_step": 1})
    assert checkpoints.find(first) == first
    assert checkpoints.find(tmp_path) == checkpoints.find(tmp_path / "checkpoints") == second
    with pytest.raises(CheckpointError, match=r"no such checkpoint: .*absent \(neither"):
        checkpoints.find(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"no step-\*\.ckpt in .*empty"):
        checkpoints.find(tmp_path / "empty")


def test_the_manifest_says_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "step-7.ckpt"
    checkpoints.save(path, {"global_step": 7, "x": torch.arange(3)})
    manifest = json.loads(checkpoints.manifest_path(path).read_text())
    assert manifest["step"] == 7
    assert manifest["bytes"] == path.stat().st_size
    assert torch.equal(checkpoints.load(path)["x"], torch.arange(3))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-7.ckpt", "step-7.json"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "no such checkpoint"),
        (lambda path: checkpoints.manifest_path(path).unlink(), r"step-1\.json .*copy both"),
        (lambda path: checkpoints.manifest_path(path).write_text("{"), "is not JSON"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "is truncated"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"?"), "was altered"),
        (
            lambda path: checkpoints.manifest_path(path).write_text('{"format_version": 99}'),
            "format version 99, expected 1",
        ),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: object, message: str) -> None:
    path = tmp_path / "step-1.ckpt"
    checkpoints.save(path, {"x": torch.zeros(10)})
    damage(path)  # type: ignore[operator]
    with pytest.raises(CheckpointError, match=message):
        checkpoints.load(path)


def test_a_failed_save_keeps_the_older_checkpoint(tmp_path: Path) -> None:
    older = tmp_path / "step-1.ckpt"
    checkpoints.save(older, {"x": 1})
    with pytest.raises(AttributeError, match="local object"):
        checkpoints.save(tmp_path / "step-2.ckpt", {"x": lambda: None})
    assert checkpoints.newest(tmp_path) == older
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-1.ckpt", "step-1.json"]


WRITER = """
import sys
from pathlib import Path
import torch
from tenfold import checkpoints
folder = Path(sys.argv[1])
for step in range(10_000):
    state = {"global_step": step, "x": torch.full((200_000,), float(step))}
    checkpoints.save(folder / f"step-{step:08d}.ckpt", state)
    if step > 2:
        checkpoints.remove(folder / f"step-{step - 2:08d}.ckpt")
"""


def test_a_killed_writer_leaves_a_checkpoint_that_loads(tmp_path: Path) -> None:
    chance = random.Random(0)
    for attempt in range(4):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)])
        while not any(path.stem >= "step-00000003" for path in folder.glob("step-*.json")):
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(chance.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        state = checkpoints.load(checkpoints.newest(folder))
        assert torch.equal(state["x"], torch.full((200_000,), float(state["global_step"])))
        checkpoints.save(folder / "step-99999999.ckpt", {})
        assert not [path for path in folder.iterdir() if atomic.TEMPORARY in path.name]


def test_weights_are_saved_without_the_compilers_prefix(tmp_path: Path) -> None:
    tensors = {"net._orig_mod.weight": torch.ones(2, 3).T}
    checkpoints.save_weights(tmp_path / "w.safetensors", tensors, {"kind": "test"})
    loaded = checkpoints.load_weights(tmp_path / "w.safetensors")
    assert torch.equal(loaded["net.weight"], torch.ones(3, 2))
    (tmp_path / "w.safetensors").write_bytes(b"short")
    for name in ("w", "missing"):
        with pytest.raises(CheckpointError, match=rf"{name}\.safetensors cannot be read"):
            checkpoints.load_weights(tmp_path / f"{name}.safetensors")

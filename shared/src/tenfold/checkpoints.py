"""Checkpoints that are whole or absent, checked before use, and never unpickled.

A checkpoint `x.ckpt` is complete when its manifest `x.json` (sha256, size, step, format version),
written last, says so. Reading goes through `torch.load(weights_only=True)`. Lightning's Trainer
gets here through `tenfold.callbacks.checkpointing`.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tenfold import atomic
from tenfold.runs import git_revision

log = logging.getLogger(__name__)

FORMAT_VERSION = 1


class CheckpointError(ValueError):
    """A checkpoint is missing, incomplete, altered or unsafe; the message names file and remedy."""


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write `state` to `path` and then its manifest.

    The step in the manifest is `state["global_step"]`, 0 without one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.remove_temporaries(path.parent)
    manifest_path(path).unlink(missing_ok=True)  # an older file of this name is void from here on
    with atomic.open_atomic(path) as file:
        torch.save(dict(state), file)
    manifest = {
        "format_version": FORMAT_VERSION,
        "file": path.name,
        "bytes": path.stat().st_size,
        "sha256": atomic.sha256_file(path),
        "step": int(state.get("global_step", 0)),
        "git_revision": git_revision(),
    }
    atomic.write_json(manifest_path(path), manifest)


def load(path: Path, *, map_location: Any = "cpu") -> dict[str, Any]:
    """Verify and read a checkpoint.

    Raises:
        CheckpointError: The file does not verify, or holds something else than tensors and plain
            values. Nothing in it is executed.
    """
    verify(path)
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # torch raises several types; none of them names the file
        raise CheckpointError(f"{path} cannot be read safely: {_first_line(error)}") from error


def verify(path: Path) -> dict[str, Any]:
    """Compare a checkpoint with its manifest and return the manifest.

    Raises:
        CheckpointError: Missing, no manifest (an interrupted save), other size, hash or format.
    """
    if not path.is_file():
        raise CheckpointError(f"no such checkpoint: {path}")
    try:
        manifest = json.loads(manifest_path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} has no manifest {manifest_path(path).name} beside it: both files are needed, "
            "copy both; or its save was interrupted, or it is no checkpoint of ours"
        ) from None
    except json.JSONDecodeError:
        raise CheckpointError(f"{manifest_path(path)} is not JSON") from None
    if manifest.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {manifest.get('format_version')}, expected {FORMAT_VERSION}"
        )
    if manifest["bytes"] != path.stat().st_size:
        raise CheckpointError(
            f"{path} is truncated: {path.stat().st_size} bytes of {manifest['bytes']}"
        )
    if manifest["sha256"] != atomic.sha256_file(path):
        raise CheckpointError(f"{path} was altered: its sha256 is not the manifest's")
    return manifest


def find(path: Path) -> Path:
    """Return the checkpoint that `path` names: the file itself, or the newest one of a run folder.

    Raises:
        CheckpointError: Nothing is there, or no checkpoint of the folder verifies.
    """
    if path.is_dir():
        folder = path / "checkpoints"
        return newest(folder if folder.is_dir() else path)
    if not path.exists():
        raise CheckpointError(f"no such checkpoint: {path} (neither a file nor a run folder)")
    return path


def newest(folder: Path) -> Path:
    """Return the `step-*.ckpt` of the highest step in `folder` that verifies; name those skipped.

    Raises:
        CheckpointError: There is none, or none verifies. Starting over is the user's decision.
    """
    found = sorted(folder.glob("step-*.ckpt"))  # names hold the step, padded with zeros
    if not found:
        raise CheckpointError(f"there is no step-*.ckpt in {folder}")
    reasons: list[str] = []
    for path in reversed(found):
        try:
            verify(path)
        except CheckpointError as error:
            reasons.append(str(error))
        else:
            for reason in reasons:
                log.warning("skipped a checkpoint: %s", reason)
            return path
    raise CheckpointError(
        f"none of {len(found)} checkpoints verifies: {'; '.join(reasons)}; start a new run"
    )


def step_of(path: Path) -> int:
    """Return the step that a checkpoint's manifest states, without verifying the file.

    Raises:
        CheckpointError: It has no manifest.
    """
    try:
        return int(json.loads(manifest_path(path).read_text(encoding="utf-8"))["step"])
    except (FileNotFoundError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} has no manifest: its save was interrupted") from error


def set_aside(folder: Path, *, after_step: int) -> None:
    """Move the checkpoints of later steps to `folder/superseded` and say so.

    A run that goes on at an earlier step must not find them again.
    """
    for path in sorted(folder.glob("*-*.ckpt")):
        digits = path.stem.rpartition("-")[2]
        if not digits.isdigit() or int(digits) <= after_step:
            continue
        target = folder / "superseded" / path.name
        target.parent.mkdir(exist_ok=True)
        for old in (manifest_path(path), path):
            if old.exists():
                old.replace(target.parent / old.name)
        log.warning("going on at step %d: moved %s to %s", after_step, path, target)


def remove(path: Path) -> None:
    """Delete a checkpoint, manifest first, so that no half of it looks complete."""
    manifest_path(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def manifest_path(path: Path) -> Path:
    """Return where the manifest of checkpoint `path` stands."""
    return path.with_suffix(".json")


def save_weights(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file atomically, names without the `_orig_mod.` of compiled modules."""
    from safetensors.torch import save as to_bytes

    plain = {name.replace("_orig_mod.", ""): t.detach().contiguous() for name, t in tensors.items()}
    atomic.write_bytes(path, to_bytes(plain, metadata=dict(metadata)))


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file onto the CPU.

    Raises:
        CheckpointError: It is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (FileNotFoundError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__

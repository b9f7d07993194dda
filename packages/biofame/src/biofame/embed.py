"""The verb `embed`: windows to vectors of a trained network, for use elsewhere."""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from biofame.data import WindowBatch
from biofame.embed_inputs import Windowed, open_input
from biofame.heads import average
from biofame.model import BioFame
from biofame.weights import load_network
from tenfold import atomic
from tenfold.devices import choose_device

Content = Literal["pooled", "tokens"]


def embed(
    run: Path,
    input: Path,
    out: Path,
    *,
    content: Content = "pooled",
    channels: list[str] | None = None,
    rate: float | None = None,
    batch_size: int = 256,
    device: str = "cpu",
) -> None:
    """Write what a network makes of windows.

    An `.npz` has `embeddings` float32 and `keys`, in the order of the input; beside an `.npy` the
    keys stand in `<name>.keys.txt`, one a line. The file itself comes last.

    Args:
        run: Run folder or checkpoint of a trained network.
        input: A store; an `.npz` with `samples` `[n, C, L]` and perhaps `channels`, `units` or
            `unit` (uV unless given), `rate` and `keys`; an `.npy` of samples; or a recording
            `.edf` or `.bdf`, which is cut into windows as long as those of training.
        out: File `.npz` or `.npy`; must not exist.
        content: `pooled` is the mean over tokens, `[n, D]`; `tokens` all of them, `[n, C, N, D]`.
        channels: Of a store or recording, those to use; of an array, the names of its channels, by
            default the network's.
        rate: Samples per second of an array that does not say it; of a recording, the rate to
            resample it to.
        batch_size: Windows at once.
        device: `auto`, `cpu`, `cuda` or `cuda:<n>`.

    Raises:
        CheckpointError: There is no trained network.
        FileNotFoundError: The input is missing.
        ValueError: An option is impossible, the input is damaged, or `out` exists.
    """
    if out.suffix not in (".npz", ".npy"):
        raise ValueError(f"out must end with .npz or .npy, got {out}")
    if out.exists():
        raise ValueError(f"{out} exists: choose another name or remove it")
    if batch_size < 1:
        raise ValueError(f"batch_size must be >= 1, got {batch_size}")
    place = choose_device(device)
    network = load_network(run).to(place)
    windowed = open_input(input, network.config, channels=channels, rate=rate)
    embeddings = embed_all(network, windowed, content=content, batch_size=batch_size, device=place)
    out.parent.mkdir(parents=True, exist_ok=True)
    _write(out, embeddings, windowed.keys)
    Console(soft_wrap=True).print(f"{len(embeddings)} windows, {embeddings.shape[1:]}: {out}")


def embed_all(
    network: BioFame,
    windowed: Windowed,
    *,
    content: Content,
    batch_size: int,
    device: torch.device,
) -> NDArray[np.float32]:
    """Return the embeddings of all windows in their order.

    Raises:
        ValueError: Tokens are asked for of windows of several lengths, or that lack channels.
    """
    found: NDArray[np.float32] | None = None
    for places, batch in windowed.batches(batch_size):
        values = _embed_batch(network, batch, content=content, device=device)
        if found is None:
            found = np.empty((len(windowed.keys), *values.shape[1:]), dtype=np.float32)
        if values.shape[1:] != found.shape[1:]:
            raise ValueError(
                f"windows have {found.shape[2]} and {values.shape[2]} tokens a channel, which fit "
                "in no array: use content pooled"
            )
        found[places] = values
    assert found is not None  # inputs without windows are refused
    return found


@torch.inference_mode()
def _embed_batch(
    network: BioFame, batch: WindowBatch, *, content: Content, device: torch.device
) -> NDArray[np.float32]:
    present = batch.get("present")
    if present is not None:
        if content == "tokens":
            raise ValueError("windows lack channels, whose tokens mean nothing: use content pooled")
        present = present.to(device)
    tokens = network(
        batch["samples"].to(device),
        channels=batch["channels"],
        rate=batch["rate"],
        present_BC=present,
    )
    values = tokens if content == "tokens" else average(tokens, present)
    return values.float().cpu().numpy()


def _write(out: Path, embeddings: NDArray[np.float32], keys: list[str]) -> None:
    if out.suffix == ".npy":
        if broken := next((key for key in keys if len(key.splitlines()) != 1), None):
            raise ValueError(f"key {broken!r} has a line break, which a list of keys cannot hold")
        atomic.write_text(out.with_suffix(".keys.txt"), "".join(f"{key}\n" for key in keys))
    with atomic.open_atomic(out) as file:
        if out.suffix == ".npy":
            np.save(file, embeddings, allow_pickle=False)
        else:
            np.savez(file, embeddings=embeddings, keys=np.array(keys, dtype=np.str_))

"""The verb `generate-captions`: shards to the same with synthetic captions (spec 2.1)."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor

from mobileclip.embeddings import LEGACY_KEY
from mobileclip.generate.batching import encode_across
from mobileclip.generate.captioner import Captioner, CaptionerConfig, Prompt, build_captioner
from mobileclip.generate.pairs import BadPairError, Pair, Skipped, read_pair, usable
from mobileclip.generate.shard_runs import (
    RunOptions,
    ShardTask,
    check_folders,
    check_fraction,
    library_versions,
    run_shards,
    write_samples,
)
from mobileclip.shard_sources import open_shards
from tenfold.back_off import BackOff
from tenfold.devices import worker_device
from tenfold.digests import weights_sha256
from tenfold.measurements import one_thread
from tenfold.shards import TarMembers, write_index

TITLE = "captions"
ATTEMPTS = 4
"""How often a caption is drawn that comes out empty."""


@dataclass(frozen=True)
class CaptionJob:
    """What all shards of a run share.

    Attributes:
        folder: Of the shards that are read.
        captioner: The network.
        seed: Of the captions.
        max_bad_fraction: Share of a shard's samples that may be left out.
        devices: Where the workers' networks run.
        threads: Threads that read images.
    """

    folder: Path
    captioner: CaptionerConfig
    seed: int
    max_bad_fraction: float
    devices: tuple[str, ...]
    threads: int


def generate_captions(
    shards: str,
    out: Path,
    captioner: CaptionerConfig | None = None,
    *,
    seed: int = 0,
    max_bad_fraction: float = 0.2,
    read_threads: int = 1,
    workers: int = 1,
    devices: list[str] | None = None,
    ray_address: str | None = None,
) -> None:
    """Write synthetic captions beside each image.

    A killed run continues when the same command is given again. The result has the same bytes for
    any number of workers on one kind of device. All members of a sample stay as they are;
    `syn.json` is added. Samples without a readable image or caption are left out and listed in
    `skipped.jsonl`.

    Args:
        shards: A folder with `index.json`, or a pattern of tars such as `data/{000..999}.tar`.
        out: Folder of the new shards; new, empty, or begun with the same options.
        captioner: A CoCa with weights; by default that of DataCompDR.
        seed: Keys every draw; caption s of an image is drawn from (seed, uid, s) alone.
        max_bad_fraction: Share of a shard's samples that may be left out before it is an error.
        read_threads: Threads of each worker that decode images, for a GPU to be fed.
        workers: Number of processes.
        devices: Where captioners run, such as `cuda:0 cuda:1`; workers share them. Default `cpu`.
        ray_address: Run on Ray instead: `local` or a cluster's address.

    Raises:
        FileNotFoundError: Shards or weights are missing.
        ValueError: An option is impossible, or another than `out` was begun with, or samples have
            synthetic captions already.
    """
    out = Path(out)
    config = captioner or CaptionerConfig()
    options = RunOptions(workers, tuple(devices or ["cpu"]), read_threads, ray_address)
    options.check()
    check_fraction(max_bad_fraction)
    index = open_shards(shards)
    check_folders(index, out, TITLE)
    job = CaptionJob(
        folder=index.folder.resolve(),
        captioner=config,
        seed=seed,
        max_bad_fraction=max_bad_fraction,
        devices=options.devices,
        threads=read_threads,
    )
    try:
        # First, so that missing weights are an error before any work.
        made = _captioner(config, seed, options.first_device)
        finished = run_shards(
            partial(caption_shard, job),
            index,
            out=out,
            settings=_settings(made, seed),
            title=TITLE,
            options=options,
        )
    finally:
        _captioner.cache_clear()
    write_index(
        out,
        finished.entries,
        captioner=f"{made.name}, top_p {config.top_p}",
        num_captions=config.num,
        seed=seed,
        skipped=finished.num_skipped,
        versions=library_versions(),
    )
    Console(markup=False).print(
        f"{out}: {finished.num_samples:,} images with {config.num} captions each, "
        f"{finished.num_skipped} left out",
        soft_wrap=True,
    )


def caption_shard(job: CaptionJob, task: ShardTask, folder: Path) -> dict[str, Any]:
    """Write one shard below `folder` and return its entry and what was left out.

    Raises:
        ValueError: The shard has captions already, or too many of its samples are bad.
    """
    device = worker_device(job.devices)
    # One thread in every process: sums in another order would give other bits.
    with one_thread() if device.startswith("cpu") else nullcontext():
        captioner = _captioner(job.captioner, job.seed, device)
        tar, skipped = TarMembers(job.folder / task.name), []
        return write_samples(
            task,
            folder,
            _captioned(job, captioner, tar, skipped),
            skipped,
            num_read=len(tar),
            max_bad_fraction=job.max_bad_fraction,
        )


def _captioned(
    job: CaptionJob, captioner: Captioner, tar: TarMembers, skipped: list[Skipped]
) -> Iterator[dict[str, Any]]:
    # The halved batch is the shard's own: a rerun from another shard on must give the same bytes.
    draw = BackOff(captioner.draw, job.captioner.batch, name="the captioner")
    read = partial(_read, captioner, tar)
    pairs = usable(tar.keys, read, skipped, threads=job.threads)
    drawn = encode_across(pairs, lambda pair: [pair[1]], draw, batch=job.captioner.batch)
    for (pair, prompt), (tokens,) in drawn:
        try:
            captions = _never_empty(captioner, draw, prompt, tokens)
        except BadPairError as error:
            skipped.append(Skipped(pair.key, str(error)))
            continue
        yield {"__key__": pair.key, **pair.members, "syn.json": {LEGACY_KEY: captions}}


def _read(captioner: Captioner, tar: TarMembers, key: str) -> tuple[Pair, Prompt]:
    pair, image = read_pair(tar, key)
    if "syn.json" in pair.members:
        raise ValueError(f"{tar.path.name}: {key} has synthetic captions already (syn.json)")
    return pair, Prompt(captioner.prepare(image), pair.uid)


def _never_empty(captioner: Captioner, draw: BackOff, prompt: Prompt, tokens: Tensor) -> list[str]:
    """Return the captions of an image; those that come out empty are drawn again."""
    captions = captioner.texts(tokens)
    for attempt in range(1, ATTEMPTS):
        if all(captions):
            return captions
        again = captioner.texts(draw([replace(prompt, attempt=attempt)])[0])
        captions = [old or new for old, new in zip(captions, again, strict=True)]
    if not all(captions):
        raise BadPairError(f"a caption is empty after clean-up, {ATTEMPTS} times over")
    return captions


def _settings(captioner: Captioner, seed: int) -> dict[str, Any]:
    """Return what shapes the captions; where the weights lie does not, nor how many at once."""
    sampling = asdict(captioner.config)
    for name in ("model", "pretrained", "batch"):
        del sampling[name]
    network = {"name": captioner.name, "weights_sha256": weights_sha256(captioner.network)}
    return {
        "captioner": {**network, **sampling},
        "seed": seed,
        "versions": library_versions(),
    }


@lru_cache(maxsize=1)
def _captioner(config: CaptionerConfig, seed: int, device: str) -> Captioner:
    return build_captioner(config, seed=seed, device=device)

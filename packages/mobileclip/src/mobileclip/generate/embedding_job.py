"""One job of `generate-embeddings`: views and captions of a shard to the teachers' embeddings.

Parameters are stored in their official list form and views are made from that form again, so that
the teachers see exactly what a replay gives.
"""

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mobileclip.embedding_codecs import FORMATS, Format, encode
from mobileclip.embeddings import Embeddings, check_units
from mobileclip.generate.batching import encode_across
from mobileclip.generate.pairs import (
    BadPairError,
    Pair,
    Skipped,
    read_json,
    read_pair,
    usable,
)
from mobileclip.generate.shard_runs import ShardTask, write_samples
from mobileclip.generate.teacher_config import TeacherEnsembleConfig
from mobileclip.generate.teachers import Teachers, build_teachers
from mobileclip.members import synthetic_captions
from mobileclip.schema import ReinforcementInfo, SampleMeta
from tenfold import keyed
from tenfold.augment import positional
from tenfold.augment.config import AugmentConfig
from tenfold.augment.pipeline import Augment
from tenfold.back_off import BackOff
from tenfold.devices import worker_device
from tenfold.measurements import one_thread
from tenfold.shards import TarMembers

PAUG = "paug.json"


@dataclass(frozen=True)
class EmbeddingJob:
    """What all shards of a run share.

    Attributes:
        folder: Of the shards that are read.
        teachers: The ensemble.
        info: What `reinforcement.json` will say.
        synthetic: Key of `syn.json` to the number of its captions; empty for none.
        format: Member that holds the embeddings.
        seed: Of the views.
        max_bad_fraction: Share of a shard's samples that may be left out.
        devices: Where the workers' teachers run.
        threads: Threads that make views.
    """

    folder: Path
    teachers: TeacherEnsembleConfig
    info: ReinforcementInfo
    synthetic: Mapping[str, int]
    format: Format
    seed: int
    max_bad_fraction: float
    devices: tuple[str, ...]
    threads: int


@dataclass(frozen=True, eq=False, kw_only=True)
class _Drawn:
    """A pair with what was drawn for it; its views leave with the batch that holds them."""

    pair: Pair
    synthetic: dict[str, tuple[str, ...]]
    params: list[list[Any]]
    meta: SampleMeta
    views: list[Tensor] = field(default_factory=list)

    def take_views(self) -> list[Tensor]:
        views = self.views[:]
        self.views.clear()
        return views

    def texts(self) -> list[str]:
        """Return real captions, then synthetic ones key by key."""
        return [*self.pair.captions, *(text for texts in self.synthetic.values() for text in texts)]


def embed_shard(job: EmbeddingJob, task: ShardTask, folder: Path) -> dict[str, Any]:
    """Write one shard below `folder` and return its entry and what was left out.

    Raises:
        ValueError: The shard is reinforced already, too many of its samples are bad, or a teacher
            answers with NaN or infinity.
    """
    device = worker_device(job.devices)
    # One thread in every process: sums in another order would give other bits.
    with one_thread() if device.startswith("cpu") else nullcontext():
        teachers = loaded_teachers(job.teachers, device)
        tar, skipped = TarMembers(job.folder / task.name), []
        return write_samples(
            task,
            folder,
            _embedded(job, teachers, tar, skipped),
            skipped,
            num_read=len(tar),
            max_bad_fraction=job.max_bad_fraction,
        )


def draw_view(
    augment: AugmentConfig, *, seed: int, uid: str, view: int, height: int, width: int
) -> list[Any]:
    """Draw the parameters of one view in their list form; they depend on the arguments alone."""
    rng = keyed.generator("view", seed, uid, view)
    return positional.encode(Augment(augment).draw(rng, height, width), None, augment)


def captions_of(pair: Pair) -> dict[str, tuple[str, ...]]:
    """Return the synthetic captions of a sample by key, none without `syn.json`.

    Raises:
        BadPairError: `syn.json` is damaged.
    """
    if "syn.json" not in pair.members:
        return {}
    try:
        return synthetic_captions(read_json(pair.members, "syn.json"))
    except ValueError as error:
        raise BadPairError(str(error)) from error


@lru_cache(maxsize=1)
def loaded_teachers(config: TeacherEnsembleConfig, device: str) -> Teachers:
    """Build the teachers once a process."""
    return build_teachers(config, device=device)


def _embedded(
    job: EmbeddingJob, teachers: Teachers, tar: TarMembers, skipped: list[Skipped]
) -> Iterator[dict[str, Any]]:
    batch = job.teachers.batch
    # The halved batch is the shard's own: a rerun from another shard on must give the same bytes.
    images = BackOff(_stacked(teachers), batch, name="the teachers' image towers")
    texts = BackOff(_on_cpu(teachers), batch, name="the teachers' text towers")
    drawn = usable(tar.keys, partial(_draw, job, tar), skipped, threads=job.threads)
    with_images = encode_across(drawn, _Drawn.take_views, images, batch=batch)
    both = encode_across(with_images, lambda pair: pair[0].texts(), texts, batch=batch)
    for (sample, image_rows), text_rows in both:
        yield _finish(job, teachers.dims, sample, image_rows, text_rows)


def _stacked(teachers: Teachers) -> Any:
    return lambda views: teachers.encode_images(torch.stack(views)).cpu()


def _on_cpu(teachers: Teachers) -> Any:
    return lambda texts: teachers.encode_texts(texts).cpu()


def _draw(job: EmbeddingJob, tar: TarMembers, key: str) -> _Drawn:
    pair, image = read_pair(tar, key)
    stored = [name for name in (PAUG, *FORMATS) if name in pair.members]
    if stored:
        raise ValueError(f"{tar.path.name}: {key} is reinforced already ({', '.join(stored)})")
    synthetic = captions_of(pair)
    if (counts := {name: len(texts) for name, texts in synthetic.items()}) != job.synthetic:
        raise BadPairError(f"syn.json holds {counts}, the first sample {dict(job.synthetic)}")
    augment, (height, width) = job.info.augment, image.shape[1:]
    params = [
        draw_view(augment, seed=job.seed, uid=pair.uid, view=view, height=height, width=width)
        for view in range(job.info.num_views)
    ]
    pipeline = Augment(augment)
    views = [
        pipeline.apply(image, positional.decode(entry, augment, mixing=False)[0])
        for entry in params
    ]
    meta = job.info.meta(height=height, width=width, image_sha256=pair.image_sha256)
    return _Drawn(pair=pair, synthetic=synthetic, params=params, meta=meta, views=views)


def _finish(
    job: EmbeddingJob,
    dims: tuple[int, ...],
    sample: _Drawn,
    image_rows: Tensor,
    text_rows: Tensor,
) -> dict[str, Any]:
    """Return the members of a reinforced sample."""
    counts = [len(sample.pair.captions), *map(len, sample.synthetic.values())]
    real, *synthetic = text_rows.split(counts)
    embeddings = Embeddings(
        image=image_rows, text=real, synthetic=dict(zip(sample.synthetic, synthetic, strict=True))
    )
    try:
        check_units(embeddings, dims)
    except ValueError as error:
        raise ValueError(
            f"the teachers' answer to {sample.pair.key} is no embedding: {error}; check their "
            "weights, or try precision fp32"
        ) from error
    return {
        "__key__": sample.pair.key,
        **sample.pair.members,
        "json": {**sample.pair.about, "meta": sample.meta.to_json()},
        PAUG: {"param_aug": sample.params},
        job.format: encode(embeddings, job.format),
    }


def job_settings(job: EmbeddingJob, teachers: Teachers) -> dict[str, Any]:
    """Return what shapes the shards, as JSON values; how many are embedded at once does not."""
    return {
        "teachers": teachers.settings(),
        "augment": asdict(job.info.augment),
        "num_views": job.info.num_views,
        "synthetic": dict(job.synthetic),
        "captioner": job.info.captioner,
        "format": job.format,
        "seed": job.seed,
        "versions": dict(job.info.versions),
    }

"""The verb `demo-data`: a whole reinforced data set from nothing, in a minute or two.

It goes the way of real data: web pairs in tars, a captioner's captions beside them, two teachers
(trained here, on clean captions of other faces) whose embeddings `generate-embeddings` stores.
"""

import json
import logging
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

from mobileclip import demo_pairs
from mobileclip.demo_digits import DIGITS
from mobileclip.demo_glyphs import GLYPHS
from mobileclip.demo_pairs import Drawings, Source
from tenfold import atomic
from tenfold.augment.config import AugmentConfig
from tenfold.shards import write_index, write_shard

logger = logging.getLogger(__name__)

# Characters must not be mirrored, nor cropped so far that they turn into others.
DEMO_AUGMENT = AugmentConfig(size=32, scale=(0.7, 1.0), ratio=(0.85, 1.2), flip=0.0)
MARK = "demo.json"
WEB, TEACHING, TEST, CAPTIONED, REINFORCED = "web", "teaching", "test", "captioned", "reinforced"
SOURCES = {"digits": DIGITS, "glyphs": GLYPHS}


def demo_data(
    out: Path,
    *,
    source: Literal["digits", "glyphs"] = "glyphs",
    classes: int = 200,
    views: int = 5,
    members: int = 2,
    teacher_steps: int = 300,
    captioner_steps: int = 300,
    seed: int = 0,
    workers: int = 1,
) -> None:
    """Draw pairs, train captioner and teachers, and store what they know.

    What is there already is not made again. Train on `OUT/reinforced`, measure on `OUT/test`.

    Args:
        out: Folder of everything.
        source: Handwritten digits (scikit-learn), or characters of many faces (matplotlib).
        classes: Up to 10 digits, or 727 or so characters.
        views: Stored views of each image, J.
        members: Teachers of the ensemble, K.
        teacher_steps: Training steps of a teacher.
        captioner_steps: Training steps of the captioner.
        seed: Key of everything.
        workers: Teachers that are trained at a time.

    Raises:
        ValueError: A number is out of range, or `out` was made with other options.
    """
    options = {key: value for key, value in locals().items() if key not in ("out", "workers")}
    _check(
        views=views,
        members=members,
        teacher_steps=teacher_steps,
        workers=workers,
        captioner_steps=captioner_steps,
    )
    if seed < 0:
        raise ValueError(f"seed must be >= 0, got {seed}")
    if source not in SOURCES:
        raise ValueError(f"source must be one of {', '.join(SOURCES)}, got {source}")
    out = Path(out)
    if _is_complete(out, options):
        return
    drawings = SOURCES[source]
    web, teaching, test = (drawings.load(part, classes) for part in (WEB, TEACHING, TEST))
    out.mkdir(parents=True, exist_ok=True)
    captions = demo_pairs.web_captions(drawings, web, seed=seed)
    _write(out / WEB, demo_pairs.samples(web, captions))
    _write(out / TEST, demo_pairs.samples(test, [test.names[label] for label in test.label]))
    _write(out / TEACHING, _taught(drawings, teaching, seed=seed))
    _write_captions(out, drawings, web, captions, teaching, steps=captioner_steps, seed=seed)
    train_teachers(out, members=members, steps=teacher_steps, seed=seed, workers=workers)
    store_embeddings(out, out / REINFORCED, members=members, views=views, seed=seed)
    atomic.write_json(out / MARK, options)


def train_teachers(out: Path, *, members: int, steps: int, seed: int, workers: int) -> None:
    """Train the teachers that are missing below `out/teachers`."""
    from tenfold.jobs import run_jobs

    run_jobs(
        partial(_train_teacher, teaching=str(out / TEACHING), val=str(out / TEST), steps=steps),
        {teacher_name(member): seed * 1000 + member for member in range(members)},
        out=out / "teachers",
        settings={"steps": steps},
        workers=min(workers, members),
        title="teachers",
    )


def store_embeddings(
    out: Path,
    folder: Path,
    *,
    members: int,
    views: int,
    seed: int,
    format: Literal["emb.bin", "npz"] = "emb.bin",
) -> None:
    """Store the embeddings of the first teachers beside the captioned pairs, in `folder`."""
    from mobileclip.generate.embeddings import generate_embeddings

    generate_embeddings(
        str(out / CAPTIONED),
        folder,
        teacher_ensemble(out, members=members),
        views=views,
        augment=DEMO_AUGMENT,
        format=format,
        seed=seed,
    )


def teacher_ensemble(out: Path, *, members: int) -> Any:
    """Return the options of the first teachers of `out`."""
    from mobileclip.generate.teacher_config import OURS, TeacherConfig, TeacherEnsembleConfig

    return TeacherEnsembleConfig(
        members=tuple(
            TeacherConfig(model=f"{OURS}{out / 'teachers' / teacher_name(member)}.safetensors")
            for member in range(members)
        )
    )


def teacher_name(member: int) -> str:
    """Return the name of a teacher's file, without its suffix."""
    return f"teacher-{member}"


def _train_teacher(seed: int, folder: Path, *, teaching: str, val: str, steps: int) -> None:
    """Train one teacher on clean captions of both kinds; a job that leaves its weights."""
    from mobileclip.config import LossConfig
    from mobileclip.demo_training import TrainingSetup, train_clip
    from mobileclip.models.keymap import save_weights
    from tenfold.cli.quiet import silence_adverts
    from tenfold.measurements import one_thread

    silence_adverts()
    loss = LossConfig(mode="clip", captions="both", distill_weight=0.0)
    with one_thread():
        module = train_clip(
            TrainingSetup(steps=steps), loss, Path(teaching), val=Path(val), seed=seed
        )
    save_weights(module.network, folder / f"{teacher_name(seed % 1000)}.safetensors", layout="ours")


def _write_captions(
    out: Path,
    source: Source,
    web: Drawings,
    captions: list[str],
    teaching: Drawings,
    *,
    steps: int,
    seed: int,
) -> None:
    if (out / CAPTIONED / "index.json").exists():
        return
    from mobileclip.demo_captioner import train_captioner
    from tenfold.measurements import one_thread

    with one_thread():
        captioner = train_captioner(source, teaching, steps=steps, seed=seed)
        told = list(captioner.aspects(web))
    truth = (source.aspects(web.names[label]) for label in web.label)
    right = sum(said == true for said, true in zip(told, truth, strict=True))
    logger.info("captioner: right about %d of %d images", right, len(told))
    pairs = zip(demo_pairs.samples(web, captions), told, strict=True)
    _write(
        out / CAPTIONED,
        ({**sample, "syn.json": {"syn_text": source.say(said)}} for sample, said in pairs),
        captioner="classifier of the demo",
    )


def _taught(source: Source, drawn: Drawings, *, seed: int) -> Iterator[dict[str, Any]]:
    """Yield samples with clean captions of both kinds."""
    captions = demo_pairs.clean_captions(source, drawn, seed=seed)
    for sample in demo_pairs.samples(drawn, captions):
        said = source.say(source.aspects(sample["json"]["name"]))
        yield {**sample, "syn.json": {"syn_text": said}}


def _write(folder: Path, samples: Iterable[dict[str, Any]], **metadata: Any) -> None:
    if (folder / "index.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_index(folder, [write_shard(folder / "shard-00000.tar", samples)], **metadata)


def _is_complete(out: Path, options: dict[str, Any]) -> bool:
    mark = out / MARK
    if not mark.is_file():
        return False
    made = json.loads(mark.read_text(encoding="utf-8"))
    if made != options:
        changed = ", ".join(
            f"{key} {made.get(key)} -> {value}"
            for key, value in options.items()
            if made.get(key) != value
        )
        raise ValueError(f"{out} was made with other options ({changed}); choose another folder")
    return True


def _check(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")

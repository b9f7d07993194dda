"""The verb `join`: a reinforcement that was released without images, with one's own images.

Samples are matched by uid, never by their order: downloads have holes. The order and the keys are
those of the reinforcement. Free of torch.
"""

import hashlib
import json
import logging
import shutil
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from mobileclip.members import uid_of
from mobileclip.schema import INFO
from mobileclip.tar_paths import TarFile, list_tars
from mobileclip.uid_table import (
    UidLists,
    UidTable,
    hash_uids,
    list_uids,
    sample_about,
    sample_uid,
)
from tenfold.atomic import open_atomic, write_bytes, write_json
from tenfold.jobs import run_jobs
from tenfold.shards import ShardEntry, TarMembers, write_index, write_shard
from tenfold.shards.index import INDEX_NAME

logger = logging.getLogger(__name__)

MISSING, CHANGED, UNUSED = "missing_images.txt", "changed_images.txt", "unused_images.txt"
REPORT = "join.json"

_IMAGES = ("jpg", "jpeg", "png", "webp")
_WORK = ".join"
_OPEN_TARS = 32


@dataclass(frozen=True, kw_only=True)
class JoinTask:
    """One shard of the reinforcement.

    Attributes:
        shard: The shard.
        images: The tars with images, in the order of the table.
        table: Folder of the table of their uids.
    """

    shard: TarFile
    images: Path
    table: Path


@dataclass
class _Found:
    """What one shard joined, uids."""

    joined: int = 0
    missing: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)


def join(
    dr: str, images: str, out: Path, *, workers: int = 1, ray_address: str | None = None
) -> None:
    """Join a reinforcement without images with images of one's own, by uid.

    `missing_images.txt` lists the uids of the reinforcement that have no image and are left out,
    `changed_images.txt` those whose image is another than the teachers saw, `unused_images.txt` the
    images that the reinforcement lacks; `join.json` counts them. A rerun after an interruption goes
    on where it was.

    Args:
        dr: Shards of the reinforcement: a folder, or a brace or glob pattern.
        images: Tars with images, of img2dataset or webdataset, likewise. The uid of a sample is
            that of its `json` member, else its key.
        out: Folder to write; must not hold an index yet.
        workers: Processes.
        ray_address: Ray cluster to run on instead, see `tenfold.jobs`.

    Raises:
        FileExistsError: `out` has an index.
        FileNotFoundError: There are no tars.
        ValueError: No sample has an image, or the reinforcement has images already.
    """
    out = Path(out).absolute()
    if (out / INDEX_NAME).exists():
        raise FileExistsError(f"{out} holds shards already; choose another folder")
    folder, shards = list_tars(dr)
    _, tars = list_tars(images)
    pool = {"workers": workers, "ray_address": ray_address}
    work = out / _WORK
    wanted = list_uids(shards, work, title="reinforced", **pool)
    present = list_uids(tars, work, title="images", **pool)
    table = UidTable.build(map(hash_uids, present))
    table.save(work / "table")
    write_json(work / "images.json", [tar.path for tar in tars])
    tasks = {
        f"{number:08d}": JoinTask(shard=shard, images=work / "images.json", table=work / "table")
        for number, shard in enumerate(shards)
    }
    _opened.cache_clear()  # of an earlier call into the same folder
    digest = hashlib.sha256(json.dumps(tars).encode()).hexdigest()
    settings = {"join": 1, "images": digest}
    results = run_jobs(_join_shard, tasks, out=out, settings=settings, title="join", **pool)
    report = _report(out, results, wanted, present, repeated=table.num_repeated)
    entries = [ShardEntry(**r["entry"]) for r in results.values() if r["entry"] is not None]
    if not entries:
        raise ValueError(
            f"none of the uids of {dr} is among those of {images}: are they of the same data set? "
            f"both are listed in {out / MISSING} and {out / UNUSED}"
        )
    if (folder / INFO).is_file():
        write_bytes(out / INFO, (folder / INFO).read_bytes())
    write_json(out / REPORT, report)
    write_index(out, entries, join=report)
    shutil.rmtree(work)
    logger.info("joined %(joined)d samples; %(missing)d have no image, %(changed)d another", report)


def _join_shard(task: JoinTask, folder: Path) -> dict[str, Any]:
    """Write one joined shard and the uids it could not join; one without any sample is left out."""
    members, found = TarMembers(task.shard.path), _Found()
    path = folder / task.shard.name
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = _joined(members, _Images.of(task), found)
    first = next(samples, None)
    entry = None
    if first is not None:
        entry = asdict(write_shard(path, _chain(first, samples)))
        entry["name"] = task.shard.name
    notes = folder / _WORK / f"{task.shard.name}.json"
    notes.parent.mkdir(parents=True, exist_ok=True)
    write_json(notes, {MISSING: found.missing, CHANGED: found.changed})
    return {
        "entry": entry,
        "joined": found.joined,
        "missing": len(found.missing),
        "changed": len(found.changed),
        "notes": f"{_WORK}/{task.shard.name}.json",
    }


def _joined(members: TarMembers, images: "_Images", found: _Found) -> Iterator[dict[str, Any]]:
    for key in members.keys:
        extensions = members.extensions(key)
        if any(extension in _IMAGES for extension in extensions):
            raise ValueError(
                f"{members.path}: sample {key!r} has an image already: nothing to join"
            )
        about = sample_about(members, key)
        uid = uid_of(key, about)
        taken = images.find(uid)
        if taken is None:
            found.missing.append(uid)
            continue
        if not _same_image(about, taken):
            found.changed.append(uid)
            continue
        found.joined += 1
        stored = {extension: members.read(key, extension) for extension in extensions}
        yield {"__key__": key, **taken, **stored}


def _same_image(about: Any, taken: Mapping[str, bytes]) -> bool:
    """Compare with the digest in `meta`; the published releases have none."""
    meta = about.get("meta") if isinstance(about, Mapping) else None
    digest = meta.get("image_sha256") if isinstance(meta, Mapping) else None
    image = next(data for extension, data in taken.items() if extension in _IMAGES)
    return not digest or hashlib.sha256(image).hexdigest() == digest


class _Images:
    """The images by uid, with a bounded number of open tars."""

    def __init__(self, paths: Sequence[str], table: UidTable) -> None:
        self._paths = paths
        self._table = table
        self._open: OrderedDict[int, TarMembers] = OrderedDict()

    @classmethod
    def of(cls, task: JoinTask) -> "_Images":
        return _opened(task.images, task.table)

    def find(self, uid: str) -> dict[str, bytes] | None:
        """Return image and caption of a uid, None where there is no image."""
        for number, sample in self._table.find(uid):
            members = self._members(number)
            key = members.keys[sample]
            if sample_uid(members, key) != uid:
                continue  # another uid with the same hash
            extensions = members.extensions(key)
            image = next((e for e in _IMAGES if e in extensions), None)
            if image is not None:
                return {e: members.read(key, e) for e in (image, "txt") if e in extensions}
        return None

    def _members(self, number: int) -> TarMembers:
        if number not in self._open:
            self._open[number] = TarMembers(self._paths[number])
            if len(self._open) > _OPEN_TARS:
                self._open.popitem(last=False)
        return self._open[number]


@lru_cache(maxsize=1)
def _opened(images: Path, table: Path) -> _Images:
    return _Images(_json(images), UidTable.load(table))


def _report(
    out: Path,
    results: Mapping[str, Mapping[str, Any]],
    wanted: UidLists,
    present: UidLists,
    *,
    repeated: int,
) -> dict[str, int]:
    """Write the lists of uids on either side and return their counts."""
    notes = [_json(out / result["notes"]) for result in results.values()]
    for name in (MISSING, CHANGED):
        with open_atomic(out / name) as file:
            for note in notes:
                file.writelines(f"{uid}\n".encode() for uid in note[name])
    counts = {k: sum(r[k] for r in results.values()) for k in ("joined", "missing", "changed")}
    return {**counts, "unused": _write_unused(out / UNUSED, wanted, present), "repeated": repeated}


def _write_unused(path: Path, wanted: UidLists, present: UidLists) -> int:
    known, count = np.unique(wanted.hashes()), 0
    with open_atomic(path) as file:
        for uids in present:
            unused = ~np.isin(hash_uids(uids), known)
            count += int(unused.sum())
            file.writelines(f"{uids[n]}\n".encode() for n in np.flatnonzero(unused))
    return count


def _chain(first: dict[str, Any], rest: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    yield first
    yield from rest


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))

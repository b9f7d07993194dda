"""Which part of a store a run of `generate` writes, and whether it may.

A store grows by parts, each some views of all images. A killed run left `store.json` partial, with
the unfinished part as its last.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dataset_reinforcement.shard_job import ShardTask
from dataset_reinforcement.store.info import (
    INFO,
    Part,
    ShardInfo,
    StoreInfo,
    plan_part,
    read_info,
)
from dataset_reinforcement.store.integrity import lost_shards, require_whole
from tenfold.jobs.marks import differences
from tenfold.jobs.work import STATE

_VARYING = ("parts", "skipped", "counts", "status", "classes")


@dataclass(frozen=True)
class Plan:
    """What a run does.

    Attributes:
        done: Parts that are written.
        part: The part to write; None when all is done.
        counts: Counts of the parts that are written.
        lost: Written parts that lack files, each with those shards alone; nothing else is done.
    """

    done: tuple[Part, ...]
    part: Part | None
    counts: dict[str, int]
    lost: tuple[Part, ...] = ()


def begun_store(out: Path) -> StoreInfo | None:
    """Return what is known of a store in `out`, None for none.

    Raises:
        ValueError: The folder is in use for something else, or its store is no work of `generate`.
    """
    if (out / INFO).is_file():
        begun = read_info(out)
        _check_origin(out, begun)
        return begun
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: choose another folder")
    if out.is_dir() and any(out.iterdir()) and not (out / STATE).is_dir():
        raise ValueError(f"{out} is not empty and holds no store: choose another folder")
    return None


def plan_views(
    out: Path,
    info: StoreInfo,
    begun: StoreInfo | None,
    *,
    views: int,
    shard_size: int,
    append: bool,
) -> Plan:
    """Plan a run.

    Args:
        out: Folder of the store.
        info: What the run would write.
        begun: What is there.
        views: Views that the run adds.
        shard_size: Images a shard.
        append: Whether to add to a complete store.

    Raises:
        ValueError: The store was begun with other settings, is complete, or parts that stay are
            damaged.
    """

    def part_of(first: int) -> Part:
        return plan_part(
            first=first, count=views, num_images=info.num_images, shard_size=shard_size
        )

    if begun is None:
        if append:
            raise ValueError(f"there is no store at {out} to append to: leave append out")
        return Plan((), part_of(0), {})
    if changes := differences(identity(begun), identity(info)):
        raise ValueError(
            f"{out} was begun with other settings ({'; '.join(changes)}): restore them or choose "
            "another folder"
        )
    *done, last = begun.parts
    written = tuple(done) if begun.status == "partial" else begun.parts
    if append:
        require_whole(out, written)
    elif lost := lost_shards(out, written):
        _check_restorable(out, begun, views, lost)
        return Plan(written, None, begun.counts, lost)
    if begun.status == "partial":
        if last != part_of(last.first):
            raise ValueError(
                f"{out} was begun with views {last.count} and shard_size {_shard_size(last)}: give "
                "the same to finish it, or choose another folder"
            )
        return Plan(tuple(done), last, begun.counts)
    # The state of jobs goes last: where it is left, this very run was killed after its work.
    just_done = last.count == views and (len(begun.parts) > 1) == append
    if just_done and (not append or (out / STATE).exists()):
        return Plan(begun.parts, None, begun.counts)
    if append:
        return Plan(begun.parts, part_of(begun.num_views), begun.counts)
    raise ValueError(
        f"{out} is complete with {begun.num_views} views: add more with append, or choose another "
        "folder"
    )


def identity(info: StoreInfo) -> dict[str, Any]:
    """Return what a run must share with the one that began the store, as JSON."""
    values = {name: value for name, value in info.to_json().items() if name not in _VARYING}
    return _by_name(values)


def shard_tasks(part: Part, *, first_view: int) -> dict[str, ShardTask]:
    """Return the jobs that write a part, by their file's name.

    Args:
        part: The part.
        first_view: Number of the store's first view as the seed numbers them.
    """
    return {
        shard.file.replace("/", "-"): ShardTask(
            file=shard.file,
            first_image=shard.images[0],
            stop_image=shard.images[1],
            first_view=first_view + part.first,
            num_views=part.count,
        )
        for shard in part.shards
    }


def written_part(part: Part, results: Mapping[str, Any]) -> Part:
    """Return a planned part with the sizes and hashes of its files, in the order of its shards."""
    shards = [
        ShardInfo(planned.file, planned.images, result["shard"]["bytes"], result["shard"]["sha256"])
        for planned, result in zip(part.shards, results.values(), strict=True)
    ]
    return replace(part, shards=tuple(shards))


def _check_origin(out: Path, begun: StoreInfo) -> None:
    remedy = "generate another store in another folder"
    if begun.compat == "apple":
        raise ValueError(
            f"{out} was imported from official data, whose teacher is not known: no views can be "
            f"added to it; {remedy} and train on either"
        )
    if begun.seed is None:
        raise ValueError(
            f"{out} was merged from stores of several seeds: no views can be added to it; {remedy} "
            "with a seed that is not among them, and merge both"
        )
    if begun.status == "partial" and begun.parts[-1].joined:
        raise ValueError(f"{out} is an unfinished merge: give its command again, then append")


def _check_restorable(out: Path, begun: StoreInfo, views: int, lost: Sequence[Part]) -> None:
    counts = {begun.num_views, *(part.count for part in begun.parts)}
    file = lost[0].shards[0].file
    if any(part.joined for part in lost):
        raise ValueError(
            f"{out / file} is missing or cut off, and it was written by merge, so it cannot be "
            "generated again: copy it from elsewhere, or merge the stores that it came from again"
        )
    if views not in counts:
        raise ValueError(
            f"{out / file} is missing or cut off, and views is {views}: give "
            f"{' or '.join(map(str, sorted(counts)))}, as when the store was made, to restore it"
        )


def _shard_size(part: Part) -> int:
    first, stop = part.shards[0].images
    return stop - first


def _by_name(value: Any) -> Any:
    """Turn lists of objects into objects and tuples into lists, so that differences are short."""
    if isinstance(value, Mapping):
        return {name: _by_name(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], Mapping):
        return {str(number): _by_name(item) for number, item in enumerate(value)}
    return list(value) if isinstance(value, tuple) else value

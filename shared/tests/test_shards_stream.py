"""Order, slicing by ranks and workers, exact resume and schema of `ShardStream`."""

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from torch.utils.data import DataLoader

from tenfold.shards import (
    SampleSchema,
    ShardError,
    ShardLoader,
    ShardStream,
    write_index,
    write_shard,
)
from tenfold.shards.order import GlobalOrder, keyed_permutation

SIZES = (7, 5, 9, 1, 8)
TOTAL = sum(SIZES)
SCHEMA = SampleSchema(required=("cls",))


@pytest.fixture
def folder(tmp_path):
    """Samples whose class is their number in the folder."""
    path = tmp_path / "data"
    first = 0
    entries = []
    for n, size in enumerate(SIZES):
        samples = [{"__key__": f"{i:03d}", "cls": i} for i in range(first, first + size)]
        entries.append(write_shard(path / f"{n}.tar", samples))
        first += size
    write_index(path, entries)
    return path


def keep(batch: list[dict[str, Any]]) -> list[int]:
    return [sample["cls"] for sample in batch]


def make(folder: Path, **options: Any) -> ShardStream:
    return ShardStream(folder, SCHEMA, **{"batch_size": 2, "mix_shards": 2, **options})


def take(loader: ShardLoader, count: int) -> list[list[int]]:
    taken: list[list[int]] = []
    while len(taken) < count:
        for batch in loader:
            taken.append(batch)
            if len(taken) == count:
                break
    return taken


def sequence(folder: Path, count: int, **options: Any) -> list[int]:
    """Return the global sequence of samples, from one rank without workers."""
    loader = ShardLoader(make(folder, batch_size=1, **options), collate_fn=keep)
    return [number for batch in take(loader, count) for number in batch]


def test_order_is_a_block_shuffle_of_every_epoch():
    order = GlobalOrder(SIZES, seed=5, mix_shards=2)
    epochs = []
    for epoch in range(3):
        places = [order.locate(epoch * TOTAL + i) for i in range(TOTAL)]
        assert {place.epoch for place in places} == {epoch}
        assert {(p.shard, p.sample) for p in places} == {
            (shard, i) for shard, size in enumerate(SIZES) for i in range(size)
        }
        # Naive oracle: shards in keyed order, pairs of them pooled and permuted.
        shards = [int(i) for i in keyed_permutation(len(SIZES), 5, 1, epoch)]
        expected = []
        for block in range(3):
            pool = [
                (shard, i)
                for shard in shards[2 * block : 2 * block + 2]
                for i in range(SIZES[shard])
            ]
            expected += [pool[i] for i in keyed_permutation(len(pool), 5, 2, epoch, block)]
        assert [(p.shard, p.sample) for p in places] == expected
        epochs.append(expected)
    assert epochs[0] != epochs[1] != epochs[2]


def test_order_needs_no_walk():
    straight = GlobalOrder(SIZES, seed=0, mix_shards=2)
    walked = [straight.locate(i) for i in range(3 * TOTAL)]
    jumping = GlobalOrder(SIZES, seed=0, mix_shards=2)
    for i in np.random.default_rng(0).permutation(3 * TOTAL):
        assert jumping.locate(int(i)) == walked[i]
    plain = GlobalOrder(SIZES, seed=0, shuffle=False, mix_shards=2)
    assert [plain.locate(i)[1:] for i in range(TOTAL)] == sorted(
        place[1:] for place in walked[:TOTAL]
    )


def test_permutation_is_frozen():
    """A saved run resumes only while this draw stays what it is."""
    assert keyed_permutation(8, 0, 1, 2).tolist() == [6, 7, 2, 3, 0, 5, 1, 4]


def test_order_is_checked():
    with pytest.raises(ValueError, match="seed must be >= 0, got -1"):
        GlobalOrder(SIZES, seed=-1)
    with pytest.raises(ValueError, match="mix_shards must be at least 1"):
        GlobalOrder(SIZES, seed=0, mix_shards=0)


def test_epochs_differ_and_repeat_for_a_seed(folder):
    numbers = sequence(folder, 2 * TOTAL)
    assert sorted(numbers[:TOTAL]) == sorted(numbers[TOTAL:]) == list(range(TOTAL))
    assert numbers[:TOTAL] != numbers[TOTAL:]
    assert numbers == sequence(folder, 2 * TOTAL)
    assert numbers != sequence(folder, 2 * TOTAL, seed=1)
    assert sequence(folder, 2 * TOTAL, shuffle=False) == 2 * list(range(TOTAL))


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_slice_the_global_sequence(folder, world_size):
    numbers = sequence(folder, 60)
    steps = 60 // (2 * world_size)
    for rank in range(world_size):
        stream = make(folder, rank=rank, world_size=world_size)
        batches = take(ShardLoader(stream, collate_fn=keep), steps)
        for step, batch in enumerate(batches):
            begin = step * 2 * world_size + 2 * rank
            assert batch == numbers[begin : begin + 2]


def test_workers_do_not_change_the_order(folder):
    options = {"rank": 1, "world_size": 2, "num_batches": 20}
    alone = list(ShardLoader(make(folder, **options), collate_fn=keep))
    loader = ShardLoader(make(folder, **options), collate_fn=keep, num_workers=2)
    assert list(loader) == alone
    assert len(loader) == len(alone) == 20
    assert loader.state_dict()["position"] == 20 * 2 * 2 - 2 * TOTAL


def test_single_pass_is_equal_on_all_ranks_and_starts_anew(folder):
    for world_size, batch_size in ((1, 4), (2, 4), (3, 2), (7, 3), (4, 8)):
        streams = [
            make(folder, batch_size=batch_size, repeat=False, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
        for _ in range(2):
            passes = [list(ShardLoader(stream, collate_fn=keep)) for stream in streams]
            shapes = [[len(batch) for batch in batches] for batches in passes]
            assert all(shape == shapes[0] for shape in shapes)
            assert len(shapes[0]) == len(streams[0])
            seen = [number for batches in passes for batch in batches for number in batch]
            assert len(set(seen)) == len(seen) == TOTAL - TOTAL % world_size
    assert streams[0].state_dict()["epoch"] == 2


def test_length_defaults_to_an_epoch(folder):
    assert len(make(folder)) == TOTAL // 2
    assert len(make(folder, rank=0, world_size=4)) == TOTAL // 8
    assert len(make(folder, batch_size=100)) == 1
    assert len(next(iter(ShardLoader(make(folder, batch_size=100))))) == 100


def test_samples_carry_their_origin(folder):
    stream = make(folder, shuffle=False)
    batch = next(iter(ShardLoader(stream)))
    assert batch == [
        {"__key__": "000", "__shard__": "0.tar", "__position__": 0, "cls": 0},
        {"__key__": "001", "__shard__": "0.tar", "__position__": 1, "cls": 1},
    ]
    again = take(ShardLoader(stream, collate_fn=lambda b: [s["__position__"] for s in b]), 20)
    assert again[-1] == [40, 41]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"rank": 0}, "both rank and world_size"),
        ({"rank": 2, "world_size": 2}, r"rank must be in \[0, 2\), got 2"),
        ({"num_batches": 0}, "num_batches must be at least 1"),
        ({"num_batches": 3, "repeat": False}, "needs repeat"),
        ({"repeat": False, "rank": 0, "world_size": 99}, "30 samples are too few for 99 ranks"),
        ({"max_bad_fraction": 1.0}, r"max_bad_fraction must be in \[0, 1\), got 1.0"),
    ],
)
def test_stream_refuses(folder, options, message):
    with pytest.raises(ValueError, match=message):
        make(folder, **options)


def test_loader_refuses(folder):
    with pytest.raises(ValueError, match="batch_size belongs to the ShardStream"):
        ShardLoader(make(folder), batch_size=4)
    with pytest.raises(ValueError, match="persistent_workers"):
        ShardLoader(make(folder), num_workers=1, persistent_workers=True)
    plain = DataLoader(make(folder), batch_size=None, num_workers=1)
    with pytest.raises(RuntimeError, match="use ShardLoader"):
        next(iter(plain))


def test_missing_shard_is_told_at_once(folder):
    (folder / "1.tar").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 5 shards of the index are missing, first 1"):
        make(folder)


def test_stream_made_before_the_process_group_is_refused(folder, tmp_path):
    stream = make(folder, rank=0, world_size=2)
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        with pytest.raises(ValueError, match="rank 0 of 2, the process group has rank 0 of 1"):
            next(iter(ShardLoader(stream)))
        assert next(iter(ShardLoader(make(folder))))
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("taken", [0, 1, 7, 14, 15, 16, 31])
def test_resume_equals_straight(folder, taken):
    """30 samples in batches of two: 15 batches are an epoch, and 7 end amid a block."""
    straight = take(ShardLoader(make(folder), collate_fn=keep), 40)
    first = ShardLoader(make(folder), collate_fn=keep)
    assert take(first, taken) == straight[:taken]
    state = json.loads(json.dumps(first.state_dict()))
    assert (state["epoch"], state["position"]) == divmod(2 * taken, TOTAL)
    second = ShardLoader(make(folder), collate_fn=keep)
    second.load_state_dict(state)
    assert take(second, 40 - taken) == straight[taken:]


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0), (1, 2)])
def test_resume_with_other_workers_and_ranks(folder, before, after):
    numbers = sequence(folder, 120)
    streams = [make(folder, rank=rank, world_size=2) for rank in range(2)]
    loaders = [ShardLoader(s, collate_fn=keep, num_workers=before) for s in streams]
    batches = [take(loader, 7) for loader in loaders]
    assert [n for pair in zip(*batches, strict=True) for b in pair for n in b] == numbers[:28]
    states = [loader.state_dict() for loader in loaders]
    assert states[0] == states[1]
    rest = []
    for rank in range(3):
        stream = make(folder, rank=rank, world_size=3, batch_size=3)
        loader = ShardLoader(stream, collate_fn=keep, num_workers=after if rank == 2 else 0)
        loader.load_state_dict(states[0])
        rest.append(take(loader, 9))
    resumed = [n for step in zip(*rest, strict=True) for b in step for n in b]
    assert resumed == numbers[28 : 28 + 81]


def test_single_pass_resumes(folder):
    whole = list(ShardLoader(make(folder, repeat=False), collate_fn=keep))
    loader = ShardLoader(make(folder, repeat=False), collate_fn=keep)
    begun = take(loader, 6)
    other = ShardLoader(make(folder, repeat=False), collate_fn=keep)
    other.load_state_dict(loader.state_dict())
    assert begun + list(other) == whole
    # 14 of 15 batches done; one sample for each of four ranks is too many for the rest.
    state = {**loader.state_dict(), "position": 28}
    wide = ShardLoader(make(folder, repeat=False, rank=0, world_size=4), collate_fn=keep)
    wide.load_state_dict(state)
    assert len(list(wide)) == len(wide) == 4
    assert wide.state_dict()["epoch"] == 2


def test_state_is_read_when_iteration_starts(folder):
    """Trainers call iter() before they load the state."""
    straight = take(ShardLoader(make(folder), collate_fn=keep), 6)
    loader = ShardLoader(make(folder), collate_fn=keep)
    iterator = iter(loader)
    loader.load_state_dict({**loader.state_dict(), "position": 8})
    assert next(iterator) == straight[4]


def test_foreign_state_is_refused(folder, tmp_path):
    state = make(folder).state_dict()
    assert len(json.dumps(state)) < 400
    with pytest.raises(ValueError, match=r"\(saved -> now\): seed: 0 -> 1, mix_shards: 2 -> 3$"):
        make(folder, seed=1, mix_shards=3).load_state_dict(state)
    with pytest.raises(ValueError, match="version None, expected 1"):
        make(folder).load_state_dict({})
    other = tmp_path / "other"
    write_index(other, [write_shard(other / "0.tar", [{"__key__": "a", "cls": 1}])])
    with pytest.raises(ValueError, match=r"shards: 5 -> 1, samples: 30 -> 1, sha256: \w+ -> \w+$"):
        ShardStream(other, SCHEMA, batch_size=1, mix_shards=2).load_state_dict(state)


def test_stream_travels_to_spawned_workers(folder):
    stream = make(folder)
    straight = take(ShardLoader(make(folder), collate_fn=keep), 3)
    assert keep(next(iter(stream))) == straight[0]  # shards are open now
    copy = pickle.loads(pickle.dumps(stream))  # noqa: S301 - what spawn does
    assert keep(next(iter(copy))) == straight[1]


def test_required_optional_and_ignored(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), (1, 2, 3)).save(buffer, "PNG")
    samples = [
        {"__key__": "a", "png": buffer.getvalue(), "txt": "one", "md5": b"0"},
        {"__key__": "b", "webp": buffer.getvalue(), "txt": "two", "json": {"x": 1}},
    ]
    write_index(tmp_path, [write_shard(tmp_path / "0.tar", samples)])
    schema = SampleSchema(
        required={"image": ("jpg", "png", "webp"), "text": ("txt",)},
        optional=("json",),
        ignored=("md5",),
    )
    stream = ShardStream(tmp_path, schema, batch_size=2, shuffle=False)
    first, second = next(iter(ShardLoader(stream)))
    assert first["image"].shape == (2, 3, 3)
    assert first["image"].dtype == torch.uint8
    assert first["text"] == "one"
    assert "json" not in first
    assert second["json"] == {"x": 1}


def test_schema_is_checked():
    with pytest.raises(ShardError, match="'pyd' is not in the decoder table"):
        SampleSchema(required=("txt", "pyd"))
    with pytest.raises(ShardError, match="'flac' is not in the decoder table"):
        SampleSchema(required=("txt",), optional=("flac",))
    with pytest.raises(ValueError, match="at least one extension"):
        SampleSchema(required=())
    with pytest.raises(ValueError, match="must be sequences, got 'txt'"):
        SampleSchema(required="txt")
    SampleSchema(required=("flac",), decoders={"flac": len})

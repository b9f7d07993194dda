"""Order, slicing by ranks and workers, exact resume and schema of `ShardStream`."""

import json
import pickle
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.distributed as dist
from foreign_tars import PIXELS, image_bytes
from numbered_shards import SCHEMA, SIZES, TOTAL, classes, make_stream, sequence, take
from torch.utils.data import DataLoader, IterableDataset

from tenfold.shards import (
    SampleSchema,
    ShardError,
    ShardLoader,
    ShardStream,
    write_index,
    write_shard,
)
from tenfold.shards.order import GlobalOrder, keyed_permutation


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


def test_epochs_differ_and_repeat_for_a_seed(shards):
    numbers = sequence(shards, 2 * TOTAL)
    assert sorted(numbers[:TOTAL]) == sorted(numbers[TOTAL:]) == list(range(TOTAL))
    assert numbers[:TOTAL] != numbers[TOTAL:]
    assert numbers == sequence(shards, 2 * TOTAL)
    assert numbers != sequence(shards, 2 * TOTAL, seed=1)
    assert sequence(shards, 2 * TOTAL, shuffle=False) == 2 * list(range(TOTAL))


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_slice_the_global_sequence(shards, world_size):
    numbers = sequence(shards, 60)
    steps = 60 // (2 * world_size)
    for rank in range(world_size):
        stream = make_stream(shards, rank=rank, world_size=world_size)
        batches = take(ShardLoader(stream, collate_fn=classes), steps)
        for step, batch in enumerate(batches):
            begin = step * 2 * world_size + 2 * rank
            assert batch == numbers[begin : begin + 2]


def test_workers_do_not_change_the_order(shards):
    options = {"rank": 1, "world_size": 2, "num_batches": 20}
    alone = list(ShardLoader(make_stream(shards, **options), collate_fn=classes))
    loader = ShardLoader(make_stream(shards, **options), collate_fn=classes, num_workers=2)
    assert list(loader) == alone
    assert len(loader) == len(alone) == 20
    assert loader.state_dict()["position"] == 20 * 2 * 2 - 2 * TOTAL


def test_single_pass_is_equal_on_all_ranks_and_starts_anew(shards):
    for world_size, batch_size in ((1, 4), (2, 4), (3, 2), (7, 3), (4, 8)):
        streams = [
            make_stream(
                shards, batch_size=batch_size, repeat=False, rank=rank, world_size=world_size
            )
            for rank in range(world_size)
        ]
        for _ in range(2):
            passes = [list(ShardLoader(stream, collate_fn=classes)) for stream in streams]
            shapes = [[len(batch) for batch in batches] for batches in passes]
            assert all(shape == shapes[0] for shape in shapes)
            assert len(shapes[0]) == len(streams[0])
            seen = [number for batches in passes for batch in batches for number in batch]
            assert len(set(seen)) == len(seen) == TOTAL - TOTAL % world_size
    assert streams[0].state_dict()["epoch"] == 2


def test_length_defaults_to_an_epoch(shards):
    assert len(make_stream(shards)) == TOTAL // 2
    assert len(make_stream(shards, rank=0, world_size=4)) == TOTAL // 8
    assert len(make_stream(shards, batch_size=100)) == 1
    assert len(next(iter(ShardLoader(make_stream(shards, batch_size=100))))) == 100


def test_samples_carry_their_origin(shards):
    stream = make_stream(shards, shuffle=False)
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
def test_stream_refuses(shards, options, message):
    with pytest.raises(ValueError, match=message):
        make_stream(shards, **options)


class Refused(IterableDataset[type[Exception]]):
    """Expects the error inside the worker: torch may wait 5 s for one whose error it raised."""

    def __init__(self, stream: ShardStream) -> None:
        self.stream = stream

    def __iter__(self) -> Iterator[type[Exception]]:
        with pytest.raises(RuntimeError, match="use ShardLoader") as caught:
            next(iter(self.stream))
        yield caught.type


def test_loader_refuses(shards):
    with pytest.raises(ValueError, match="batch_size belongs to the ShardStream"):
        ShardLoader(make_stream(shards), batch_size=4)
    with pytest.raises(ValueError, match="persistent_workers"):
        ShardLoader(make_stream(shards), num_workers=1, persistent_workers=True)
    plain = DataLoader(Refused(make_stream(shards)), batch_size=None, num_workers=1)
    assert list(plain) == [RuntimeError]


def test_missing_shard_is_told_at_once(shards):
    (shards / "1.tar").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 5 shards of the index are missing, first 1"):
        make_stream(shards)


def test_stream_made_before_the_process_group_is_refused(shards, tmp_path):
    stream = make_stream(shards, rank=0, world_size=2)
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        with pytest.raises(ValueError, match="rank 0 of 2, the process group has rank 0 of 1"):
            next(iter(ShardLoader(stream)))
        assert next(iter(ShardLoader(make_stream(shards))))
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("taken", [0, 1, 7, 14, 15, 16, 31])
def test_resume_equals_straight(shards, taken):
    """30 samples in batches of two: 15 batches are an epoch, and 7 end amid a block."""
    straight = take(ShardLoader(make_stream(shards), collate_fn=classes), 40)
    first = ShardLoader(make_stream(shards), collate_fn=classes)
    assert take(first, taken) == straight[:taken]
    state = json.loads(json.dumps(first.state_dict()))
    assert (state["epoch"], state["position"]) == divmod(2 * taken, TOTAL)
    second = ShardLoader(make_stream(shards), collate_fn=classes)
    second.load_state_dict(state)
    assert take(second, 40 - taken) == straight[taken:]


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0), (1, 2)])
def test_resume_with_other_workers_and_ranks(shards, before, after):
    numbers = sequence(shards, 120)
    streams = [make_stream(shards, rank=rank, world_size=2) for rank in range(2)]
    loaders = [ShardLoader(s, collate_fn=classes, num_workers=before) for s in streams]
    batches = [take(loader, 7) for loader in loaders]
    assert [n for pair in zip(*batches, strict=True) for b in pair for n in b] == numbers[:28]
    states = [loader.state_dict() for loader in loaders]
    assert states[0] == states[1]
    rest = []
    for rank in range(3):
        stream = make_stream(shards, rank=rank, world_size=3, batch_size=3)
        loader = ShardLoader(stream, collate_fn=classes, num_workers=after if rank == 2 else 0)
        loader.load_state_dict(states[0])
        rest.append(take(loader, 9))
    resumed = [n for step in zip(*rest, strict=True) for b in step for n in b]
    assert resumed == numbers[28 : 28 + 81]


def test_single_pass_resumes(shards):
    whole = list(ShardLoader(make_stream(shards, repeat=False), collate_fn=classes))
    loader = ShardLoader(make_stream(shards, repeat=False), collate_fn=classes)
    begun = take(loader, 6)
    other = ShardLoader(make_stream(shards, repeat=False), collate_fn=classes)
    other.load_state_dict(loader.state_dict())
    assert begun + list(other) == whole
    # 14 of 15 batches done; one sample for each of four ranks is too many for the rest.
    state = {**loader.state_dict(), "position": 28}
    wide = ShardLoader(make_stream(shards, repeat=False, rank=0, world_size=4), collate_fn=classes)
    wide.load_state_dict(state)
    assert len(list(wide)) == len(wide) == 4
    assert wide.state_dict()["epoch"] == 2


def test_state_is_read_when_iteration_starts(shards):
    """Trainers call iter() before they load the state."""
    straight = take(ShardLoader(make_stream(shards), collate_fn=classes), 6)
    loader = ShardLoader(make_stream(shards), collate_fn=classes)
    iterator = iter(loader)
    loader.load_state_dict({**loader.state_dict(), "position": 8})
    assert next(iterator) == straight[4]


def test_foreign_state_is_refused(shards, tmp_path):
    state = make_stream(shards).state_dict()
    assert len(json.dumps(state)) < 400
    with pytest.raises(ValueError, match=r"\(saved -> now\): seed: 0 -> 1, mix_shards: 2 -> 3$"):
        make_stream(shards, seed=1, mix_shards=3).load_state_dict(state)
    with pytest.raises(ValueError, match="version None, expected 1"):
        make_stream(shards).load_state_dict({})
    other = tmp_path / "other"
    write_index(other, [write_shard(other / "0.tar", [{"__key__": "a", "cls": 1}])])
    with pytest.raises(ValueError, match=r"shards: 5 -> 1, samples: 30 -> 1, sha256: \w+ -> \w+$"):
        ShardStream(other, SCHEMA, batch_size=1, mix_shards=2).load_state_dict(state)


def test_stream_travels_to_spawned_workers(shards):
    stream = make_stream(shards)
    straight = take(ShardLoader(make_stream(shards), collate_fn=classes), 3)
    assert classes(next(iter(stream))) == straight[0]  # shards are open now
    copy = pickle.loads(pickle.dumps(stream))  # noqa: S301 - what spawn does
    assert classes(next(iter(copy))) == straight[1]


def test_required_optional_and_ignored(tmp_path):
    png = image_bytes("PNG", PIXELS)
    samples = [
        {"__key__": "a", "png": png, "txt": "one", "md5": b"0"},
        {"__key__": "b", "webp": png, "txt": "two", "json": {"x": 1}},
    ]
    write_index(tmp_path, [write_shard(tmp_path / "0.tar", samples)])
    schema = SampleSchema(
        required={"image": ("jpg", "png", "webp"), "text": ("txt",)},
        optional=("json",),
        ignored=("md5",),
    )
    stream = ShardStream(tmp_path, schema, batch_size=2, shuffle=False)
    first, second = next(iter(ShardLoader(stream)))
    assert first["image"].shape == PIXELS.shape
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

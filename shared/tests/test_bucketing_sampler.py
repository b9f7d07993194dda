"""Sampler, stream and lockstep check on real loaders and real gloo ranks."""

import logging
import pickle

import numpy as np
import pytest
import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset

from tenfold.bucketing import (
    BadRecordError,
    Bucket,
    BucketBatchSampler,
    BucketPlan,
    BucketStream,
    Curriculum,
    assert_lockstep,
)
from tenfold.cli.errors import one_line
from tenfold.testing import run_ranks

BUCKETS = (Bucket("short", 8, 288), Bucket("middle", 24, 96), Bucket("long", 48, 64))


def build(seed=0, buckets=BUCKETS, cost_per_step=384, **changes):
    return BucketPlan.build(
        buckets,
        cost_per_step=cost_per_step,
        curriculum=Curriculum.grow_p2(cycles=2),
        seed=seed,
        **changes,
    )


def global_batches(plan, first=0):
    return [(int(plan.steps[step]), plan.rows(step).tolist()) for step in range(first, len(plan))]


def merge(samplers):
    """Put the micro-batches of all ranks together again, step by step."""
    accum, world_size = samplers[0].accum, len(samplers)
    streams = [list(sampler) for sampler in samplers]
    steps = []
    for first in range(0, len(streams[0]), accum):
        pairs = [pair for s in streams for micro in s[first : first + accum] for pair in micro]
        sizes = {len(micro) for s in streams for micro in s[first : first + accum]}
        assert sizes == {len(pairs) // (accum * world_size)}
        assert len({bucket for bucket, _ in pairs}) == 1
        steps.append((pairs[0][0], [row for _, row in pairs]))
    return steps


class Pairs(Dataset):
    """Map-style data set that returns its own index."""

    def __getitem__(self, index):
        return index


class Rows:
    """Reader of one bucket whose rows are their own content; some are damaged."""

    def __init__(self, key, size, bad=()):
        self.key, self.size, self.bad = key, size, set(bad)

    def __len__(self):
        return self.size

    def read(self, rows):
        for row in rows.tolist():
            if row in self.bad:
                raise BadRecordError(row, f"checksum of {self.key}/{row}")
        return self.key, rows.tolist()


def readers(bad=None, buckets=BUCKETS):
    return {b.key: Rows(b.key, b.num_items, (bad or {}).get(b.key, ())) for b in buckets}


def identity(batch):
    return batch


@pytest.mark.parametrize(("world_size", "accum"), [(1, 1), (2, 1), (4, 2), (8, 1), (1, 8)])
def test_the_union_of_all_ranks_is_the_global_batch(world_size, accum):
    plan = build()
    samplers = [BucketBatchSampler(plan, rank, world_size, accum) for rank in range(world_size)]
    assert {len(sampler) for sampler in samplers} == {len(plan) * accum}
    assert merge(samplers) == global_batches(plan)


def test_resume_at_any_step_with_other_ranks_and_accumulation():
    plan = build()
    for step in range(len(plan) + 1):
        before = BucketBatchSampler(plan, 0, 4, 2)
        before.advance(step)
        state = before.state_dict()
        assert state == {"step": step, "fingerprint": plan.fingerprint}
        after = [BucketBatchSampler(build(divisor=2), rank, 2) for rank in range(2)]
        for sampler in after:
            sampler.load_state_dict(state)
        assert (merge(after) if step < len(plan) else []) == global_batches(plan, step)
        assert len(after[0]) == len(plan)


def test_the_state_is_what_training_consumed_and_not_what_workers_fetched():
    sampler = BucketBatchSampler(build(), 0, 1)
    loader = DataLoader(
        Pairs(), batch_sampler=sampler, collate_fn=identity, num_workers=1, prefetch_factor=4
    )
    fetched = []
    for step, batch in enumerate(loader):
        fetched.append((batch[0][0], [row for _, row in batch]))
        sampler.advance()
        assert sampler.state_dict()["step"] == step + 1
        if step == 2:
            break
    resumed = BucketBatchSampler(build(), 0, 1)
    resumed.load_state_dict(sampler.state_dict())
    assert fetched + merge([resumed]) == global_batches(build())


def test_a_state_loaded_after_iter_but_before_the_first_batch_counts():
    plan = build()
    sampler = BucketBatchSampler(plan, 0, 1)
    iterator = iter(sampler)
    sampler.load_state_dict({"step": 5, "fingerprint": plan.fingerprint})
    assert next(iterator)[0][0] == plan.steps[5]
    assert [row for _, row in next(iterator)] == plan.rows(6).tolist()


def test_skip_leaves_out_steps():
    plan = build()
    sampler = BucketBatchSampler(plan, 0, 1)
    sampler.advance(3)
    sampler.skip(4)
    assert merge([sampler]) == global_batches(plan, 7)
    assert sampler.state_dict()["step"] == 7


def test_an_epoch_changes_nothing_and_says_so(caplog):
    plan = build()
    sampler = BucketBatchSampler(plan, 0, 1)
    sampler.advance(3)
    sampler.set_epoch(0)
    assert not caplog.records
    sampler.set_epoch(1)
    assert "set_epoch(1) has no effect" in caplog.text
    assert merge([sampler]) == global_batches(plan, 3)


def test_a_state_of_another_plan_is_refused_naming_the_field():
    saved, current = build(seed=1), build(seed=2)
    state = {"step": 3, "fingerprint": saved.fingerprint}
    sampler = BucketBatchSampler(current, 0, 1)
    both = f"saved fingerprint {saved.fingerprint}, current {current.fingerprint}"
    with pytest.raises(ValueError, match=f"{both};"):
        sampler.load_state_dict(state)
    with pytest.raises(ValueError, match=rf"{both} \(seed: 1 -> 2\);"):
        sampler.load_state_dict(state, described=saved.describe())
    grown = build(seed=1, buckets=(Bucket("short", 8, 289), *BUCKETS[1:]))
    with pytest.raises(ValueError, match=r"\(buckets\[0\]\.num_items: 288 -> 289\);"):
        BucketBatchSampler(grown, 0, 1).load_state_dict(state, described=saved.describe())
    assert sampler.step == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.load_state_dict({"step": 1}), r"fields step and fingerprint, got \['step'\]"),
        (
            lambda s: s.load_state_dict({"step": 99, "fingerprint": s.plan.fingerprint}),
            "step 99 is outside the plan's 20 steps",
        ),
        (lambda s: s.advance(-1), "step -1 is outside"),
        (lambda s: s.skip(-1), "skip takes a number of steps >= 0, got -1"),
        (lambda s: s.skip(21), "step 21 is outside"),
        (lambda s: BucketBatchSampler(s.plan, 2, 2), r"rank must be in \[0, 2\), got 2"),
        (lambda s: BucketBatchSampler(s.plan, 0, 1, 0), "accum must be >= 1"),
        (
            lambda s: BucketBatchSampler(s.plan, 0, 4, 4),
            r"cost_per_step=384 .* 16 \* 48 \(bucket 'long'\); nearest.*: 768$",
        ),
        (lambda s: BucketStream(s.plan, {}), "no reader for bucket 'short'"),
        (
            lambda s: BucketStream(s.plan, readers() | {"middle": Rows("middle", 9)}),
            "reader of bucket 'middle' has 9 rows, the plan 96",
        ),
        (
            lambda s: BucketStream(s.plan, readers(), max_bad_share=1.5),
            r"max_bad_share must be in \[0, 1\], got 1\.5",
        ),
    ],
)
def test_misuse_is_refused(call, message):
    sampler = BucketBatchSampler(build(), 0, 1)
    with pytest.raises(ValueError, match=message):
        call(sampler)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize(("workers", "accum"), [(0, 1), (2, 1), (3, 2)])
def test_stream_serves_the_plan_in_order_for_any_number_of_workers(workers, accum):
    plan = build()
    stream = BucketStream(plan, readers(), rank=1, world_size=2, accum=accum)
    stream.load_state_dict({"step": 3, "fingerprint": plan.fingerprint})
    loader = DataLoader(stream, batch_size=None, num_workers=workers, collate_fn=identity)
    assert len(loader) == len(plan) * accum
    expected = [
        (plan.buckets[plan.steps[step]].key, part.tolist())
        for step in range(3, len(plan))
        for part in np.split(plan.rows(step, 1, 2), accum)
    ]
    assert list(loader) == expected


def test_a_bad_record_is_replaced_in_its_bucket_counted_and_reported_once(caplog):
    plan = build()
    bad = {"short": range(0, 288, 5), "long": [7]}
    clean = list(BucketStream(plan, readers()))
    stream = BucketStream(plan, readers(bad), max_bad_share=1.0)
    with caplog.at_level(logging.WARNING):
        repaired = list(stream)
    for (key, rows), (bad_key, bad_rows) in zip(clean, repaired, strict=True):
        assert key == bad_key
        assert not set(bad_rows) & set(bad.get(key, ()))
        for row, other in zip(rows, bad_rows, strict=True):
            assert (row != other) == (row in bad.get(key, ()))
    assert list(BucketStream(plan, readers(bad), max_bad_share=1.0)) == repaired
    caplog.clear()
    assert list(stream) == repaired
    assert not caplog.records
    assert stream.bad_records == 58 + 1


def test_a_bad_record_is_logged_with_bucket_row_and_reason(caplog):
    stream = BucketStream(build(), readers({"long": [7]}))
    list(stream)
    assert stream.replaced_rows == 1
    assert [r.message for r in caplog.records] == [
        "bad record replaced: bucket 'long', row 7: checksum of long/7"
    ]


def test_workers_agree_on_substitutes_and_add_up_their_counts():
    bad = {"short": [1, 2, 3], "middle": [5]}
    alone = BucketStream(build(), readers(bad))
    shared = BucketStream(build(), readers(bad))
    loader = DataLoader(shared, batch_size=None, num_workers=2, collate_fn=identity)
    assert list(loader) == list(alone)
    assert shared.bad_records == alone.bad_records == 4


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_replaced_rows_end_the_run_with_counts_and_reason(workers):
    bad = {"short": range(0, 288, 60)}  # 5 of the 288 + 96 + 64 rows of one pass: 1.1 %
    stream = BucketStream(build(), readers(bad))
    loader = DataLoader(stream, batch_size=None, num_workers=workers, collate_fn=identity)
    message = (
        r"5 of the 448 rows that rank 0 reads in this run are bad \(5 different ones\), more than "
        r"a share of 0\.01; the latest: bucket 'short', row \d+: checksum of short/\d+; restore"
    )
    with pytest.raises(ValueError, match=message) as caught:
        list(loader)
    assert one_line(caught.value).startswith("5 of the 448 rows")
    just_enough = BucketStream(build(), readers(bad), max_bad_share=5 / 448)
    assert len(list(just_enough)) == len(just_enough)


def test_the_share_counts_the_rows_of_the_rank_and_every_pass():
    wanted = dict.fromkeys(("short", "middle", "long"), 2 * 96 * 24)
    plan = build(wanted=wanted, repeat="reshuffle")
    row = int(plan.rows(int(np.flatnonzero(plan.steps == 1)[0]), 1, 2)[0])
    stream = BucketStream(plan, readers({"middle": [row]}), rank=1, world_size=2, max_bad_share=1.0)
    planned = [plan.rows(step, 1, 2) for step in range(len(plan)) if plan.steps[step] == 1]
    list(stream)
    assert stream.replaced_rows == sum(int((rows == row).sum()) for rows in planned)
    assert stream.bad_records == 1
    total = sum(plan.rows(step, 1, 2).size for step in range(len(plan)))
    stream.max_bad_share = 0.0
    with pytest.raises(ValueError, match=f"of the {total} rows that rank 1 reads"):
        list(stream)


def test_a_hopeless_bucket_ends_the_run_with_its_name():
    stream = BucketStream(build(), readers({"long": range(64)}), max_bad_share=1.0)
    with pytest.raises(ValueError, match=r"bucket 'long': row .* and 16 substitutes are all bad"):
        list(stream)


def test_a_reader_that_blames_a_row_it_was_not_given_is_refused():
    class Liar(Rows):
        def read(self, rows):
            raise BadRecordError(-1, "lost")

    stream = BucketStream(build(), readers() | {"long": Liar("long", 64)})
    with pytest.raises(ValueError, match="reports row -1 as bad, which was not asked for"):
        list(stream)


def test_other_reader_errors_are_not_swallowed():
    class Broken(Rows):
        def read(self, rows):
            raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        list(BucketStream(build(), readers() | {"long": Broken("long", 64)}))


def test_persistent_workers_are_refused_the_second_time():
    stream = BucketStream(build(), readers())
    loader = DataLoader(
        stream, batch_size=None, num_workers=1, collate_fn=identity, persistent_workers=True
    )
    list(loader)
    with pytest.raises(ValueError, match="persistent_workers=False"):
        list(loader)


def test_a_stream_pickles():
    stream = BucketStream(build(), readers())
    stream.advance(4)
    again = pickle.loads(pickle.dumps(stream))  # noqa: S301
    assert list(again) == list(stream)


def fifty_steps(rank, world_size):
    """Check the plan, then gather bucket and rows of 50 steps from all ranks."""
    buckets = (Bucket("short", 8, 2400), Bucket("long", 48, 400))
    plan = build(buckets=buckets)
    assert_lockstep(plan)
    assert len(plan) == 50 + 50
    seen = []
    for batch, _ in zip(BucketBatchSampler(plan, rank, world_size), range(50), strict=False):
        gathered = [None] * world_size
        dist.all_gather_object(gathered, batch)
        seen.append(gathered)
    return seen


def refusals():
    """Return this rank's complaints about three kinds of difference."""
    rank = dist.get_rank()
    larger = (Bucket("short", 8, 288 + 48 * rank), *BUCKETS[1:])
    messages = []
    for plan in (build(seed=rank), build(buckets=larger), build(longest_first=1 + rank)):
        with pytest.raises(ValueError, match="different plans") as caught:
            assert_lockstep(plan)
        messages.append(str(caught.value))
    return messages


def compare_plans(rank, world_size):
    return refusals(), fifty_steps(rank, world_size)


def test_two_ranks_walk_in_step_on_disjoint_rows_and_name_what_differs():
    for rank, (messages, steps) in enumerate(run_ranks(compare_plans, 2)):
        assert len(steps) == 50
        for first, second in steps:
            assert len({bucket for bucket, _ in first + second}) == 1
            assert len(first) == len(second)
            assert not set(first) & set(second)
        seed, data, lead = messages
        assert seed.startswith("the ranks have different plans: seed (ranks 0 | 1);")
        assert f"rank {rank} has seed = {rank};" in seed
        assert "plans: buckets (ranks 0 | 1)" in data
        assert "plans: longest_first (ranks 0 | 1)" in lead


def test_a_single_process_needs_no_check():
    assert assert_lockstep(build()) is None

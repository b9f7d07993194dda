"""The data of a run: ranks, micro-batches, resume, held-out pairs; what must fit together."""

import json
import logging
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from published_shards import INFO, Made, make_sample, write_folder, write_release

from mobileclip.data import ReinforcedData
from mobileclip.reader import PairBatch
from tenfold.shards import ShardError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_release(folder / "train")
    write_release(folder / "val", count=5, shard_size=2)
    return folder


def make(folder: Path, *, step: int = 0, **changes: Any) -> ReinforcedData:
    """Make the data module of one rank, its trainer at `step`."""
    ranks = {name: changes.pop(name, default) for name, default in (("rank", 0), ("world", 1))}
    accum = changes.pop("accum", 1)
    options = {
        "val": folder / "val",
        "model": "tiny",
        "batch_size": 4,
        "total_steps": 6,
        "workers": 0,
        "eval_batch_size": 2,
    }
    data = ReinforcedData(changes.pop("shards", folder / "train"), **(options | changes))
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        global_step=step,
        global_rank=ranks["rank"],
        world_size=ranks["world"],
        accumulate_grad_batches=accum,
        max_steps=6,
        state=SimpleNamespace(fn="fit"),
    )
    data.prepare_data()
    data.setup("fit")
    return data


def run(folder: Path, **changes: Any) -> list[PairBatch]:
    return list(make(folder, **changes).train_dataloader())


def test_a_step_is_the_same_for_any_ranks_and_micro_batches(folder: Path) -> None:
    straight = run(folder)
    assert len(straight) == 6
    assert straight[0]["image"].shape == (4, 3, 32, 32)  # as the tiny model wants them
    assert straight[0]["tokens"].shape == (4, 16)
    halves = [run(folder, rank=rank, world=2) for rank in (0, 1)]
    parts = run(folder, accum=2)
    for step, batch in enumerate(straight):
        for split in ([half[step] for half in halves], parts[2 * step : 2 * step + 2]):
            assert split[0]["keys"] + split[1]["keys"] == batch["keys"]
            for name in ("image", "tokens", "synthetic_tokens", "teacher_image"):
                assert torch.equal(torch.cat([one[name] for one in split]), batch[name])


def test_a_resumed_run_sees_the_rest(folder: Path) -> None:
    straight, later = run(folder), run(folder, step=2)
    assert len(later) == 4
    for one, other in zip(straight[2:], later, strict=True):
        assert one["keys"] == other["keys"]
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["teacher_text"], other["teacher_text"])


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"seed": 1}, "seed"),
        ({"batch_size": 8}, "batch_size"),
        ({"captions": "real"}, "captions"),
        ({"min_image_size": 8}, "min_image_size"),
    ],
)
def test_a_run_goes_on_with_its_own_data_only(
    folder: Path, changes: dict[str, Any], name: str
) -> None:
    state = json.loads(json.dumps(make(folder).state_dict()))
    make(folder).load_state_dict(state)
    with pytest.raises(ValueError, match=rf"the interrupted run had data\.{name} "):
        make(folder, **changes).load_state_dict(state)


def test_held_out_pairs_come_once_and_whole(folder: Path) -> None:
    halves = [list(make(folder, rank=r, world=2).val_dataloader()) for r in (0, 1)]
    assert len(halves[0]) == len(halves[1])
    batches = halves[0] + halves[1]
    keys = [key for batch in batches for key in batch["keys"]]
    assert sorted(keys) == [f"{number:032x}" for number in range(5)]
    assert set(batches[0]) == {"image", "tokens", "synthetic_tokens", "keys"}
    assert batches[0]["image"].shape[1:] == (3, 32, 32)
    again = list(make(folder, rank=0, world=2, seed=3).val_dataloader())
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(halves[0], again, strict=True))


def test_plain_pairs_are_data_of_the_baseline(folder: Path, tmp_path: Path) -> None:
    def plain(made: Made) -> Made:
        return replace(made, members={name: made.members[name] for name in ("jpg", "txt")})

    write_folder(tmp_path, [[plain(make_sample(n)) for n in range(6)]], info=None)
    changes = {"shards": tmp_path, "val": tmp_path, "captions": "real"}
    batch = run(folder, mode="clip", **changes)[0]
    assert set(batch) == {"image", "tokens", "keys"}
    held_out = next(iter(make(folder, mode="clip", **changes).val_dataloader()))
    assert set(held_out) == {"image", "tokens", "keys"}
    with pytest.raises(ValueError, match=r"no reinforcement\.json, which mode dr needs"):
        make(folder, **changes)
    with pytest.raises(ShardError, match=r"'paug\.json' is missing"):
        run(folder, mode="online", release="dfndr-2b", **changes)
    strong = run(folder, mode="online", **changes)[0]
    assert strong["teacher_view"].shape == (4, 3, 224, 224)


def test_damaged_held_out_pairs_are_not_skipped(folder: Path, tmp_path: Path) -> None:
    made = make_sample(0)
    write_folder(tmp_path, [[replace(made, members={**made.members, "jpg": b"no"})]])
    with pytest.raises(ShardError, match=r"00000000\.tar: sample .* of the held-out data"):
        list(make(folder, val=tmp_path).val_dataloader())


def test_rejected_pairs_are_told_at_the_end(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = [make_sample(number) for number in range(6)]
    made[3].members["txt"] = b" "
    write_folder(tmp_path / "train", [made])
    noted = tmp_path / "elsewhere.jsonl"
    data = make(folder, shards=tmp_path / "train", quarantine=noted)
    assert len(list(data.train_dataloader())) == 6
    data.teardown("fit")
    assert "1 of 6 pairs rejected: captions" in caplog.text
    assert noted.is_file()
    assert not (tmp_path / "train/quarantine.jsonl").exists()


def test_small_images_are_passed_over_and_counted_apart(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    made = sorted((make_sample(number) for number in range(6)), key=lambda one: min(one.size))
    least = min(made[3].size)
    assert min(made[2].size) < least  # else fewer than half would be small
    made[0].members["txt"] = made[5].members["txt"] = b" "  # the small one is never looked into
    write_folder(tmp_path / "train", [made])
    seen: list[list[str]] = []
    for workers in (0, 1):
        noted = tmp_path / f"{workers}.jsonl"
        data = make(
            folder,
            shards=tmp_path / "train",
            quarantine=noted,
            min_image_size=least,
            max_bad_fraction=0.2,
            workers=workers,
        )
        seen.append([key for batch in data.train_dataloader() for key in batch["keys"]])
        assert set(seen[-1]) == {made[3].uid, made[4].uid}
        assert [json.loads(line)["key"] for line in noted.read_text().splitlines()] == [made[5].uid]
        data.teardown("fit")
    assert seen[0] == seen[1]
    pattern = r"(\d+) of (\d+) pairs read passed over: .* data\.min_image_size=(\d+)"
    told = [tuple(map(int, found)) for found in re.findall(pattern, caplog.text)]
    assert len(told) == 2
    assert told[0] == told[1]
    small, read, told_least = told[0]
    assert told_least == least
    assert small >= 12  # half of the places, and the substitutes that were looked at
    assert read - small >= 24 + 4  # those taken, and the bad pair in each of four epochs


def test_other_teachers_are_refused(folder: Path) -> None:
    assert make(folder, teacher_dims=(6, 4)).info == INFO
    with pytest.raises(ValueError, match=r"teacher_dims is \[10\], the teachers of .* \[6, 4\]"):
        make(folder, teacher_dims=(10,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "data.batch_size must be >= 1, got 0"),
        ({"workers": -1}, "data.workers must be >= 0"),
        ({"min_image_size": -1}, "data.min_image_size must be >= 0"),
        ({"min_image_size": 1000}, r"no good sample at all; image size: \d+ x \d+ pixels"),
        ({"max_bad_fraction": 1.0}, r"data.max_bad_fraction must be in \[0, 1\), got 1\.0"),
        ({"model": "s9"}, "data.model must be one of s0, s1, s2, b, tiny, got 's9'"),
        ({"total_steps": 5}, "data.total_steps is 5, the run has 6 steps"),
        ({"batch_size": 3, "accum": 2}, "must be a multiple of 2 .*, got 3"),
        ({"release": "datacompdr-1b"}, "leave release out"),
    ],
)
def test_bad_options(folder: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(folder, **changes)

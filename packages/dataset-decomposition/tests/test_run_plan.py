"""Steps left out of a run, and a new plan in mid-run: exact row ids against plain bookkeeping."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dataset_decomposition.data import DecompositionData
from dataset_decomposition.prepare import prepare
from dataset_decomposition.run_plan import parse_ranges
from tenfold.callbacks import NonFiniteError

STEPS = 40


def write_data(folder: Path, *, seed: int = 0) -> Path:
    """Prepare 300 documents of 1 to 400 bytes, buckets D_3 to D_6."""
    lengths = np.random.Generator(np.random.Philox(key=5)).integers(1, 400, 300)
    (folder / "text").mkdir(parents=True, exist_ok=True)
    for number, length in enumerate(lengths.tolist()):
        (folder / "text" / f"{number:03d}.txt").write_text(chr(97 + number % 26) * length)
    out = folder / f"data-{seed}"
    prepare([str(folder / "text")], out, min_bucket=3, max_bucket=6, seed=seed)
    return out


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("documents"))


def make(
    path: Path, *, step: int = 0, state: dict[str, Any] | None = None, **changes: Any
) -> DecompositionData:
    """Make the data module of one rank, its trainer at `step`."""
    ranks = {name: changes.pop(name, default) for name, default in (("rank", 0), ("world", 1))}
    accum = changes.pop("accum", 1)
    options: dict[str, Any] = {"mixture": "natural", "cycles": 2, "workers": 0, **changes}
    data = DecompositionData(path, **{"tokens_per_step": 256, "total_steps": STEPS, **options})
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        global_step=step,
        global_rank=ranks["rank"],
        world_size=ranks["world"],
        accumulate_grad_batches=accum,
        val_check_interval=1.0,
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(max_steps=STEPS)),
    )
    data.setup("fit")
    if state is not None:
        data.load_state_dict(json.loads(json.dumps(state)))  # a checkpoint holds plain values
    return data


def keys(data: DecompositionData) -> list[list[str]]:
    return [batch["keys"] for batch in data.train_dataloader()]


def saved(path: Path, step: int, **options: Any) -> dict[str, Any]:
    """Return the state of a run that stands at `step`."""
    data = make(path, step=step, **options)
    data.train_dataloader()
    return data.state_dict()


def refused(path: Path, message: str, *, step: int = 12, state: Any, **options: Any) -> None:
    with pytest.raises(ValueError, match=message):
        make(path, step=step, state=state, **options).train_dataloader()


def flat(batches: list[list[str]]) -> list[str]:
    return [key for batch in batches for key in batch]


def two_ranks(path: Path, **options: Any) -> list[list[str]]:
    """Return the global batches of two ranks with two micro-batches each."""
    shares = []
    for rank in range(2):
        micro = keys(make(path, rank=rank, world=2, accum=2, **options))
        shares.append([micro[n] + micro[n + 1] for n in range(0, len(micro), 2)])
    return [one + other for one, other in zip(*shares, strict=True)]


def test_a_fresh_run_without_steps_is_the_plan_minus_those_steps(prepared: Path) -> None:
    plan = keys(make(prepared))
    data = make(prepared, skip_steps=["5:8", "20"])
    assert keys(data) == plan[:5] + plan[8:20] + plan[21:]
    assert data.trainer.fit_loop.epoch_loop.max_steps == STEPS - 4  # type: ignore[union-attr]
    assert keys(make(prepared, skip_steps=["39", "0"])) == plan[1:39]


@pytest.mark.parametrize(
    ("step", "before", "now"),
    [
        (10, [], ["10:13"]),  # the usual case: back to a checkpoint, without the spike
        (10, [], ["25:30", "12"]),
        (0, [], ["0:2"]),
        (10, ["3:5"], ["3:5", "12:14"]),  # step 10 of the run is step 12 of the plan
        (10, ["3:5", "12:14"], ["3:5"]),  # they lie ahead, so they may come back
        (10, ["3:5", "30"], ["3:4", "4:5", "20:21"]),
    ],
)
def test_a_resumed_run_leaves_out_what_lies_ahead(
    prepared: Path, step: int, before: list[str], now: list[str]
) -> None:
    straight = keys(make(prepared, skip_steps=now))
    state = saved(prepared, step, skip_steps=before)
    assert keys(make(prepared, step=step, state=state, skip_steps=now)) == straight[step:]
    resumed = two_ranks(prepared, step=step, state=state, skip_steps=now)
    assert resumed == straight[step:]


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        ([], ["8:12"], r"steps 8:10 are trained already, .* of step 8 or earlier"),
        (["3:5"], ["3:5", "11"], r"steps 11:12 are trained already"),
        (["3:5"], [], r"left out steps 3:5, which cannot be undone; keep them"),
        ([], ["30:41"], r"data\.skip_steps 30:41: .* beyond the plan's 40 steps"),
        ([], ["0:40"], "all 40 steps of the plan are left out"),
    ],
)
def test_the_past_cannot_change(
    prepared: Path, before: list[str], now: list[str], message: str
) -> None:
    state = saved(prepared, 10, skip_steps=before)
    with pytest.raises(ValueError, match=message):
        make(prepared, step=10, state=state, skip_steps=now).train_dataloader()


def test_a_run_that_has_followed_its_plan_is_done(prepared: Path) -> None:
    state = saved(prepared, 38, skip_steps=["7"])
    make(prepared, step=38, state=state, skip_steps=["7"]).train_dataloader()
    state = saved(prepared, 39, skip_steps=["7"])
    with pytest.raises(ValueError, match=r"nothing left to train: .* ends at step 39"):
        make(prepared, step=39, state=state, skip_steps=["7"]).train_dataloader()


@pytest.mark.parametrize("text", ["5-8", "a:b", "", ":", "5:", "-3", "1:2:3", "1.5", "٣"])
def test_texts_that_are_no_range_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"data\.skip_steps takes ranges a:b or single steps"):
        parse_ranges([text])


@pytest.mark.parametrize("text", ["8:5", "5:5"])
def test_empty_ranges_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"range {text} holds no step"):
        parse_ranges(["1:2", text])


def test_ranges_are_read() -> None:
    assert parse_ranges(["120:140", " 7 "]) == [(120, 140), (7, 8)]


NEW = {"curriculum": "uniform", "cycles": 1, "seed": 3, "new_plan_from_step": 12}


@pytest.mark.parametrize("skipped", [[], ["2:5", "11"]])
@pytest.mark.parametrize(
    "options", [{}, {"tokens_per_step": 512}, {"mixture": {"D_4": 1.0, "D_6": 9.0}}]
)
def test_a_new_plan_takes_the_rows_that_are_left(
    prepared: Path, skipped: list[str], options: dict[str, Any]
) -> None:
    # Rows of steps that were left out count as used: step 12 of the run is step 16 of the plan.
    used = flat(keys(make(prepared))[: 16 if skipped else 12])
    state = saved(prepared, 12, skip_steps=skipped)
    data = make(prepared, step=12, state=state, **{**NEW, **options})
    rest = keys(data)
    assert len(rest) == STEPS - 12
    assert len(data.train_dataloader()) == STEPS  # Lightning has counted 12 batches before
    assert len(flat(rest)) == len(set(flat(rest)))
    assert not set(flat(rest)) & set(used)
    assert two_ranks(prepared, step=12, state=state, **{**NEW, **options}) == rest


def test_a_new_plan_can_use_up_all_that_is_left(prepared: Path) -> None:
    state = saved(prepared, 12)
    used = set(flat(keys(make(prepared))[:12]))
    rows = {key: reader.num_rows for key, reader in make(prepared)._readers().items()}
    left = {f"{key}/{row}" for key, count in rows.items() for row in range(count)} - used
    steps = {}
    for key in rows:
        count = sum(one.startswith(f"{key}/") for one in left)
        steps[key] = float(count // (256 >> int(key[2:])))
    total = 12 + int(sum(steps.values()))
    options = {**NEW, "mixture": steps, "total_steps": total}
    rest = flat(keys(make(prepared, step=12, state=state, **options)))
    assert set(rest) < left
    assert len(left) - len(rest) < sum(256 >> k for k in range(3, 7))
    message = (
        r"data\.new_plan_from_step=12, over the rows that are left: .* set repeat to reshuffle"
    )
    refused(prepared, message, state=state, **{**options, "total_steps": total + 6})


def test_a_run_with_a_new_plan_resumes_and_leaves_out_steps(prepared: Path) -> None:
    state = saved(prepared, 12, skip_steps=["2:5"])
    straight = keys(make(prepared, step=12, state=state, **NEW))
    # The same from its own checkpoint, with other ranks, workers' share and micro-batches.
    data = make(prepared, step=20, state=state, **NEW)
    data.train_dataloader()
    later = data.state_dict()
    assert keys(make(prepared, step=20, state=later, **NEW)) == straight[8:]
    assert two_ranks(prepared, step=20, state=later, **NEW) == straight[8:]
    # Steps of the new plan are numbered from where it begins.
    options = {**NEW, "skip_steps": ["21:23"]}
    without = keys(make(prepared, step=20, state=later, **options))
    assert without == straight[8:9] + straight[11:]
    # And a third plan knows the rows of both.
    third = {**NEW, "seed": 4, "new_plan_from_step": 20}
    rest = flat(keys(make(prepared, step=20, state=later, **third)))
    before = flat(keys(make(prepared))[:15]) + flat(straight[:8])
    assert len(rest) == len(set(rest))
    assert not set(rest) & set(before)
    assert len(keys(make(prepared, step=20, state=later, **third))) == 20


def test_with_repeats_a_new_plan_first_takes_what_is_left(prepared: Path) -> None:
    options = {"repeat": "reshuffle", "total_steps": 400}
    state = saved(prepared, 60, **options)
    used = flat(keys(make(prepared, **options))[:60])
    options |= {**NEW, "new_plan_from_step": 60}
    rest = flat(keys(make(prepared, step=60, state=state, **options)))
    for key, reader in make(prepared)._readers().items():
        mine = [one for one in used if one.startswith(f"{key}/")]
        assert len(mine) == len(set(mine))  # the first pass is not over at step 60
        batch = 256 >> int(key[2:])
        fresh = (reader.num_rows - len(mine)) // batch * batch
        following = [one for one in rest if one.startswith(f"{key}/")][:fresh]
        assert len({*mine, *following}) == len(mine) + len(following)


def test_what_contradicts_the_checkpoint_is_refused(prepared: Path) -> None:
    state = saved(prepared, 12)
    remedy = r"\(seed: 42 -> 3\); .* or go on with data\.new_plan_from_step=12: a new plan"
    refused(prepared, remedy, state=state, seed=3)
    other_step = "new_plan_from_step=11, but the checkpoint stands at step 12 .*; set it to 12"
    refused(prepared, other_step, state=state, **{**NEW, "new_plan_from_step": 11})
    early = r"skip_steps 3:5 lies before data\.new_plan_from_step=12; take it out"
    refused(prepared, early, state=state, **NEW, skip_steps=["3:5"])
    no_step = r"data\.new_plan_from_step=12, .*no step left of trainer\.max_steps=12"
    refused(prepared, no_step, state=state, **NEW, total_steps=12)
    refused(prepared, "follows the checkpoint of that step; resume from it", state=None, **NEW)
    with pytest.raises(ValueError, match=r"data\.new_plan_from_step must be >= 1, got 0"):
        make(prepared, **{**NEW, "new_plan_from_step": 0})


def test_a_run_with_a_new_plan_must_keep_the_option(prepared: Path) -> None:
    data = make(prepared, step=20, state=saved(prepared, 12), **NEW)
    data.train_dataloader()
    later = data.state_dict()
    options = {**NEW, "new_plan_from_step": None}
    message = r"follows a plan made at step 12; go on with data\.new_plan_from_step=12, or 20"
    refused(prepared, message, step=20, state=later, **options)
    refused(prepared, r"\(seed: 3 -> 5\); .*step=20: a", step=20, state=later, **{**NEW, "seed": 5})


def test_a_changed_data_set_is_named_and_counts_as_unused(
    prepared: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = write_data(tmp_path, seed=1)  # as many rows, in another order
    state = saved(prepared, 12)
    refused(other, "data set has changed .* all rows of the changed one then count", state=state)
    data = make(other, step=12, state=state, **NEW)
    assert len(keys(data)) == STEPS - 12
    assert "all of its rows count as unused" in caplog.text
    assert data.run_plan is not None
    assert data.run_plan.whole.continued == {}


def test_after_a_nan_the_step_of_the_plan_is_named(
    prepared: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = make(prepared, skip_steps=["2:5", "20"])
    key = keys(data)[17][0].partition("/")[0]
    data.on_exception(NonFiniteError("loss is not finite at step 17", step=17))
    expected = f"optimiser step 17 trained step 21 of the plan, bucket {key}; go on without it with"
    assert f"{expected} --resume auto --data.skip_steps+=21:22" in caplog.text
    caplog.clear()
    data.on_exception(ValueError("something else"))
    assert not caplog.records

"""The tests' own tools: what they must notice."""

import copy
import queue
import time
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from tenfold import checkpoints
from tenfold.testing import (
    _collect,  # pyright: ignore[reportPrivateUsage]
    assert_same_run,
    resume_equals_straight,
    run_ranks,
)


def sleep(rank: int, world_size: int) -> None:
    time.sleep(600)


def test_ranks_that_do_not_answer_are_named() -> None:
    with pytest.raises(RuntimeError, match=r"ranks \[0, 1\] did not answer within 0\.01 s"):
        run_ranks(sleep, 2, timeout_s=0.01)


def test_an_answer_is_kept_when_another_rank_stays_silent() -> None:
    results: queue.Queue[tuple[int, bytes, str | None]] = queue.Queue()
    results.put((1, b"", "Traceback: the reason"))
    assert _collect(cast(Any, results), 2, 0.0) == {1: (b"", "Traceback: the reason")}


METRICS = "step,train/loss,time/samples_per_s,mem/peak_gib\n0,3,1,1\n4,2,1,1\n5,,7,7\n8,1,1,1\n"


def write_run(
    folder: Path, *, momentum: float = 0.5, best: int = 4, metrics: str = METRICS
) -> Path:
    """Write what is compared of a run of eight steps."""
    optimiser = {"state": {0: {"momentum_buffer": torch.tensor([momentum])}}, "param_groups": []}
    state = {
        "global_step": 8,
        "state_dict": {"weight": torch.tensor([1.0])},
        "optimizer_states": [optimiser],
        "lr_schedulers": [{"last_epoch": 8}],
    }
    checkpoints.save(folder / "checkpoints" / "step-00000008.ckpt", state)
    checkpoints.save(folder / "checkpoints" / f"best-{best:08d}.ckpt", copy.deepcopy(state))
    (folder / "metrics.csv").write_text(metrics)
    return folder


def test_times_and_earlier_metrics_need_not_be_the_same(tmp_path: Path) -> None:
    other = "step,train/loss,time/samples_per_s,mem/peak_gib\n0,9,1,1\n4,2,9,9\n8,,9,9\n8,1,,\n"
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two", metrics=other)
    assert_same_run(one, two, after=4)
    with pytest.raises(AssertionError):
        assert_same_run(one, two, after=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"momentum": 0.25}, r"optimizer_states\[0\]\.state\.0\.momentum_buffer differs"),
        ({"best": 8}, r"the best checkpoint\[0\] differs: best-00000004.ckpt and best-00000008"),
        (
            {"metrics": METRICS.replace("8,1", "8,1.5")},
            r"metrics\.csv\.8\.train/loss differs: 1\.0 and 1\.5",
        ),
        (
            {"metrics": METRICS.replace("8,1", "8,")},
            r"metrics\.csv differs: dict_keys\(\[4, 8\]\) and dict_keys\(\[4\]\)",
        ),
    ],
)
def test_a_difference_between_runs_is_found(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    one, other = write_run(tmp_path / "one"), write_run(tmp_path / "other", **changes)
    with pytest.raises(AssertionError, match=message):
        assert_same_run(one, other, after=4)


def test_runs_without_metrics_to_compare_are_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    with pytest.raises(AssertionError, match="no metrics from step 9 on: nothing to compare"):
        assert_same_run(run, run, after=9)


def test_a_resume_from_the_last_step_proves_nothing(toy: Path) -> None:
    from toy_member.cli import APP

    words = ["fit", "--config", "tiny_cpu", "--trainer.max_steps=5", "--checkpoint.keep=9"]
    with pytest.raises(AssertionError, match="ends at step 5: nothing is left to resume after 5"):
        resume_equals_straight(APP, words, Path(), stop=5)

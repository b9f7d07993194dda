"""Steps of each bucket: shares, rounding, and buckets that give none."""

import math
import re

import pytest

from dataset_decomposition.mixture import Mixture, apportion, mixture_steps, step_shares
from tenfold.bucketing import Bucket

# Batches of 64 tokens: 10 and 30 of them; D_5 has one sequence, one batch needs two.
BUCKETS = [Bucket("D_3", 8, 80), Bucket("D_4", 16, 120), Bucket("D_5", 32, 1), Bucket("D_6", 64, 0)]


def steps(
    mixture: Mixture, buckets: list[Bucket] = BUCKETS, *, total: int = 20, tokens: int = 64
) -> dict[str, int]:
    return mixture_steps(mixture, buckets, total_steps=total, tokens_per_step=tokens)


def test_shares() -> None:
    available = {"D_3": 10, "D_4": 0, "D_5": 30}
    assert step_shares("natural", available) == {"D_3": 10.0, "D_4": 0.0, "D_5": 30.0}
    assert step_shares("equal", available) == {"D_3": 1.0, "D_4": 0.0, "D_5": 1.0}
    assert step_shares({"D_5": 2}, available) == {"D_3": 0.0, "D_4": 0.0, "D_5": 2.0}
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="finite shares >= 0 with a positive sum"):
            step_shares({"D_3": bad, "D_5": 2.0}, available)
    with pytest.raises(ValueError, match="positive sum"):
        step_shares({"D_3": 0.0}, available)


def test_apportion_keeps_the_total_and_prefers_the_largest_remainder() -> None:
    assert apportion({"a": 1.0, "b": 1.0, "c": 1.0}, 5) == {"a": 2, "b": 2, "c": 1}
    assert apportion({"a": 0.3, "b": 0.7}, 2) == {"a": 1, "b": 1}
    assert sum(apportion({"a": 0.3, "b": 17.0, "c": 5.5}, 997).values()) == 997


@pytest.mark.parametrize(
    ("mixture", "expected"),
    [("natural", [5, 15, 0, 0]), ("equal", [10, 10, 0, 0]), ({"D_3": 3, "D_4": 1}, [15, 5, 0, 0])],
)
def test_steps_of_each_mixture(mixture: Mixture, expected: list[int]) -> None:
    assert steps(mixture) == dict(zip(("D_3", "D_4", "D_5", "D_6"), expected, strict=True))


@pytest.mark.parametrize("mixture", ["natural", "equal"])
def test_one_warning_names_all_buckets_left_out_and_why(
    mixture: Mixture, caplog: pytest.LogCaptureFixture
) -> None:
    assert steps(mixture, total=1) in ({"D_3": a, "D_4": 1 - a, "D_5": 0, "D_6": 0} for a in (0, 1))
    lost = ("D_3", "0.25") if mixture == "natural" else ("D_4", "0.5")
    few = (
        "D_5 is too small for one batch: have 1 sequences of 32 tokens, need 2 (tokens_per_step=64)"
    )
    rounded = f"{lost[0]} rounds to 0 steps: have {lost[1]} of 1 steps, need 1"
    assert caplog.messages == [f"data.mixture={mixture} leaves buckets out: {rounded}; {few}"]


def test_nothing_is_logged_when_no_data_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    steps("natural", [bucket for bucket in BUCKETS if bucket.key != "D_5"])
    steps({"D_3": 1.0})  # what the user leaves out is no surprise
    assert not caplog.messages


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        (
            {"D_3": 1.0, "D_5": 1e-9},
            (
                "asks for D_5, but D_5 is too small for one batch: have 1 sequences of 32 tokens, "
                "need 2 (tokens_per_step=64); lower data.tokens_per_step or "
                "set data.mixture.D_5 to 0"
            ),
        ),
        ({"D_6": 1.0}, "D_6 is too small for one batch: have 0 sequences of 64 tokens, need 1"),
        (
            {"D_3": 0.01, "D_4": 0.99},
            (
                "asks for D_3, but D_3 rounds to 0 steps: have 0.2 of 20 steps, need 1; raise its "
                "share, train for 100 steps or set data.mixture.D_3 to 0"
            ),
        ),
    ],
)
def test_a_share_that_gives_no_step_is_refused(mixture: Mixture, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        steps(mixture)


def test_the_remedies_help() -> None:
    assert steps({"D_3": 0.01, "D_4": 0.99}, total=100)["D_3"] == 1
    assert steps({"D_3": 1.0, "D_5": 1.0}, tokens=32)["D_5"] == 10


@pytest.mark.parametrize("mixture", ["natural", "equal", {"D_5": 1.0}])
def test_buckets_that_fill_no_batch_are_an_error_whatever_the_mixture(mixture: Mixture) -> None:
    message = r"no bucket fills one batch: D_5 .*have 1 .*need 2.*D_6 .*have 0.*tokens_per_step"
    with pytest.raises(ValueError, match=message):
        steps(mixture, BUCKETS[2:])

"""Measurements are taken once a revision."""

from pathlib import Path

import pytest
import torch

from tenfold import measurements
from tenfold.measurements import Measurements, by_arm, one_thread


@pytest.fixture(params=["abc1234", "abc1234-dirty", None])
def revision(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str | None:
    monkeypatch.setattr(measurements, "git_revision", lambda: request.param)
    return request.param


def test_only_a_clean_revision_is_read_again(tmp_path: Path, revision: str | None) -> None:
    calls: list[str] = []

    def measure(name: str) -> dict[str, float]:
        calls.append(name)
        return {"seconds": len(calls)}

    kept = Measurements(tmp_path)
    assert kept.get("seed 0, arm: a", lambda: measure("a")) == {"seconds": 1.0}
    again = Measurements(tmp_path).get("seed 0, arm: a", lambda: measure("a"))
    assert again == {"seconds": 1.0 if revision == "abc1234" else 2.0}
    kept.get("seed 1, arm: a", lambda: measure("b"))
    assert calls[-1] == "b"


def test_another_revision_measures_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, name in enumerate(("aaa", "bbb")):
        monkeypatch.setattr(measurements, "git_revision", lambda name=name: name)
        assert Measurements(tmp_path).get("x", lambda n=number: {"n": n}) == {"n": number}


def test_a_damaged_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurements, "git_revision", lambda: "aaa")
    kept = Measurements(tmp_path)
    kept.get("x", lambda: {"n": 1})
    (tmp_path / "aaa" / "x.json").write_text("[1, 2")
    with pytest.raises(ValueError, match=r"x\.json holds no measurement"):
        kept.get("x", lambda: {"n": 1})


def count_threads_and_fail() -> None:
    with one_thread():
        raise RuntimeError(torch.get_num_threads())


def test_one_thread_is_given_back() -> None:
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError, match=r"^1$"):
        count_threads_and_fail()
    assert torch.get_num_threads() == before


def test_by_arm_keeps_the_order_of_seeds() -> None:
    seeds = [{"accuracy": {"a": 1.0, "b": 3.0}}, {"accuracy": {"a": 2.0, "b": 4.0}}]
    assert by_arm(seeds) == {"accuracy": {"a": [1.0, 2.0], "b": [3.0, 4.0]}}

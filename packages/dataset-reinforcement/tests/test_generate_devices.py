"""Where teachers run: devices by name, shared by the workers of a pool."""

import multiprocessing
from contextlib import nullcontext

import pytest
import torch

from dataset_reinforcement.generate import _check_choices
from dataset_reinforcement.shard_job import ShardTask, choose_device


@pytest.mark.parametrize(
    ("count", "device", "refused"),
    [
        (0, "cuda", True),
        (1, "cuda:9", True),
        (1, "cuda:1", True),
        (1, "cuda:", True),
        (1, "cuda:-1", True),
        (1, "cuda", False),
        (2, "cuda:1", False),
        (0, "cpu", False),
    ],
)
def test_a_device_must_be_one_of_those_that_torch_sees(
    monkeypatch: pytest.MonkeyPatch, count: int, device: str, refused: bool
):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    message = rf"devices has '{device}', which is not here: .* torch sees {count} GPUs"
    with pytest.raises(ValueError, match=message) if refused else nullcontext():
        _check_choices("float16", 4, [device], workers=1)


def test_workers_of_a_pool_share_the_devices(monkeypatch: pytest.MonkeyPatch):
    task = ShardTask("shard", 0, 1, 0, 1)
    found = []
    for number in range(1, 5):
        monkeypatch.setattr(multiprocessing.current_process(), "name", f"SpawnProcess-{number}")
        found.append(choose_device(["cuda:0", "cuda:1"], task))
    assert found == ["cuda:1", "cuda:0", "cuda:1", "cuda:0"]
    assert choose_device(["cpu"], task) == "cpu"

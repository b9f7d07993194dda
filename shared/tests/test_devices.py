"""Devices by name, shared by the workers of a pool."""

import multiprocessing
from contextlib import nullcontext

import pytest
import torch

from tenfold.devices import check_devices, choose_device, worker_device


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
        check_devices([device], workers=1)


@pytest.mark.parametrize(
    ("devices", "message"),
    [([], "devices is empty"), (["cpu", "cpu"], "2 devices need as many workers, got workers 1")],
)
def test_every_worker_has_a_device_and_every_device_a_worker(devices: list[str], message: str):
    with pytest.raises(ValueError, match=message):
        check_devices(devices, workers=1)


def test_workers_of_a_pool_share_the_devices(monkeypatch: pytest.MonkeyPatch):
    found = []
    for number in range(1, 5):
        monkeypatch.setattr(multiprocessing.current_process(), "name", f"SpawnProcess-{number}")
        found.append(worker_device(["cuda:0", "cuda:1"]))
    assert found == ["cuda:1", "cuda:0", "cuda:1", "cuda:0"]
    assert worker_device(["cpu"]) == "cpu"


def test_auto_is_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert choose_device("auto") == torch.device("cuda")
    with pytest.raises(ValueError, match="device cuda:1 is not there: torch sees 1 GPUs"):
        choose_device("cuda:1")
    with pytest.raises(ValueError, match=r"device must be auto, cpu, cuda .* got 'abacus'"):
        choose_device("abacus")

"""Parts of a study: the corrupted set, the clock of steps."""

from pathlib import Path
from time import sleep

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dataset_reinforcement.corrupted_accuracy import SEVERITY, corrupted_set, corrupted_top1
from dataset_reinforcement.corruptions import LEVELS, CorruptedImages
from dataset_reinforcement.images import open_images
from dataset_reinforcement.step_clock import StepClock


@pytest.fixture
def spec(tmp_path: Path) -> str:
    """Six images of two classes: dark ones and bright ones."""
    path = tmp_path / "images.npz"
    rng = np.random.default_rng(0)
    labels = np.array([0, 1, 0, 1, 1, 0])
    images = rng.integers(0, 40, (6, 8, 8, 3)) + 180 * labels[:, None, None, None]
    np.savez(path, images=images.astype(np.uint8), labels=labels, classes=["dark", "bright"])
    return str(path)


def test_every_image_is_under_every_corruption(spec: str) -> None:
    found = corrupted_set(spec)
    clean = open_images(spec)
    assert found.images.shape == (len(LEVELS) * 6, 3, 8, 8)
    for row, name in enumerate(LEVELS):
        source = CorruptedImages(clean, name, SEVERITY)
        assert torch.equal(found.images[6 * row + 4], source.load(4))
        assert found.labels[6 * row : 6 * row + 6].tolist() == [0, 1, 0, 1, 1, 0]


class Brightness(nn.Module):
    """Answers bright from a threshold on; in training mode always dark."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, images: Tensor) -> Tensor:
        bright = images.float().mean(dim=(1, 2, 3)) > self.threshold
        return torch.stack([~bright, bright & (not self.training)], dim=1).float()


def test_accuracy_is_the_share_of_right_answers_in_evaluation_mode(spec: str) -> None:
    assert corrupted_top1(Brightness(110), spec, device="cpu") == 1  # type: ignore[arg-type]
    always_dark = Brightness(999)
    assert corrupted_top1(always_dark, spec, device="cpu") == 0.5  # type: ignore[arg-type]


def test_the_clock_tells_waiting_from_work() -> None:
    clock = StepClock("cpu")
    for _ in range(5):
        sleep(0.03)
        clock.on_train_batch_start()
        sleep(0.01)
        clock.on_train_batch_end()
    clock.on_train_end()
    steps = clock._steps
    spans = [end - start for start, end in steps]  # type: ignore[operator]
    whole = steps[-1][1] - steps[0][0]  # type: ignore[operator]
    assert clock.step_seconds == pytest.approx(whole / 5)
    assert clock.busy_share == pytest.approx(sum(spans) / whole)
    assert 0 < clock.busy_share < 1

"""Which views may be drawn at which part of a run."""

import numpy as np
import pytest

from dataset_reinforcement.config import CurriculumConfig
from dataset_reinforcement.curriculum import admissible_views, open_share

ENTROPIES = np.array([0.7, 0.1, 0.9, 0.3, 0.3, 2.0, 0.0, 1.0], dtype=np.float16)
EASIEST_FIRST = [6, 1, 3, 4, 0, 2, 7, 5]


def views(progress: float, **options: object) -> list[int]:
    config = CurriculumConfig(**options)
    return admissible_views(ENTROPIES, config, progress).tolist()


def test_the_open_share_is_linear_up_to_the_ramp() -> None:
    config = CurriculumConfig(order="easy_to_hard", start=0.2, ramp=0.5)
    for progress in (0.0, 0.1, 0.25, 0.49):
        assert open_share(config, progress) == pytest.approx(0.2 + 0.8 * progress / 0.5)
    assert open_share(config, 0.5) == open_share(config, 1.0) == 1.0
    assert open_share(CurriculumConfig(ramp=0.0), 0.0) == 1.0


def test_easy_views_come_first_and_hard_ones_later() -> None:
    easy = {"order": "easy_to_hard", "start": 0.25, "ramp": 0.5}
    assert views(0.0, **easy) == EASIEST_FIRST[:2]
    assert views(0.25, **easy) == EASIEST_FIRST[:5]
    assert views(0.5, **easy) == views(1.0, **easy) == EASIEST_FIRST


def test_hard_views_come_first_and_easy_ones_later() -> None:
    hard = {"order": "hard_to_easy", "start": 0.25, "ramp": 0.5}
    assert views(0.0, **hard) == EASIEST_FIRST[-2:]
    assert views(0.25, **hard) == EASIEST_FIRST[-5:]
    assert views(1.0, **hard) == EASIEST_FIRST


def test_a_band_stays_and_holds_a_view_at_least() -> None:
    assert views(0.0, order="band", band=(0.25, 0.75)) == EASIEST_FIRST[2:6]
    assert views(0.9, order="band", band=(0.25, 0.75)) == EASIEST_FIRST[2:6]
    assert views(0.0, order="band", band=(0.5, 0.51)) == EASIEST_FIRST[4:5]
    assert views(0.0, order="band", band=(0.999, 1.0)) == EASIEST_FIRST[-1:]


def test_one_view_is_always_open() -> None:
    config = CurriculumConfig(order="easy_to_hard", start=0.01)
    assert admissible_views(np.array([0.4]), config, 0.0).tolist() == [0]

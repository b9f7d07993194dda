"""One step on stored embeddings against the same step beside the live teachers."""

from pathlib import Path

import torch

from mobileclip.config import LossConfig, Mode
from mobileclip.demo_data import TEST, store_embeddings, teacher_ensemble
from mobileclip.demo_training import TrainingSetup, train_clip
from mobileclip.generate.teacher_config import TeacherEnsembleConfig

STEPS = 3


def largest_difference(demo: Path, exact: Path, *, seed: int = 0, members: int = 2) -> float:
    """Return the largest difference of a weight after three steps of both ways.

    Args:
        demo: Folder of the verb `demo-data`.
        exact: Where the pairs are stored with float32 embeddings; bfloat16 would round them.
        seed: Key of the student and its pairs.
        members: Teachers.
    """
    store_embeddings(demo, exact, members=members, views=2, seed=0, format="npz")
    stored = _weights(demo, exact, "dr", None, seed)
    online = _weights(demo, exact, "online", teacher_ensemble(demo, members=members), seed)
    return max(float((a - b).abs().max()) for a, b in zip(stored, online, strict=True))


def _weights(
    demo: Path, shards: Path, mode: Mode, teachers: TeacherEnsembleConfig | None, seed: int
) -> list[torch.Tensor]:
    module = train_clip(
        TrainingSetup(steps=STEPS),
        LossConfig(mode=mode),
        shards,
        val=demo / TEST,
        seed=seed,
        teachers=teachers,
    )
    return [weight.detach() for weight in module.network.parameters()]

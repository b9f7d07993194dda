"""One step on stored embeddings against the same step beside the live teachers."""

from pathlib import Path

import torch

from mobileclip.config import LossConfig, Mode, ModelConfig
from mobileclip.data import ReinforcedData
from mobileclip.demo_data import DEMO_AUGMENT, TEST, demo_optim, store_embeddings, teacher_ensemble
from mobileclip.generate.teacher_config import TeacherEnsembleConfig
from mobileclip.module import MobileCLIPModule
from tenfold.bare_trainer import bare_trainer
from tenfold.optim import OptimConfig

STEPS = 3
BATCH_SIZE = 128


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
    torch.manual_seed(seed)
    module = MobileCLIPModule(
        ModelConfig(name="tiny"),
        LossConfig(mode=mode),
        demo_optim(OptimConfig, STEPS),
        teachers=teachers,
    )
    data = ReinforcedData(
        shards,
        val=demo / TEST,
        model="tiny",
        mode=mode,
        batch_size=BATCH_SIZE,
        total_steps=STEPS,
        augment=DEMO_AUGMENT,
        seed=seed,
        workers=0,
    )
    bare_trainer(STEPS).fit(module, datamodule=data)
    return [weight.detach() for weight in module.network.parameters()]

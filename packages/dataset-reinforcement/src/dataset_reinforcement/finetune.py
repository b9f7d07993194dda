"""Fine-tuning: the training of `fit` from a trained body, with a new head (spec 2.7: ft, ft+)."""

from dataset_reinforcement.config import LossConfig, ModelConfig
from dataset_reinforcement.module import ReinforcementModule
from dataset_reinforcement.teacher_config import TeacherConfig
from tenfold.ema_config import EmaConfig
from tenfold.optim import OptimConfig


class FinetuneModule(ReinforcementModule):
    """Classification from the body of another run; the optimiser is by default the official one.

    Args:
        model: The student, and in `init_from` what it starts from: a run folder or checkpoint of
            `fit`, safetensors, or a torch file of tensors such as timm's.
        loss: Way of training and its terms.
        optim: Optimiser and its schedule.
        ema: Moving average of the weights.
        teacher: Members of the ensemble; for `kd` only.

    Raises:
        ValueError: There is nothing to start from.
    """

    def __init__(
        self,
        model: ModelConfig = ModelConfig(),
        loss: LossConfig = LossConfig(),
        optim: OptimConfig = OptimConfig(
            lr=0.002, total_steps=1, name="sgd", nesterov=False, weight_decay=5e-4, decay_all=True
        ),
        ema: EmaConfig = EmaConfig(),
        teacher: TeacherConfig | None = None,
    ) -> None:
        if model.init_from is None:
            raise ValueError(
                "model.init_from must name what finetune starts from: a run folder or checkpoint "
                "of `fit`, safetensors, or a torch file of weights; without one it is `fit`"
            )
        super().__init__(model, loss, optim, ema, teacher)

"""A trainer that does nothing but train: for measurements and tests.

Not here: what a user's training has around it (`tenfold.cli`).
"""

from typing import Any

import lightning


def bare_trainer(steps: int = -1, **changes: Any) -> lightning.Trainer:
    """Return a trainer on one CPU without validation, logger, checkpoints, bar or summary.

    Args:
        steps: Optimiser steps; no limit by default.
        **changes: Other arguments of `lightning.Trainer`, or other values of those set here.
    """
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_steps": steps,
        "limit_val_batches": 0,
        "use_distributed_sampler": False,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return lightning.Trainer(**(settings | changes))

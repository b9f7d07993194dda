"""Lightning callbacks that every training gets from `tenfold.cli`."""

from tenfold.callbacks.checkpointing import AtomicCheckpointIO, RunCheckpoint
from tenfold.callbacks.metrics import LossCurve, MetricsFile
from tenfold.callbacks.nan_guard import NanGuard, NonFiniteError
from tenfold.callbacks.progress import ProgressBar, ProgressLines, Throughput
from tenfold.callbacks.signals import Preempted
from tenfold.callbacks.step_seed import StepSeed

__all__ = [
    "AtomicCheckpointIO",
    "LossCurve",
    "MetricsFile",
    "NanGuard",
    "NonFiniteError",
    "Preempted",
    "ProgressBar",
    "ProgressLines",
    "RunCheckpoint",
    "StepSeed",
    "Throughput",
]

"""Generate a store in a forked process that dies, without clean-up, at the n-th change on disk."""

from functools import partial
from pathlib import Path

from teacher_files import OPTIONS

from dataset_reinforcement.generate import generate
from dataset_reinforcement.teacher_config import TeacherConfig
from tenfold.testing_kills import run_killed


def run(images: Path, out: Path, teacher: TeacherConfig, number: int, *, append: bool) -> int:
    """Generate in a process that dies at change `number`, never for 0.

    Returns:
        The number of changes of a whole run; raises when it did not die as it should.
    """
    work = partial(generate, str(images), out, teacher, append=append, **OPTIONS)
    return run_killed(work, kill_at=number, preload=["dataset_reinforcement.generate"])

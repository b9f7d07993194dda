"""Options of `generate` that are refused before anything is opened."""

from typing import Literal, get_args

from dataset_reinforcement.store.columns import ProbDtype
from dataset_reinforcement.store.info import MAX_SHARD_IMAGES
from dataset_reinforcement.teacher_config import TeacherConfig
from dataset_reinforcement.variants import variant as find_variant
from tenfold.augment.config import AugmentConfig


def choose_augment(
    variant: str, augment: AugmentConfig | None, *, size: int, compat: Literal["apple"] | None
) -> AugmentConfig:
    """Return an augmentation of the user's own, or the named one.

    Raises:
        ValueError: There is no such variant, or `compat` is given for one's own.
    """
    if augment is None:
        return find_variant(variant, size=size, compat=compat)
    if compat is not None:
        raise ValueError(
            f"compat is {compat}, which is for named variants: set mixup_owner and "
            "translate_pixels of augment instead"
        )
    return augment


def check_numbers(*, first_view: int, **numbers: int) -> None:
    """Refuse numbers below 1, and a first view below 0.

    Raises:
        ValueError: There is one.
    """
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")
    if first_view < 0:
        raise ValueError(f"first_view must be >= 0, got {first_view}")


def check_storage(prob_dtype: str, shard_size: int) -> None:
    """Refuse impossible types and sizes of shards.

    Raises:
        ValueError: There is one.
    """
    if prob_dtype not in get_args(ProbDtype):
        raise ValueError(f"prob_dtype must be float16 or float32, got {prob_dtype!r}")
    if not 1 <= shard_size <= MAX_SHARD_IMAGES:
        raise ValueError(f"shard_size must lie in 1..{MAX_SHARD_IMAGES}, got {shard_size}")


def check_checkpoints(teacher: TeacherConfig) -> None:
    """Look for a teacher's checkpoints, before images are opened or hashed, which takes long.

    Raises:
        FileNotFoundError: One is missing.
    """
    for number, member in enumerate(teacher.members):
        if member.checkpoint is not None and not member.checkpoint.exists():
            raise FileNotFoundError(
                f"teacher.members: the checkpoint of member {number} is missing: "
                f"{member.checkpoint} does not exist"
            )

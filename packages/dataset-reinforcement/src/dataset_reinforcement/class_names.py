"""Names of classes: those that a classifier was trained on against those of other data.

Some data only count their classes (`0`, `1`, ...: tars without `classes.txt`), which says nothing
about what they are; such names are never compared.
"""

from collections.abc import Sequence


def are_numbers(classes: Sequence[str]) -> bool:
    """Return whether classes are counted only, or not there at all."""
    return list(classes) == [str(number) for number in range(len(classes))]


def check_same_names(trained: Sequence[str], found: Sequence[str], trained_on: str) -> None:
    """Compare classes that a model was trained on with those of data, where both have names.

    Args:
        trained: The model's, in the order of its outputs.
        found: The data's, in the order of its labels.
        trained_on: What says so, for the message: a checkpoint, a member of a teacher.

    Raises:
        ValueError: They differ; names the first.
    """
    if are_numbers(trained) or are_numbers(found) or list(trained) == list(found):
        return
    pairs = enumerate(zip(trained, found, strict=False))
    different = (
        f"class {n} is {ours!r} there and {theirs!r} in the data"
        for n, (ours, theirs) in pairs
        if ours != theirs
    )
    counts = f"it has {len(trained)} classes, the data {len(found)}"
    raise ValueError(
        f"{trained_on} was trained on other classes: {next(different, counts)}; use data of its "
        "classes, in its order"
    )

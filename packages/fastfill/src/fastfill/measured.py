"""From one measurement a seed to one row an arm."""

from collections.abc import Iterable, Mapping


def by_arm(
    seeds: Iterable[Mapping[str, Mapping[str, float]]],
) -> dict[str, dict[str, list[float]]]:
    """Return metric to arm to one value a seed."""
    values: dict[str, dict[str, list[float]]] = {}
    for measured in seeds:
        for metric, arms in measured.items():
            for arm, value in arms.items():
                values.setdefault(metric, {}).setdefault(arm, []).append(value)
    return values

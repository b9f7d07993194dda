"""The result of a test set from those of its parts, and averages over sets."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from dataset_reinforcement.robustness import Kind
from dataset_reinforcement.scoring import Bin, Score


@dataclass(frozen=True)
class SetScore:
    """Means over the parts of a set; most sets have one part.

    Attributes:
        name: Name of the set.
        kind: Its class rule.
        parts: Score of each part.
    """

    name: str
    kind: Kind
    parts: dict[str, Score]

    @property
    def images(self) -> int:
        """Number of images of all parts."""
        return sum(part.images for part in self.parts.values())

    @property
    def top1(self) -> float:
        """Mean share of right images, 0..1."""
        return fmean(part.top1 for part in self.parts.values())

    @property
    def top5(self) -> float:
        """Mean share of images with a right class among the five likeliest, 0..1."""
        return fmean(part.top5 for part in self.parts.values())

    @property
    def ece(self) -> float:
        """Mean calibration error."""
        return fmean(part.ece for part in self.parts.values())

    @property
    def bins(self) -> tuple[Bin, ...]:
        """Reliability of all images together."""
        columns = zip(*(part.bins for part in self.parts.values()), strict=True)
        return tuple(Bin(*map(sum, zip(*column, strict=True))) for column in columns)

    def to_json(self) -> dict[str, Any]:
        """Return all figures."""
        parts = {name: asdict(part) for name, part in self.parts.items()}
        for name, part in self.parts.items():
            parts[name] |= {"top1": part.top1, "top5": part.top5, "bins": list(part.bins)}
        means = {"images": self.images, "top1": self.top1, "top5": self.top5, "ece": self.ece}
        return {"kind": self.kind, **means, "parts": parts}


def averages(scores: Sequence[SetScore]) -> dict[str, float]:
    """Return the mean top-1 of all sets and, beside plain ones, that of the robustness sets.

    They are means of plain accuracies, not of errors relative to another model.
    """
    means = {"all sets": fmean(score.top1 for score in scores)}
    shifted = [score.top1 for score in scores if score.kind != "plain"]
    if shifted and len(shifted) < len(scores):
        means["robustness"] = fmean(shifted)
    return means

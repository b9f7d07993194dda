"""Accuracy with exact counts, and calibration, of a classifier on a test set.

Shapes: B images, C classes of the model, M of them that compete, S pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchmetrics.classification import MulticlassCalibrationError

from dataset_reinforcement.images import ImageDecodeError
from dataset_reinforcement.robustness import Part


class Bin(NamedTuple):
    """The images whose confidence lies in one of the equal-width bins over 0..1.

    Attributes:
        images: Their number.
        confidence: Sum of their confidences.
        correct: Number of right ones.
    """

    images: int
    confidence: float
    correct: int


@dataclass(frozen=True, kw_only=True)
class Score:
    """What was counted.

    Attributes:
        images: Number of images.
        correct: Those whose likeliest class is right.
        correct5: Those with a right class among the five likeliest.
        ece: Expected calibration error, 0..1.
        bins: Reliability, by rising confidence.
    """

    images: int
    correct: int
    correct5: int
    ece: float
    bins: tuple[Bin, ...]

    @property
    def top1(self) -> float:
        """Share of right images, 0..1."""
        return self.correct / self.images

    @property
    def top5(self) -> float:
        """Share of images with a right class among the five likeliest, 0..1."""
        return self.correct5 / self.images


class Tally:
    """Counts over batches; the calibration error is torchmetrics'.

    Args:
        accepted: For each class of the set the model's classes that are right.
        num_classes: C.
        competing: The model's classes among which it chooses; None for all.
        num_bins: Equal-width bins of the calibration error.
    """

    def __init__(
        self,
        accepted: Sequence[Sequence[int]],
        num_classes: int,
        *,
        competing: Sequence[int] | None = None,
        num_bins: int = 15,
    ) -> None:
        chosen = range(num_classes) if competing is None else competing
        self.competing = None if competing is None else torch.tensor(competing)
        place_of = {label: place for place, label in enumerate(chosen)}
        self.right_LM = torch.zeros(len(accepted), len(chosen), dtype=torch.bool)
        for row, labels in enumerate(accepted):
            self.right_LM[row, [place_of[label] for label in labels]] = True
        self.num_bins = num_bins
        self.images = self.correct = self.correct5 = 0
        self.ece = MulticlassCalibrationError(len(chosen), n_bins=num_bins, norm="l1")
        self._counts = torch.zeros(3, num_bins, dtype=torch.float64)

    def update(self, logits_BC: Tensor, label_B: Tensor) -> None:
        """Count a batch.

        Args:
            logits_BC: Logits of the model.
            label_B: Classes of the set, int64.
        """
        if self.competing is not None:
            logits_BC = logits_BC[:, self.competing]
        right_BM = self.right_LM[label_B]
        ranked_BK = logits_BC.topk(min(5, logits_BC.shape[1])).indices
        hits_BK = right_BM.gather(1, ranked_BK)
        self.images += len(label_B)
        self.correct += int(hits_BK[:, 0].sum())
        self.correct5 += int(hits_BK.any(1).sum())
        self._calibrate(logits_BC.float().softmax(-1), ranked_BK[:, 0], right_BM, hits_BK[:, 0])

    def score(self) -> Score:
        """Return the counts so far, of one image at least."""
        rows = self._counts.T.tolist()
        bins = tuple(Bin(int(n), confidence, int(correct)) for n, confidence, correct in rows)
        return Score(
            images=self.images,
            correct=self.correct,
            correct5=self.correct5,
            ece=float(self.ece.compute()),
            bins=bins,
        )

    def _calibrate(self, p_BM: Tensor, chosen_B: Tensor, right_BM: Tensor, hit_B: Tensor) -> None:
        # A confidence of exactly 1 belongs to the last bin; torchmetrics would open one more.
        p_BM = p_BM.clamp(max=1 - torch.finfo(p_BM.dtype).eps)
        # Where several classes are right, the one that was chosen stands for them.
        target_B = torch.where(hit_B, chosen_B, right_BM.long().argmax(1))
        self.ece.update(p_BM, target_B)
        confidence_B = p_BM.gather(1, chosen_B[:, None])[:, 0]
        edges = torch.linspace(0, 1, self.num_bins + 1)
        place_B = torch.bucketize(confidence_B, edges, right=True) - 1
        rows = torch.stack([torch.ones_like(confidence_B), confidence_B, hit_B.to(p_BM.dtype)])
        self._counts.index_add_(1, place_B, rows.double())


def score_part(
    logits: Callable[[Tensor], Tensor],
    part: Part,
    view: Callable[[Tensor], Tensor],
    *,
    num_classes: int,
    num_bins: int = 15,
    batch_size: int = 256,
    workers: int = 0,
) -> Score:
    """Score a classifier on all images of a part.

    Args:
        logits: From uint8 images `[B, 3, S, S]` to logits `[B, C]` on the CPU.
        part: The images and which answers are right.
        view: From uint8 `[3, H, W]` to the model's input, uint8 `[3, S, S]`.
        num_classes: C.
        num_bins: Equal-width bins of the calibration error.
        batch_size: Images of a batch.
        workers: Processes that read images; 0 reads in this one.

    Raises:
        ValueError: The part has no image, or one cannot be decoded.
    """
    images = _CenterViews(part, view)
    if not len(images):
        raise ValueError(f"the set has no image to score{part.name and f' in {part.name}'}")
    tally = Tally(part.accepted, num_classes, competing=part.competing, num_bins=num_bins)
    for batch, labels in DataLoader(images, batch_size=batch_size, num_workers=workers):
        tally.update(logits(batch), labels)
    assert tally.images == len(images), "every image is counted once"
    return tally.score()


class _CenterViews(Dataset[tuple[Tensor, int]]):
    def __init__(self, part: Part, view: Callable[[Tensor], Tensor]) -> None:
        self.part = part
        self.view = view
        self.indices = part.indices()

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        index = self.indices[place]
        image, border = self._load(index), self.part.border
        if border:
            image = image[:, border:-border, border:-border]
        return self.view(image), self.part.images.label(index)

    def _load(self, index: int) -> Tensor:
        try:
            return self.part.images.load(index)
        except ImageDecodeError as error:
            raise ImageDecodeError(f"{error}; mend or remove the file") from error

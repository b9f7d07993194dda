"""RangeAugment: brightness, contrast and noise whose strength is learnt (arXiv:2212.10553).

On the student's images alone: stored embeddings are of images without it, and its strength changes
during a run (MobileCLIP, appendix on augmentation). Each operation acts on a random half of the
images; its magnitude is uniform in a range whose two ends are parameters. They follow the task's
loss and a term that holds the images' mean squared error to a target, from a high to a low PSNR.

Operations, ranges and target are those of CVNets' `DistributionNeuralAugmentor`. The ends start at
the values written there; CVNets starts at a sigmoid of these (brightness up to 8).

Shapes: N images, H x W pixels in 0..1.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobileclip.config import RangeAugmentConfig

PEAK_SQUARED = 255.0**2


class UniformRange(nn.Module):
    """A uniform distribution with learnable ends, each kept within bounds of its own.

    Args:
        low: Lower end to start from, strictly within its bounds.
        high: Upper end to start from, strictly within its bounds.
        low_bounds: Least and greatest lower end.
        high_bounds: Least and greatest upper end.
    """

    def __init__(
        self,
        low: float,
        high: float,
        *,
        low_bounds: tuple[float, float],
        high_bounds: tuple[float, float],
    ) -> None:
        super().__init__()
        self.bounds = (low_bounds, high_bounds)
        values = [_inverse(low, *low_bounds), _inverse(high, *high_bounds)]
        self.raw_ends = nn.Parameter(torch.tensor(values))

    def ends(self) -> tuple[Tensor, Tensor]:
        """Return lower and upper end, scalars."""
        low, high = (
            least + (most - least) * raw.sigmoid()
            for (least, most), raw in zip(self.bounds, self.raw_ends, strict=True)
        )
        return low, high

    def draw(self, number: int) -> Tensor:
        """Return magnitudes `[number, 1, 1, 1]`; gradients reach the ends."""
        low, high = self.ends()
        return low + torch.rand(number, 1, 1, 1, device=low.device) * (high - low)


class RangeAugment(nn.Module):
    """Augmentation of the student's images.

    Args:
        config: Targets and weight of the term.
    """

    def __init__(self, config: RangeAugmentConfig) -> None:
        super().__init__()
        self.config = config
        around_one = {"low_bounds": (0.1, 0.9), "high_bounds": (1.1, 10.0)}
        self.brightness = UniformRange(0.5, 1.5, **around_one)
        self.contrast = UniformRange(0.5, 1.5, **around_one)
        self.noise = UniformRange(
            0.000025, 0.1, low_bounds=(0.0, 0.00005), high_bounds=(0.0001, 1.0)
        )

    def forward(self, image_NCHW: Tensor) -> Tensor:
        """Return augmented images in 0..1; random numbers are torch's global ones."""
        operations = (self._brighten, self._contrast, self._add_noise)
        for index in torch.randperm(len(operations)).tolist():
            chosen_N = _random_half(image_NCHW)
            changed = operations[index](image_NCHW[chosen_N])
            image_NCHW = image_NCHW.index_copy(0, chosen_N, changed)
        return image_NCHW.clamp(0, 1)

    def likeness_loss(self, error_N: Tensor, *, progress: float) -> Tensor:
        """Hold the images' error to the target, a scalar.

        Args:
            error_N: Mean squared error of each image, of pixels in 0..1.
            progress: Share of the run that is over, 0..1.
        """
        target = torch.full_like(error_N, self.target_error(progress))
        # Equal to CVNets' term, which works on pixels in 0..255 and divides the weight by 255^2.
        distance = F.smooth_l1_loss(error_N, target, beta=1 / PEAK_SQUARED)
        return self.config.weight * distance

    def target_error(self, progress: float) -> float:
        """Return the mean squared error to aim at, of pixels in 0..1; `PSNR = -10 log10(error)`."""
        start, end = (10 ** (-psnr / 10) for psnr in (self.config.start_psnr, self.config.end_psnr))
        return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))

    def _brighten(self, image: Tensor) -> Tensor:
        return image * self.brightness.draw(len(image))

    def _contrast(self, image: Tensor) -> Tensor:
        mean = image.mean((-2, -1), keepdim=True)
        return mean + (image - mean) * self.contrast.draw(len(image))

    def _add_noise(self, image: Tensor) -> Tensor:
        return image + torch.randn_like(image) * self.noise.draw(len(image))


def squared_error(image_NCHW: Tensor, other_NCHW: Tensor) -> Tensor:
    """Return the mean squared error of each image, `[N]`."""
    return (image_NCHW - other_NCHW).square().mean((1, 2, 3))


def _random_half(image: Tensor) -> Tensor:
    order = torch.randperm(len(image), device=image.device)
    return order[: max(1, len(image) // 2)]


def _inverse(value: float, least: float, most: float) -> float:
    share = (value - least) / (most - least)
    return math.log(share / (1 - share))

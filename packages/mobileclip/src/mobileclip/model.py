"""The classifier. Shapes: B images, H and W pixels, C classes."""

from torch import Tensor, nn

from mobileclip.config import ModelConfig

PIXELS = 8 * 8
CLASSES = 10


class Classifier(nn.Module):
    """Class logits from small grey images, with one hidden layer or none.

    Args:
        config: Shape of the model.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden or PIXELS
        hidden = [nn.Linear(PIXELS, width), nn.GELU()] if config.hidden else []
        self.layers = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(width, CLASSES))

    def forward(self, image_BHW: Tensor) -> Tensor:
        """Return logits `[B, C]` for images `[B, 8, 8]` with values in 0..1."""
        return self.layers(image_BHW)

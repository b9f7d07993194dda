"""The embedding networks by name, and the small ones that train in seconds on a CPU.

Not here: the ResNets of the paper (`resnets.py`), files of weights (`weights.py`).
"""

from typing import Any

from torch import Tensor, nn

from fastfill.backbone import Backbone, InputSpec, frozen
from fastfill.config import BackboneConfig

__all__ = ["Backbone", "TimmBackbone", "TinyConv", "TinyMlp", "build_backbone", "frozen"]

ARCHITECTURES = (
    "resnet18",
    "resnet50",
    "resnet101",
    "wide_resnet50_2",
    "wide_resnet101_2",
    "tiny_conv",
    "tiny_mlp",
    "timm:<model>",
)


def build_backbone(config: BackboneConfig) -> Backbone:
    """Return the network that `config.arch` names, with fresh weights.

    `config.init_from` is not read here: see `weights.load_backbone`.

    Raises:
        ValueError: There is no such architecture.
    """
    if config.arch.startswith("timm:"):
        return TimmBackbone(config)
    if config.arch == "tiny_conv":
        return TinyConv(config)
    if config.arch == "tiny_mlp":
        return TinyMlp(config)
    from fastfill.resnets import RESNETS, ReducedResNet  # torchvision takes seconds to import

    if config.arch in RESNETS:
        return ReducedResNet(config)
    raise ValueError(f"model.arch must be one of {', '.join(ARCHITECTURES)}, got {config.arch}")


class TinyConv(Backbone):
    """Four convolutions with batch norm for RGB images of 32 pixels; embeddings are >= 0."""

    def __init__(self, config: BackboneConfig) -> None:
        half = (0.5, 0.5, 0.5)
        super().__init__(config, inputs=InputSpec((3, 32, 32), half, half))
        widths = (3, 16, 32, 64, config.dim)
        strides = (1, 2, 2, 1)
        layers: list[nn.Module] = []
        for inputs, outputs, stride in zip(widths, widths[1:], strides, strict=False):
            layers += [
                nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(*layers)

    def embed(self, image_BCHW: Tensor) -> Tensor:
        """Return embeddings `[B, dim]`."""
        return self.layers(image_BCHW).mean(dim=(2, 3))


class TinyMlp(Backbone):
    """One hidden layer for grey images of 8 pixels, scikit-learn's digits; embeddings are >= 0."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__(config, inputs=InputSpec((1, 8, 8), (0.0,), (1.0,)))
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, config.dim), nn.ReLU()
        )

    def embed(self, image_BCHW: Tensor) -> Tensor:
        """Return embeddings `[B, dim]`."""
        return self.layers(image_BCHW)


class TimmBackbone(Backbone):
    """Any of timm's image models with a linear projection to `dim`, fresh weights.

    Raises:
        ValueError: timm has no such model.
    """

    def __init__(self, config: BackboneConfig) -> None:
        import timm  # seconds to import
        from timm.data.config import resolve_data_config

        name = config.arch.removeprefix("timm:")
        if not timm.is_model(name):
            raise ValueError(f"model.arch: timm has no model {name}; timm.list_models() lists them")
        network = timm.create_model(name, pretrained=False, num_classes=0)
        data = resolve_data_config(model=network)
        super().__init__(config, inputs=InputSpec(data["input_size"], data["mean"], data["std"]))
        self.network = network
        # Some heads have a hidden layer that stays when the classifier is left out.
        width: Any = getattr(network, "head_hidden_size", None) or network.num_features
        self.projection = nn.Linear(width, config.dim)

    def embed(self, image_BCHW: Tensor) -> Tensor:
        """Return embeddings `[B, dim]`."""
        return self.projection(self.network(image_BCHW))

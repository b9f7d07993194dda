"""Shapes, the linear limit, and options out of range."""

from typing import Any

import pytest
import torch

from mobileclip.config import ModelConfig
from mobileclip.model import Classifier


def test_no_hidden_layer_is_linear() -> None:
    classifier = Classifier(ModelConfig(hidden=0))
    images = torch.rand(3, 8, 8)
    weight, bias = classifier.parameters()
    assert torch.equal(classifier(images), torch.addmm(bias, images.reshape(3, 64), weight.T))


def test_parameter_count() -> None:
    classifier = Classifier(ModelConfig(hidden=5))
    assert sum(p.numel() for p in classifier.parameters()) == 64 * 5 + 5 + 5 * 10 + 10


@pytest.mark.parametrize(
    ("values", "message"), [({"hidden": -1}, r"model\.hidden must be >= 0, got -1")]
)
def test_bad_config(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig(**values)

"""The twin for transformers: equal logits, padding, labels."""

import pytest
import torch
from torch import Tensor

from dataset_decomposition.config import ModelConfig
from dataset_decomposition.hf_config import hf_shape
from dataset_decomposition.hf_decoder import DecompositionConfig, DecompositionForCausalLM
from dataset_decomposition.model import Decoder

SHAPE = ModelConfig(vocab_size=300, dim=24, layers=2, heads=3, ffn_dim=40, rope_theta=500.0)


def pair(config: ModelConfig) -> tuple[Decoder, DecompositionForCausalLM]:
    torch.manual_seed(1)
    decoder = Decoder(config)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if "norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    model = DecompositionForCausalLM(DecompositionConfig(**hf_shape(config)))
    model.load_state_dict(decoder.state_dict())
    return decoder.eval(), model.eval()


def tokens(rows: int = 2, length: int = 33) -> Tensor:
    return torch.randint(300, (rows, length), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("qk_norm", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-5)])
def test_the_twin_gives_the_same_logits(qk_norm: bool, dtype: torch.dtype, tolerance: float):
    decoder, model = pair(ModelConfig(**{**vars(SHAPE), "qk_norm": qk_norm, "norm_eps": 1e-2}))
    ids = tokens()
    with torch.inference_mode():
        expected = decoder.to(dtype)(ids)
        found = model.to(dtype)(ids).logits
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
    assert expected.std() > 0.3


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(side: str):
    _, model = pair(SHAPE)
    ids = tokens(1, 9)
    padding = torch.full((1, 4), 5)
    ones, zeros = torch.ones_like(ids), torch.zeros_like(padding)
    parts, marks = (
        ([padding, ids], [zeros, ones]) if side == "left" else ([ids, padding], [ones, zeros])
    )
    with torch.inference_mode():
        expected = model(ids).logits
        found = model(torch.cat(parts, 1), attention_mask=torch.cat(marks, 1)).logits
    real = found[:, 4:] if side == "left" else found[:, :9]
    torch.testing.assert_close(real, expected, rtol=0, atol=1e-5)
    assert found.isfinite().all()


def test_labels_are_scored_one_position_later():
    _, model = pair(SHAPE)
    ids = tokens(2, 7)
    labels = ids.clone()
    labels[0, 3:] = -100
    with torch.inference_mode():
        output = model(ids, labels=labels)
        plain = model(ids, labels=labels, return_dict=False)
    losses = [
        -output.logits[row, place].log_softmax(-1)[ids[row, place + 1]]
        for row, places in ((0, range(2)), (1, range(6)))
        for place in places
    ]
    torch.testing.assert_close(output.loss, torch.stack(losses).mean())
    assert [tuple(part.shape) for part in plain] == [(), (2, 7, 300)]

"""The memory of a step is the same in every bucket: what backward keeps, counted byte by byte.

On a CPU, which counts no peak: every tensor that autograd saves, each storage once.
"""

import pytest
import torch
from torch import Tensor

from dataset_decomposition.config import LossConfig, ModelConfig
from dataset_decomposition.losses import chunked_scores, mean_loss, token_scores
from dataset_decomposition.model import Decoder

TOKENS = 2048
LENGTHS = [2**k for k in range(6, 12)]
MODEL = ModelConfig(vocab_size=257, dim=32, layers=2, heads=2)


def saved_bytes(decoder: Decoder, length: int, *, chunk_tokens: int) -> int:
    """Return the bytes that stay alive between forward and backward of one step."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    tokens = torch.arange(TOKENS).reshape(-1, length) % 257
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        if chunk_tokens:
            states = decoder(tokens, project=False)
            head = decoder.head.weight
            scores = chunked_scores(states, head, tokens, chunk_tokens=chunk_tokens)
        else:
            scores = token_scores(decoder(tokens), tokens)
        nll, z = mean_loss(scores)
    loss = nll + LossConfig().z_loss * z
    assert loss.requires_grad  # holds the graph, and with it all that was kept, until here
    return sum(kept.values())


@pytest.mark.parametrize("chunk_tokens", [0, 256])
def test_a_step_keeps_the_same_memory_at_every_length(chunk_tokens: int) -> None:
    torch.manual_seed(0)
    decoder = Decoder(MODEL)
    kept = [saved_bytes(decoder, length, chunk_tokens=chunk_tokens) for length in LENGTHS]
    assert max(kept) < 1.05 * min(kept), dict(zip(LENGTHS, kept, strict=True))
    # What the blocks must keep at least: it is all counted.
    assert min(kept) > 10 * TOKENS * MODEL.dim * 4

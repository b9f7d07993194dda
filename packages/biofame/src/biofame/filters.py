"""The filter layer: tokens are mixed by multiplying their spectrum (paper §3.2; spec 2.2).

The operators `pool` and `query` are the paper's. Extensions, ours: `query_complex`, the figure's
formula with a complex query; `softpool`, a pool that depends on the input; `bandfilter`, a filter
over physical frequency. No shape holds the number of tokens or the sampling rate.

Shapes: B sequences, N tokens, F = N // 2 + 1 frequencies, D width, H filters.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biofame.config import ModelConfig


class FilterLayer(nn.Module):
    """Transform over the tokens, filter, transform back; all of it in float32.

    Args:
        config: The model's.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.operator, self.temperature = config.operator, config.temperature
        self.trained_rate = config.rate
        bank = torch.randn(config.filters, config.dim, 2) * config.filter_std
        bank[..., 0] += float(config.filter_identity)
        self.bank_HD2 = nn.Parameter(bank)
        if config.operator == "query":
            self.query = nn.Linear(config.dim, config.filters)
        if config.operator == "query_complex":
            query = torch.randn(config.dim, config.filters, 2) * config.dim**-0.5
            self.query_DH2 = nn.Parameter(query)

    def forward(self, tokens_BND: Tensor, *, rate: float | None = None) -> Tensor:
        """Return filtered tokens, shaped and typed as they came.

        Args:
            tokens_BND: Tokens of one channel a row.
            rate: Samples per second of the recording, by default the one trained on; `bandfilter`
                alone asks.
        """
        length = tokens_BND.shape[1]
        with torch.autocast(tokens_BND.device.type, enabled=False):
            spectrum_BFD = torch.fft.rfft(tokens_BND.float(), dim=1, norm="ortho")
            trained = self.trained_rate if rate is None else rate
            response = self.response(spectrum_BFD, length, rate=trained)
            # n, as a spectrum does not tell an odd number of tokens from the even one below.
            mixed = torch.fft.irfft(spectrum_BFD * response, n=length, dim=1, norm="ortho")
        return mixed.to(tokens_BND.dtype)

    def response(self, spectrum_BFD: Tensor, length: int, *, rate: float) -> Tensor:
        """Return the complex factor of each frequency, of a shape that broadcasts to `[B, F, D]`.

        Args:
            spectrum_BFD: Transform of the tokens.
            length: N.
            rate: Samples per second.
        """
        bank_HD = torch.view_as_complex(self.bank_HD2.float())
        if self.operator == "pool":
            return strongest(bank_HD)
        if self.operator == "query":
            weight_HD, bias_H = self.query.weight.float(), self.query.bias.float()
            return query_response(F.linear(spectrum_BFD.real, weight_HD, bias_H), bank_HD)
        if self.operator == "query_complex":
            query_DH = torch.view_as_complex(self.query_DH2.float())
            return torch.einsum("bfd,dh,hk->bfk", spectrum_BFD, query_DH, bank_HD)
        if self.operator == "softpool":
            return soft_response(spectrum_BFD, bank_HD, temperature=self.temperature)
        return band_response(bank_HD, length, share=rate / self.trained_rate)


def strongest(bank_HD: Tensor) -> Tensor:
    """Return for each dimension the filter of greatest magnitude, `[D]`.

    As K does not depend on the frequency, |Z K_h| = |Z| |K_h|: the pool over filters picks the same
    one for every input and frequency (spec 2.2, theorem), and the tensor of all H products need
    not be made. `pool_naive` makes it.
    """
    return bank_HD.gather(0, bank_HD.abs().argmax(dim=0, keepdim=True))[0]


def pool_naive(spectrum_BFD: Tensor, bank_HD: Tensor) -> Tensor:
    """Return the product of greatest magnitude over filters, `[B, F, D]`, by the definition.

    The oracle of `strongest`, and what benchmarks compare with: H times the memory.
    """
    product_BFHD = spectrum_BFD[:, :, None] * bank_HD
    chosen = product_BFHD.abs().argmax(dim=2, keepdim=True)
    return product_BFHD.gather(2, chosen)[:, :, 0]


def query_response(weights_BFH: Tensor, bank_HD: Tensor) -> Tensor:
    """Return the filters' sum under real weights, complex `[B, F, D]`."""
    # Two real products: a complex one would multiply by zeros.
    return torch.complex(weights_BFH @ bank_HD.real, weights_BFH @ bank_HD.imag)


def soft_response(spectrum_BFD: Tensor, bank_HD: Tensor, *, temperature: float) -> Tensor:
    """Return the filters' mean under a softmax over |Z K_h| / temperature, `[B, F, D]`."""
    strength_BFHD = spectrum_BFD.abs()[:, :, None] * bank_HD.abs()
    share_BFHD = (strength_BFHD / temperature).softmax(dim=2)
    real = (share_BFHD * bank_HD.real).sum(dim=2)
    return torch.complex(real, (share_BFHD * bank_HD.imag).sum(dim=2))


def band_response(bank_HD: Tensor, length: int, *, share: float) -> Tensor:
    """Return the filter between knots in physical frequency, `[F, D]`.

    The H knots are spread evenly from 0 to the highest frequency of the tokens at the rate trained
    on; above it the last one holds.

    Args:
        bank_HD: Complex filter at the knots.
        length: N.
        share: Rate of this recording over the one trained on.
    """
    knots = len(bank_HD)
    bins = torch.arange(length // 2 + 1, device=bank_HD.device)
    place = (bins * (2 * share * (knots - 1) / length)).clamp(max=knots - 1)
    low = place.floor().long().clamp(max=max(knots - 2, 0))
    weight = (place - low)[:, None]
    high = (low + 1).clamp(max=knots - 1)
    return bank_HD[low] * (1 - weight) + bank_HD[high] * weight

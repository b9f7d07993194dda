"""Filter layers in real arithmetic, the Fourier transform a product with constant matrices.

ONNX has no complex numbers, and its DFT operator is missing or slow in many runtimes. For a fixed
number of tokens, both transforms are matrices; N log N becomes N^2, which at the lengths of a
window costs little beside the rest.

Shapes: B sequences, N tokens, F = N // 2 + 1 frequencies, D width, H filters.
"""

import copy
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from biofame.filters import FilterLayer, band_response, strongest
from biofame.model import BioFame


class Pair(NamedTuple):
    """Real and imaginary part."""

    real: Tensor
    imag: Tensor


def product(a: Pair, b: Pair) -> Pair:
    """Return a * b, number by number."""
    return Pair(a.real * b.real - a.imag * b.imag, a.real * b.imag + a.imag * b.real)


def matrix_product(a: Pair, b: Pair) -> Pair:
    """Return the complex matrix product a @ b."""
    real = a.real @ b.real - a.imag @ b.imag
    return Pair(real, a.real @ b.imag + a.imag @ b.real)


class RealDft(nn.Module):
    """`torch.fft.rfft` and `irfft` with norm `ortho` over N tokens, as real matrices.

    Args:
        tokens: N.
    """

    cosine_FN: Tensor
    sine_FN: Tensor
    back_cosine_NF: Tensor
    back_sine_NF: Tensor

    def __init__(self, tokens: int) -> None:
        super().__init__()
        # Angles reduced as whole numbers: sines that are 0 come out 0, for DC and Nyquist above
        # all, whose imaginary parts irfft does not read.
        steps = torch.outer(torch.arange(tokens // 2 + 1), torch.arange(tokens)) % tokens
        angle_FN = steps.double() * (2 * math.pi / tokens)
        cosine, sine = angle_FN.cos(), angle_FN.sin()
        sine[steps * 2 % tokens == 0] = 0
        # All frequencies but DC and Nyquist stand for their negatives, too.
        twice = torch.full((tokens // 2 + 1, 1), 2.0, dtype=torch.float64)
        twice[0] = 1
        if tokens % 2 == 0:
            twice[-1] = 1
        scale = tokens**-0.5
        self._constant("cosine_FN", cosine * scale)
        self._constant("sine_FN", -sine * scale)
        self._constant("back_cosine_NF", (twice * cosine * scale).T)
        self._constant("back_sine_NF", (-twice * sine * scale).T)

    def forward(self, tokens_BND: Tensor) -> Pair:
        """Return the spectrum, both parts `[B, F, D]`."""
        return Pair(self.cosine_FN @ tokens_BND, self.sine_FN @ tokens_BND)

    def inverse(self, spectrum_BFD: Pair) -> Tensor:
        """Return the tokens `[B, N, D]` of a spectrum."""
        real, imag = spectrum_BFD
        return self.back_cosine_NF @ real + self.back_sine_NF @ imag

    def _constant(self, name: str, values: Tensor) -> None:
        self.register_buffer(name, values.float().contiguous(), persistent=False)


class DftFilter(nn.Module):
    """A `FilterLayer` for one number of tokens and one rate.

    Args:
        layer: The layer to compute.
        dft: The transforms; layers may share them.
        tokens: N.
        rate: Samples per second of the recordings.
    """

    def __init__(self, layer: FilterLayer, dft: RealDft, tokens: int, *, rate: float) -> None:
        super().__init__()
        self.dft = dft
        with torch.no_grad():
            self.respond = _response(layer, tokens, rate)

    def forward(self, tokens_BND: Tensor, *, rate: float | None = None) -> Tensor:
        """Return filtered tokens; `rate` is the one that the filter was made for."""
        spectrum = self.dft(tokens_BND)
        return self.dft.inverse(product(spectrum, self.respond(spectrum)))


def with_dft(network: BioFame, *, tokens: int, rate: float) -> BioFame:
    """Return a copy of a network whose filters run without the Fourier transform of torch.

    Args:
        network: Stays as it is; one without filters is only copied.
        tokens: Patches of a channel.
        rate: Samples per second of the recordings.
    """
    network, dft = copy.deepcopy(network), RealDft(tokens)
    for block in network.encoder.blocks:
        layer = getattr(block, "filter", None)
        if isinstance(layer, FilterLayer):
            block.filter = DftFilter(layer, dft, tokens, rate=rate)
    return network


class _Constant(nn.Module):
    """A response that does not depend on the input: `pool` and `bandfilter`."""

    def __init__(self, response: Tensor) -> None:
        super().__init__()
        self.real, self.imag = _parts(response)

    def forward(self, spectrum_BFD: Pair) -> Pair:
        return Pair(self.real, self.imag)


class _Query(nn.Module):
    def __init__(self, query: nn.Linear, bank_HD: Tensor) -> None:
        super().__init__()
        self.query = copy.deepcopy(query)
        self.real, self.imag = _parts(bank_HD)

    def forward(self, spectrum_BFD: Pair) -> Pair:
        weights = self.query(spectrum_BFD.real)
        return Pair(weights @ self.real, weights @ self.imag)


class _ComplexQuery(nn.Module):
    def __init__(self, query_DH: Tensor, bank_HD: Tensor) -> None:
        super().__init__()
        self.query_real, self.query_imag = _parts(query_DH)
        self.real, self.imag = _parts(bank_HD)

    def forward(self, spectrum_BFD: Pair) -> Pair:
        weights = matrix_product(spectrum_BFD, Pair(self.query_real, self.query_imag))
        return matrix_product(weights, Pair(self.real, self.imag))


class _SoftPool(nn.Module):
    def __init__(self, bank_HD: Tensor, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.real, self.imag = _parts(bank_HD)
        self.size = nn.Parameter(bank_HD.abs(), requires_grad=False)

    def forward(self, spectrum_BFD: Pair) -> Pair:
        size_BFD = (spectrum_BFD.real.square() + spectrum_BFD.imag.square()).sqrt()
        share_BFHD = (size_BFD[:, :, None] * self.size / self.temperature).softmax(dim=2)
        real = (share_BFHD * self.real).sum(dim=2)
        return Pair(real, (share_BFHD * self.imag).sum(dim=2))


def _response(layer: FilterLayer, tokens: int, rate: float) -> nn.Module:
    bank_HD = torch.view_as_complex(layer.bank_HD2.float())
    makers: dict[str, Callable[[], nn.Module]] = {
        "pool": lambda: _Constant(strongest(bank_HD)),
        "query": lambda: _Query(layer.query, bank_HD),
        "query_complex": lambda: _ComplexQuery(
            torch.view_as_complex(layer.query_DH2.float()), bank_HD
        ),
        "softpool": lambda: _SoftPool(bank_HD, layer.temperature),
        "bandfilter": lambda: _Constant(
            band_response(bank_HD, tokens, share=rate / layer.trained_rate)
        ),
    }
    return makers[layer.operator]()


def _parts(values: Tensor) -> tuple[nn.Parameter, nn.Parameter]:
    """Return both parts as constants of a module."""
    real, imag = values.detach().real.clone(), values.detach().imag.clone()
    return nn.Parameter(real, requires_grad=False), nn.Parameter(imag, requires_grad=False)

"""The filter operators against loops over their definitions, and what follows from these."""

from typing import get_args

import numpy as np
import pytest
import scipy.signal
import torch
from numpy.typing import NDArray
from torch import Tensor

from biofame.config import ModelConfig, Operator
from biofame.filters import (
    FilterLayer,
    band_response,
    pool_naive,
    query_response,
    soft_response,
    strongest,
)

OPERATORS = get_args(Operator)
PATCH, RATE, TEMPERATURE = 4, 100.0, 0.3


def make_layer(operator: str, *, dim: int = 6, filters: int = 4, **options: object) -> FilterLayer:
    torch.manual_seed(0)
    options = {"filter_std": 0.5, "temperature": TEMPERATURE, "mixer_heads": 2} | options
    config = ModelConfig(
        operator=operator, dim=dim, filters=filters, patch=PATCH, rate=RATE, **options
    )
    return FilterLayer(config)


def make_tokens(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def complex_numbers(*shape: int, seed: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.complex128, generator=generator)


def as_complex(parameter: Tensor) -> NDArray[np.complex128]:
    return torch.view_as_complex(parameter.detach().double()).numpy()


def factor(
    layer: FilterLayer, spectrum_FD: NDArray, n: int, d: int, *, frequency: float
) -> complex:
    """Return the factor of frequency n and dimension d by the operator's definition."""
    bank_HD = as_complex(layer.bank_HD2)
    if layer.operator == "pool":
        products = [spectrum_FD[n, d] * bank_HD[h, d] for h in range(len(bank_HD))]
        return bank_HD[int(np.argmax(np.abs(products))), d]
    if layer.operator == "query":
        weight, bias = layer.query.weight.detach().numpy(), layer.query.bias.detach().numpy()
        query_H = [spectrum_FD[n].real @ weight[h] + bias[h] for h in range(len(bank_HD))]
        return sum(query_H[h] * bank_HD[h, d] for h in range(len(bank_HD)))
    if layer.operator == "query_complex":
        query_DH = as_complex(layer.query_DH2)
        query_H = [spectrum_FD[n] @ query_DH[:, h] for h in range(len(bank_HD))]
        return sum(query_H[h] * bank_HD[h, d] for h in range(len(bank_HD)))
    if layer.operator == "softpool":
        strength_H = np.abs(spectrum_FD[n, d] * bank_HD[:, d]) / TEMPERATURE
        share_H = np.exp(strength_H) / np.exp(strength_H).sum()
        return sum(share_H[h] * bank_HD[h, d] for h in range(len(bank_HD)))
    knots = np.linspace(0, RATE / PATCH / 2, len(bank_HD))
    real = np.interp(frequency, knots, bank_HD[:, d].real)
    return real + 1j * np.interp(frequency, knots, bank_HD[:, d].imag)


def filter_by_loops(layer: FilterLayer, tokens_BND: Tensor, *, rate: float) -> Tensor:
    length = tokens_BND.shape[1]
    rows = []
    for tokens_ND in tokens_BND.double().numpy():
        spectrum_FD = np.fft.rfft(tokens_ND, axis=0, norm="ortho")
        mixed = np.empty_like(spectrum_FD)
        for n, d in np.ndindex(*spectrum_FD.shape):
            frequency = n * rate / (PATCH * length)
            mixed[n, d] = spectrum_FD[n, d] * factor(layer, spectrum_FD, n, d, frequency=frequency)
        rows.append(np.fft.irfft(mixed, n=length, axis=0, norm="ortho"))
    return torch.from_numpy(np.stack(rows)).float()


@pytest.mark.parametrize("length", [1, 2, 9, 15, 16])
@pytest.mark.parametrize("operator", OPERATORS)
def test_layer_is_the_definition(operator: str, length: int) -> None:
    layer, tokens = make_layer(operator), make_tokens(2, length, 6)
    torch.testing.assert_close(layer(tokens), filter_by_loops(layer, tokens, rate=RATE))


@pytest.mark.parametrize("rate", [50.0, 75.0, 200.0])
def test_bandfilter_follows_the_physical_frequency(rate: float) -> None:
    layer, tokens = make_layer("bandfilter"), make_tokens(2, 15, 6)
    expected = filter_by_loops(layer, tokens, rate=rate)
    torch.testing.assert_close(layer(tokens, rate=rate), expected)
    assert not torch.allclose(layer(tokens), expected, atol=1e-3)


@pytest.mark.parametrize("length", [1, 2, 9, 15, 150, 301])
@pytest.mark.parametrize("operator", OPERATORS)
def test_output_has_the_length_of_the_input(operator: str, length: int) -> None:
    assert make_layer(operator)(make_tokens(2, length, 6)).shape == (2, length, 6)


@pytest.mark.parametrize("length", [150, 151])
def test_pool_is_one_real_filter_and_its_hilbert_transform(length: int) -> None:
    """Of filter a + ib: `a x - b Hilbert(x)`; bins without a negative twin, only times a."""
    layer, tokens = make_layer("pool"), make_tokens(2, length, 6)
    bank_HD = as_complex(layer.bank_HD2)
    chosen_D = bank_HD[np.abs(bank_HD).argmax(axis=0), np.arange(6)]
    samples = tokens.double().numpy()
    # The imaginary part is 0 at frequency 0 and at the highest one, as it should be here.
    hilbert = scipy.signal.hilbert(samples, axis=1).imag
    expected = torch.from_numpy(chosen_D.real * samples - chosen_D.imag * hilbert).float()
    torch.testing.assert_close(layer(tokens), expected, rtol=0, atol=2e-6)


def test_pool_over_one_filter_chosen_beforehand_is_pool_over_all() -> None:
    spectrum, bank = complex_numbers(3, 8, 6), complex_numbers(5, 6, seed=3)
    spectrum.requires_grad_()
    bank.requires_grad_()
    fast, naive = spectrum * strongest(bank), pool_naive(spectrum, bank)
    torch.testing.assert_close(fast, naive)
    weight = complex_numbers(3, 8, 6, seed=4)
    for mine, theirs in zip(
        torch.autograd.grad((fast * weight).abs().sum(), (spectrum, bank)),
        torch.autograd.grad((naive * weight).abs().sum(), (spectrum, bank)),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


def test_only_the_strongest_filter_of_each_dimension_learns() -> None:
    layer = make_layer("pool", dim=64, filters=8)
    layer(make_tokens(2, 15, 64)).square().sum().backward()
    learns_HD = layer.bank_HD2.grad.abs().sum(dim=-1) > 0
    assert learns_HD.sum() == 64
    assert torch.equal(learns_HD.sum(dim=0), torch.ones(64, dtype=torch.int64))
    strength_HD = torch.view_as_complex(layer.bank_HD2.detach()).abs()
    assert torch.equal(learns_HD.int().argmax(dim=0), strength_HD.argmax(dim=0))


@pytest.mark.parametrize("operator", ["query", "query_complex", "softpool", "bandfilter"])
def test_all_filters_of_other_operators_learn(operator: str) -> None:
    layer = make_layer(operator)
    layer(make_tokens(2, 15, 6)).square().sum().backward()
    assert (layer.bank_HD2.grad.abs().sum(dim=-1) > 0).all()


@pytest.mark.parametrize("length", [9, 16])
@pytest.mark.parametrize("operator", ["pool", "softpool", "bandfilter"])
def test_shifted_tokens_give_the_shifted_output(operator: str, length: int) -> None:
    layer, tokens = make_layer(operator), make_tokens(2, length, 6)
    for shift in (1, 4):
        shifted = layer(tokens.roll(shift, dims=1))
        torch.testing.assert_close(shifted, layer(tokens).roll(shift, dims=1))


@pytest.mark.parametrize("length", [9, 15])
def test_complex_query_shifts_twice(length: int) -> None:
    """Tokens and query turn by the same phase, and their product by twice that."""
    layer, tokens = make_layer("query_complex"), make_tokens(2, length, 6)
    shifted = layer(tokens.roll(2, dims=1))
    torch.testing.assert_close(shifted, layer(tokens).roll(4, dims=1))


def test_real_query_shifts_with_the_tokens_only_in_its_bias() -> None:
    """The real part of a spectrum holds phase: the query depends on where a window starts."""
    layer, tokens = make_layer("query"), make_tokens(2, 15, 6)
    shifted = layer(tokens.roll(2, dims=1))
    assert not torch.allclose(shifted, layer(tokens).roll(2, dims=1), atol=1e-2)
    with torch.no_grad():
        layer.query.weight.zero_()
    shifted = layer(tokens.roll(2, dims=1))
    torch.testing.assert_close(shifted, layer(tokens).roll(2, dims=1))


@pytest.mark.parametrize("operator", ["pool", "bandfilter"])
def test_pool_and_bandfilter_are_linear(operator: str) -> None:
    layer, one, two = make_layer(operator), make_tokens(2, 15, 6), make_tokens(2, 15, 6, seed=5)
    torch.testing.assert_close(layer(-3 * one), -3 * layer(one))
    torch.testing.assert_close(layer(2 * one + two), 2 * layer(one) + layer(two))


def test_scaled_tokens_give_a_scaled_query_output_squared() -> None:
    layer, tokens = make_layer("query_complex"), make_tokens(2, 15, 6)
    torch.testing.assert_close(layer(3 * tokens), 9 * layer(tokens))


def test_constant_query_of_one_filter_is_pool_of_one_filter() -> None:
    query, pool = make_layer("query", filters=1), make_layer("pool", filters=1)
    with torch.no_grad():
        query.query.weight.zero_()
        query.query.bias.fill_(1.0)
        pool.bank_HD2.copy_(query.bank_HD2)
    tokens = make_tokens(2, 15, 6)
    torch.testing.assert_close(query(tokens), pool(tokens))


def test_soft_pool_lies_between_the_strongest_filter_and_the_mean() -> None:
    spectrum, bank = complex_numbers(2, 5, 6), complex_numbers(4, 6, seed=3)
    cold = spectrum * soft_response(spectrum, bank, temperature=1e-4)
    torch.testing.assert_close(cold, pool_naive(spectrum, bank))
    hot = soft_response(spectrum, bank, temperature=1e9)
    torch.testing.assert_close(hot, bank.mean(dim=0).expand_as(hot))


@pytest.mark.parametrize("operator", OPERATORS)
def test_silence_gives_silence_and_finite_gradients(operator: str) -> None:
    layer, tokens = make_layer(operator), torch.zeros(2, 9, 6, requires_grad=True)
    out = layer(tokens)
    out.sum().backward()
    assert (out == 0).all()
    for gradient in (tokens.grad, *(p.grad for p in layer.parameters())):
        assert gradient.isfinite().all()


def test_bandfilter_gives_its_knots_and_holds_the_last() -> None:
    bank = complex_numbers(5, 3)
    torch.testing.assert_close(band_response(bank, 8, share=1.0), bank)
    fast = band_response(bank, 8, share=2.0)
    torch.testing.assert_close(fast, bank[[0, 2, 4, 4, 4]])
    assert torch.equal(band_response(bank[:1], 9, share=1.0), bank[:1].expand(5, -1))


def test_bandfilter_of_a_faster_recording_is_the_same_at_the_same_frequency() -> None:
    bank = complex_numbers(5, 3)
    slow, fast = band_response(bank, 30, share=1.0), band_response(bank, 60, share=2.0)
    torch.testing.assert_close(fast[:16], slow)


def test_gradients_of_the_operators() -> None:
    spectrum, bank = complex_numbers(2, 4, 3), complex_numbers(3, 3, seed=3)
    weights = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    for tensor in (spectrum, bank, weights):
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(lambda z, k: z * strongest(k), (spectrum, bank))
    assert torch.autograd.gradcheck(pool_naive, (spectrum, bank))
    assert torch.autograd.gradcheck(query_response, (weights, bank))
    assert torch.autograd.gradcheck(
        lambda z, k: soft_response(z, k, temperature=0.5), (spectrum, bank)
    )
    for share in (0.5, 1.0, 3.0):
        assert torch.autograd.gradcheck(lambda k, s=share: band_response(k, 9, share=s), (bank,))


@pytest.mark.parametrize("operator", OPERATORS)
def test_everything_is_float32_under_autocast(operator: str) -> None:
    layer, tokens = make_layer(operator), make_tokens(2, 15, 6)
    plain = layer(tokens)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(tokens), plain)
        half = layer(tokens.bfloat16())
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, layer(tokens.bfloat16().float()).bfloat16())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("operator", OPERATORS)
def test_layers_of_another_dtype_run(operator: str, dtype: torch.dtype) -> None:
    layer, tokens = make_layer(operator), make_tokens(2, 15, 6)
    plain = layer(tokens)
    out = layer.to(dtype)(tokens.to(dtype))
    assert out.dtype == dtype
    tolerance = {torch.bfloat16: 0.1, torch.float64: 1e-5}[dtype]
    torch.testing.assert_close(out.float(), plain, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("operator", OPERATORS)
def test_no_shape_holds_the_number_of_tokens_or_the_rate(operator: str) -> None:
    def shapes(**options: object) -> dict[str, torch.Size]:
        config = ModelConfig(operator=operator, **options)
        return {name: p.shape for name, p in FilterLayer(config).named_parameters()}

    assert shapes(tokens=10) == shapes(tokens=1500) == shapes(rate=256.0)


def test_bank_starts_as_the_options_say() -> None:
    bank = make_layer("pool", dim=256, filters=8, filter_std=0.02).bank_HD2
    assert bank.shape == (8, 256, 2)
    assert bank.std().item() == pytest.approx(0.02, rel=0.05)
    assert bank.mean().item() == pytest.approx(0, abs=2e-3)
    identity = make_layer("pool", filter_std=1e-7, filter_identity=True)
    tokens = make_tokens(2, 15, 6)
    torch.testing.assert_close(identity(tokens), tokens)

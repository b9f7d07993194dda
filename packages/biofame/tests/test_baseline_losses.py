"""The losses of TF-C and TS-TCC against naive loops, and the views they are computed of."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from biofame.baselines import contrastive_augment as augment
from biofame.baselines.config import ContrastConfig, PatchTstConfig
from biofame.baselines.contrastive_tasks import rows_of_all_ranks
from biofame.baselines.losses_tfc import Domains, consistency_loss, nt_xent, tfc_loss
from biofame.baselines.losses_tstcc import View, temporal_contrast, tstcc_loss
from tenfold.testing import run_ranks

N, D, K = 5, 4, 3
TEMPERATURE = 0.3


def rows(number: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(number), dtype=torch.float64)


def domains(number: int) -> Domains:
    return Domains(rows(number, N, D), rows(number + 1, N, D))


def naive_nt_xent(first: Tensor, second: Tensor, temperature: float) -> float:
    both = [*first, *second]
    total = 0.0
    for i, row in enumerate(both):
        partner = (i + len(first)) % len(both)
        similar = [float(torch.cosine_similarity(row, other, dim=0)) for other in both]
        others = sum(math.exp(s / temperature) for j, s in enumerate(similar) if j != i)
        total -= math.log(math.exp(similar[partner] / temperature) / others)
    return total / len(both)


def naive_temporal(predicted: Tensor, future: Tensor) -> float:
    total = 0.0
    for n in range(N):
        for k in range(K):
            scores = [float(predicted[n, k] @ future[m, k]) for m in range(N)]
            total -= scores[n] - math.log(sum(map(math.exp, scores)))
    return total / (N * K)


def test_nt_xent_is_its_definition() -> None:
    first, second = rows(0, N, D), rows(1, N, D)
    found = nt_xent(first, second, temperature=TEMPERATURE)
    assert float(found) == pytest.approx(naive_nt_xent(first, second, TEMPERATURE), rel=1e-12)


def test_nt_xent_does_not_see_lengths_nor_sides() -> None:
    first, second = rows(0, N, D), rows(1, N, D)
    value = nt_xent(first, second, temperature=TEMPERATURE)
    assert torch.allclose(value, nt_xent(3 * first, second, temperature=TEMPERATURE))
    assert torch.allclose(value, nt_xent(second, first, temperature=TEMPERATURE))


def test_nt_xent_is_least_where_pairs_agree_and_nothing_else_does() -> None:
    pairs = torch.eye(N, dtype=torch.float64)
    expected = math.log(1 + (2 * N - 2) * math.exp(-1 / TEMPERATURE))
    assert float(nt_xent(pairs, pairs, temperature=TEMPERATURE)) == pytest.approx(expected)


def test_consistency_is_its_definition() -> None:
    whole, view = domains(0), domains(2)

    def s(time: Tensor, frequency: Tensor) -> float:
        return naive_nt_xent(time, frequency, TEMPERATURE)

    near = s(whole.time, whole.frequency)
    pairs = ((whole.time, view.frequency), (view.time, whole.frequency), view)
    expected = sum(near - s(*pair) + 0.7 for pair in pairs)
    found = consistency_loss(whole, view, temperature=TEMPERATURE, margin=0.7)
    assert float(found) == pytest.approx(expected, rel=1e-12)


def test_the_consistency_of_unchanged_windows_is_the_margin() -> None:
    whole = domains(0)
    found = consistency_loss(whole, whole, temperature=TEMPERATURE, margin=0.5)
    assert float(found) == pytest.approx(3 * 0.5)


def tfc(consistency: str, weight: float = 0.2) -> tuple[float, ...]:
    terms = tfc_loss(
        domains(0),
        domains(2),
        domains(4),
        domains(6),
        temperature=TEMPERATURE,
        weight=weight,
        consistency=consistency,  # pyright: ignore[reportArgumentType]
        margin=1.0,
    )
    return tuple(math.nan if term is None else float(term) for term in terms)


def test_tfc_weighs_its_terms_as_published_or_as_released() -> None:
    total, time, frequency, between = tfc("paper")
    assert total == pytest.approx(0.2 * (time + frequency) + 0.8 * between)
    whole = domains(4)
    total, time, frequency, between = tfc("code")
    assert between == pytest.approx(naive_nt_xent(*whole, TEMPERATURE))
    assert total == pytest.approx(0.2 * (time + frequency) + between)
    total, time, frequency, between = tfc("none")
    assert math.isnan(between)
    assert total == pytest.approx(0.2 * (time + frequency))
    assert time == pytest.approx(naive_nt_xent(domains(0).time, domains(2).time, TEMPERATURE))
    assert frequency == pytest.approx(
        naive_nt_xent(domains(0).frequency, domains(2).frequency, TEMPERATURE)
    )


def test_tfc_asks_for_the_projections_it_needs() -> None:
    settings = {"temperature": 1.0, "weight": 0.2, "margin": 1.0}
    for consistency, z in (("paper", domains(4)), ("code", None)):
        with pytest.raises(ValueError, match=f"consistency {consistency} needs projections"):
            tfc_loss(domains(0), domains(2), z, None, consistency=consistency, **settings)  # pyright: ignore[reportArgumentType]


def test_temporal_contrast_is_its_definition() -> None:
    predicted, future = rows(0, N, K, D), rows(1, N, K, D)
    found = temporal_contrast(predicted, future)
    assert float(found) == pytest.approx(naive_temporal(predicted, future), rel=1e-12)


def test_temporal_contrast_normalises_over_tokens_not_predictions() -> None:
    predicted, future = rows(0, N, K, D), rows(1, N, K, D)
    shift = rows(2, 1, K, D)
    found = temporal_contrast(predicted, future)
    # The same added to all tokens shifts all scores of a prediction alike.
    assert torch.allclose(temporal_contrast(predicted, future + shift), found)
    assert not torch.allclose(temporal_contrast(predicted + shift, future), found)


def test_tstcc_is_the_sum_of_its_terms() -> None:
    views = [View(rows(n, N, K, D), rows(n + 1, N, K, D), rows(n + 2, N, D)) for n in (0, 3)]
    strong, weak = views
    terms = tstcc_loss(
        strong, weak, temperature=TEMPERATURE, temporal_weight=1.5, contextual_weight=0.7
    )
    forth = naive_temporal(strong.predicted, weak.future)
    back = naive_temporal(weak.predicted, strong.future)
    contextual = naive_nt_xent(strong.context, weak.context, TEMPERATURE)
    assert float(terms.temporal) == pytest.approx(forth + back)
    assert float(terms.contextual) == pytest.approx(contextual)
    assert float(terms.total) == pytest.approx(1.5 * (forth + back) + 0.7 * contextual)


@pytest.mark.parametrize(
    ("loss", "shapes"),
    [
        (lambda a, b: nt_xent(a, b, temperature=TEMPERATURE), ((N, D), (N, D))),
        (temporal_contrast, ((N, K, D), (N, K, D))),
        (
            lambda a, b: consistency_loss(
                Domains(a, b), Domains(b, a.roll(1, 0)), temperature=TEMPERATURE, margin=1.0
            ),
            ((N, D), (N, D)),
        ),
    ],
)
def test_gradients(loss: Callable[..., Tensor], shapes: tuple[tuple[int, ...], ...]) -> None:
    inputs = [rows(n, *shape).requires_grad_() for n, shape in enumerate(shapes)]
    assert torch.autograd.gradcheck(loss, inputs)


def test_losses_are_computed_in_float32_under_autocast() -> None:
    first, second = rows(0, N, D).float(), rows(1, N, D).float()
    with torch.autocast("cpu", torch.bfloat16):
        contrast = nt_xent(first.bfloat16(), second.bfloat16(), temperature=0.1)
        temporal = temporal_contrast(first[:, None].bfloat16(), second[:, None].bfloat16())
        exact = nt_xent(first, second, temperature=0.1)
    assert contrast.dtype == temporal.dtype == torch.float32
    assert float(exact) == pytest.approx(naive_nt_xent(first, second, 0.1), rel=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nt_xent(rows(0, 3, 2), rows(0, 4, 2), temperature=1), "one shape"),
        (lambda: nt_xent(rows(0, 3), rows(0, 3), temperature=1), "one shape"),
        (lambda: nt_xent(rows(0, 1, 2), rows(0, 1, 2), temperature=1), "at least 2 pairs, got 1"),
        (lambda: temporal_contrast(rows(0, 3, 2), rows(0, 3, 2)), "must both be"),
        (lambda: temporal_contrast(rows(0, 3, 2, 2), rows(0, 3, 1, 2)), "must both be"),
        (lambda: temporal_contrast(rows(0, 1, 2, 2), rows(0, 1, 2, 2)), "at least 2 windows"),
        (lambda: ContrastConfig(method="simclr"), "contrast.method must be one of tfc, tstcc"),  # pyright: ignore[reportArgumentType]
        (lambda: ContrastConfig(consistency="both"), "paper, code, none, got both"),  # pyright: ignore[reportArgumentType]
        (lambda: ContrastConfig(temperature=0), "temperature must be > 0, got 0"),
        (lambda: ContrastConfig(weight=1.5), r"weight must lie in \[0, 1\], got 1.5"),
        (lambda: ContrastConfig(segments=1), "segments must be >= 2"),
        (lambda: ContrastConfig(perturbed=1.0), "perturbed must lie in"),
        (lambda: ContrastConfig(jitter=math.nan), "jitter must be >= 0, got nan"),
        (lambda: ContrastConfig(context_dim=6), "multiple of context_heads 4, got 6"),
        (lambda: PatchTstConfig(length=39), "length must be >= 40, got 39"),
        (lambda: PatchTstConfig(heads=5), "heads must divide dim 64, got 5"),
        (lambda: PatchTstConfig(channels=("a", "a")), "each channel once, got a, a"),
        (lambda: PatchTstConfig(mask_ratio=0.0), "leave one, got 0.0|mask at least one"),
        (lambda: PatchTstConfig(norm="none"), "norm must be one of"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_bad_input(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def windows(*shape: int) -> Tensor:
    return rows(9, *shape).float()


def test_a_permuted_window_has_the_same_samples_in_whole_runs() -> None:
    torch.manual_seed(0)
    length = 50
    samples = torch.arange(length).float().expand(64, 2, length)
    found = augment.permute(samples, segments=5)
    assert torch.equal(found[:, 0], found[:, 1])
    assert torch.equal(found.sort(dim=-1).values, samples)
    breaks = (found[:, 0].diff(dim=-1) != 1).sum(dim=-1)
    assert set(breaks.tolist()) == {0, 1, 2, 3}


def test_two_segments_leave_a_window_as_it_is() -> None:
    samples = windows(3, 2, 10)
    assert torch.equal(augment.permute(samples, segments=2), samples)


def test_jitter_follows_the_unit_of_each_channel() -> None:
    torch.manual_seed(0)
    samples = windows(2, 2, 20_000) * torch.tensor([1.0, 1e-6])[:, None]
    added = augment.jitter(samples, share=0.1) - samples
    assert torch.allclose(added.std(dim=-1), 0.1 * samples.std(dim=-1), rtol=0.05)
    flat = torch.ones(1, 1, 30)
    assert torch.equal(augment.jitter(flat, share=0.1), flat)


def test_scale_is_the_same_for_all_channels_and_varies_in_time() -> None:
    torch.manual_seed(0)
    factors = augment.scale(torch.ones(2, 3, 20_000), std=0.5)
    assert torch.equal(factors[:, 0], factors[:, 2])
    assert float(factors.mean()) == pytest.approx(2, abs=0.02)
    assert float(factors[0, 0].std()) == pytest.approx(0.5, abs=0.02)


def test_amplitudes_are_of_all_frequencies_but_0() -> None:
    time = torch.arange(100) / 100
    wave = torch.cos(2 * torch.pi * 7 * time) + 3
    found = augment.amplitudes(wave[None, None])
    assert found.shape == (1, 1, 50)
    assert int(found.argmax()) == 6
    assert float(found[0, 0, 6]) == pytest.approx(math.sqrt(100) / 2, rel=1e-4)
    assert augment.amplitudes(torch.randn(1, 1, 101)).shape[-1] == 50


def test_a_perturbed_spectrum_loses_some_frequencies_and_gains_at_others() -> None:
    torch.manual_seed(0)
    spectrum = torch.full((1, 1, 20_000), 2.0)
    found = augment.perturb(spectrum, share=0.1, raised=0.5)
    removed = found < 2
    assert float(removed.float().mean()) == pytest.approx(0.1, abs=0.01)
    assert float(removed[found > 0].float().mean()) < 0.05
    assert float((found > 2).float().mean()) == pytest.approx(0.09, abs=0.01)
    assert float(found.max()) <= 3
    assert torch.equal(augment.perturb(spectrum, share=0, raised=0.5), spectrum)


def test_views_differ_as_named() -> None:
    torch.manual_seed(0)
    samples = windows(4, 1, 60)
    still = augment.strong_view(samples, jitter_share=0, segments=6)
    assert torch.equal(still.sort(dim=-1).values, samples.sort(dim=-1).values)
    assert not torch.equal(still, samples)
    doubled = augment.weak_view(samples, jitter_share=0, scale_std=0)
    assert torch.equal(doubled, 2 * samples)


def rank_loss(rank: int, world_size: int, first: Tensor, second: Tensor) -> Tensor:
    size = len(first) // world_size
    rows = slice(rank * size, (rank + 1) * size)
    mine = [each[rows].clone().requires_grad_() for each in (first, second)]
    gathered = rows_of_all_ranks(mine)
    nt_xent(gathered[0], gathered[1].flatten(1), temperature=0.2).backward()
    return torch.stack([mine[0].grad, mine[1].grad.flatten(1)]) / world_size  # pyright: ignore[reportOptionalMemberAccess]


def test_ranks_compare_the_windows_of_all() -> None:
    first, second = torch.randn(4, 6), torch.randn(4, 2, 3)
    one = [first.clone().requires_grad_(), second.clone().requires_grad_()]
    nt_xent(one[0], one[1].flatten(1), temperature=0.2).backward()
    parts = run_ranks(rank_loss, 2, first, second)
    found = torch.cat(parts, dim=1)
    assert torch.allclose(found[0], one[0].grad, atol=1e-6)  # pyright: ignore[reportArgumentType]
    assert torch.allclose(found[1], one[1].grad.flatten(1), atol=1e-6)  # pyright: ignore[reportOptionalMemberAccess]

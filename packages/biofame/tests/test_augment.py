"""MixUp and CutMix: what is mixed with what, in which proportion, and soft labels that say so."""

import pytest
import torch

from biofame.augment import blend, mix_windows, paste
from biofame.losses import one_hot

B, C, L, K = 6, 2, 50, 3


def windows() -> torch.Tensor:
    """Return windows that are constant, 10 times their number."""
    return torch.arange(B).float().mul(10)[:, None, None].expand(B, C, L).clone()


def test_mixup_has_one_share_for_the_batch_and_labels_of_the_same() -> None:
    torch.manual_seed(0)
    identity = torch.eye(B)  # labels that tell who is in a mixture
    for _ in range(20):
        mixed = mix_windows(windows(), identity, mixup=0.2, cutmix=0.0)
        assert torch.allclose(mixed.targets.sum(dim=1), torch.ones(B))
        expected = (mixed.targets @ torch.arange(B).float()) * 10
        assert torch.allclose(mixed.samples, expected[:, None, None].expand(B, C, L), atol=1e-4)
        alone = mixed.targets.diagonal() == 1
        shares = mixed.targets.diagonal()[~alone]
        assert torch.allclose(shares, shares[:1].expand_as(shares), atol=1e-6)
        # A permutation: everyone is a partner once.
        assert torch.allclose(mixed.targets.sum(dim=0), torch.ones(B), atol=1e-5)


def test_shares_are_of_a_beta_distribution() -> None:
    torch.manual_seed(0)
    draws = []
    for _ in range(2000):
        targets = mix_windows(windows()[:, :, :1], torch.eye(B), mixup=0.2, cutmix=0.0).targets
        others = targets.diagonal()[targets.diagonal() < 1]
        draws.append(float(others[0]) if len(others) else 1.0)
    shares = torch.tensor(draws)
    # Beta(0.2, 0.2): mean 1/2, variance 1 / (4 (2 * 0.2 + 1)).
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(shares.var()) == pytest.approx(1 / 5.6, abs=0.02)


def test_cutmix_takes_one_stretch_of_all_channels_and_labels_count_its_samples() -> None:
    torch.manual_seed(0)
    for _ in range(20):
        mixed = mix_windows(windows(), torch.eye(B), mixup=0.0, cutmix=1.0)
        assert torch.equal(mixed.samples[:, :1].expand(B, C, L), mixed.samples)
        for row in range(B):
            numbers = (mixed.samples[row, 0] / 10).long()
            counted = torch.bincount(numbers, minlength=B) / L
            assert torch.allclose(mixed.targets[row], counted, atol=1e-6)
            taken = (numbers != row).nonzero().flatten()
            assert len(taken) in (0, int(taken.max() - taken.min()) + 1 if len(taken) else 0)


def test_with_both_a_coin_decides() -> None:
    torch.manual_seed(0)
    kinds = set()
    for _ in range(40):
        samples = mix_windows(windows(), torch.eye(B), mixup=1.0, cutmix=1.0).samples
        kinds.add(bool((samples.std(dim=-1) > 1e-3).any()))
    assert kinds == {True, False}


def test_a_mixture_has_the_channels_of_both() -> None:
    torch.manual_seed(1)
    present = torch.tensor([[True, False]] * 3 + [[False, True]] * 3)
    mixed = mix_windows(windows(), torch.eye(B), mixup=0.5, cutmix=0.0, present_BC=present)
    assert mixed.present is not None
    parts = mixed.targets > 0
    assert torch.equal(mixed.present, (parts.float() @ present.float()) > 0)


def test_nothing_is_mixed_without_either_and_the_generator_stands() -> None:
    before = torch.get_rng_state()
    samples, targets = windows(), torch.eye(B)
    mixed = mix_windows(samples, targets, mixup=0.0, cutmix=0.0)
    assert mixed.samples is samples
    assert mixed.targets is targets
    assert torch.equal(torch.get_rng_state(), before)


def test_the_step_seed_decides() -> None:
    found = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        found.append(mix_windows(windows(), torch.eye(B), mixup=0.2, cutmix=0.2).samples)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_blend_paste_and_one_hot() -> None:
    own, other = torch.zeros(1, 2, 5), torch.ones(1, 2, 5)
    assert torch.equal(blend(own, other, share=0.75), torch.full((1, 2, 5), 0.25))
    pasted = paste(own, other, first=1, length=3)
    assert pasted[0].tolist() == [[0, 1, 1, 1, 0]] * 2
    assert torch.equal(own, torch.zeros(1, 2, 5))
    assert one_hot(torch.tensor([2, -1]), K).tolist() == [[0, 0, 1], [0, 0, 0]]

"""The partition into visible and masked tokens, and what masked tokens can tell the mixer."""

import pytest
import torch
from torch import Tensor

from biofame.config import DecoderConfig, LossConfig, ModelConfig
from biofame.mae import MaskedAutoencoder
from biofame.masking import Partition, draw_partition, is_masked, take

CPU = torch.device("cpu")


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_autoencoder(*, masking: str, **options: object) -> MaskedAutoencoder:
    torch.manual_seed(0)
    model = ModelConfig(
        channels=("eeg", "eog"), tokens=9, patch=4, dim=8, depth=2, mlp=8, mixer_heads=2,
        mixer_mlp=8, filter_std=0.5, **options,
    )  # fmt: skip
    decoder = DecoderConfig(heads=2, mlp=8)
    return MaskedAutoencoder(model, decoder, LossConfig(masking=masking)).eval()


def draw(ratio: float, tokens: int, *, windows: int = 6, channels: int = 3) -> Partition:
    torch.manual_seed(0)
    return draw_partition(windows, channels, tokens, ratio=ratio, device=CPU)


@pytest.mark.parametrize(
    ("ratio", "tokens", "count"),
    [(0.5, 150, 75), (0.5, 9, 4), (0.75, 9, 6), (0.15, 15, 2), (0.5, 2, 1), (0.99, 150, 148)],
)
def test_partition_is_exact(ratio: float, tokens: int, count: int) -> None:
    visible, masked = draw(ratio, tokens)
    assert masked.shape == (6, 3, count)
    assert visible.shape == (6, 3, tokens - count)
    assert masked.dtype == visible.dtype == torch.int64
    together = torch.cat([visible, masked], dim=-1).sort(dim=-1).values
    assert torch.equal(together, torch.arange(tokens).expand(6, 3, -1))


def test_channels_and_windows_are_masked_independently() -> None:
    masked = draw(0.5, 150).masked.sort(dim=-1).values.flatten(0, 1)
    assert len({tuple(row) for row in masked.tolist()}) == 18


def test_every_token_is_masked_equally_often() -> None:
    mask = is_masked(draw(0.3, 10, windows=2000), 10)
    torch.testing.assert_close(
        mask.float().mean(dim=(0, 1)), torch.full((10,), 0.3), rtol=0, atol=0.03
    )
    # Of two channels: independent, so that both mask a token in 0.3 * 0.3 of all windows.
    both = (mask[:, 0] & mask[:, 1]).float().mean().item()
    assert both == pytest.approx(0.09, abs=0.015)


def test_partition_is_torchs_generators() -> None:
    assert torch.equal(draw(0.5, 20).masked, draw(0.5, 20).masked)
    torch.manual_seed(1)
    other = draw_partition(6, 3, 20, ratio=0.5, device=CPU)
    assert not torch.equal(other.masked, draw(0.5, 20).masked)


@pytest.mark.parametrize(("ratio", "tokens"), [(0.5, 1), (0.1, 9)])
def test_nothing_to_mask(ratio: float, tokens: int) -> None:
    message = f"mask_ratio {ratio} masks 0 of {tokens} tokens; .* choose another ratio"
    with pytest.raises(ValueError, match=message):
        draw(ratio, tokens)


def test_take_is_a_loop_over_windows_channels_and_numbers() -> None:
    tokens, numbers = noise(6, 3, 9, 5), draw(0.5, 9).masked
    taken = take(tokens, numbers)
    assert taken.shape == (6, 3, 4, 5)
    for b in range(6):
        for c in range(3):
            for k in range(4):
                assert torch.equal(taken[b, c, k], tokens[b, c, numbers[b, c, k]])
    assert torch.equal(take(tokens[:1], numbers), take(tokens[:1].repeat(6, 1, 1, 1), numbers))


def test_mask_marks_the_masked_tokens() -> None:
    partition = draw(0.5, 9)
    mask = is_masked(partition, 9)
    assert mask.shape == (6, 3, 9)
    assert take(mask[..., None], partition.masked).all()
    assert not take(mask[..., None], partition.visible).any()


def inputs_of(
    autoencoder: MaskedAutoencoder, samples: Tensor, partition: Partition
) -> dict[str, Tensor]:
    """Return what the encoder and the mixer get."""
    seen: dict[str, Tensor] = {}

    def watch(name: str) -> None:
        def keep(_module: torch.nn.Module, args: tuple[Tensor, ...]) -> None:
            seen[name] = args[0]

        handles.append(getattr(autoencoder.network, name).register_forward_pre_hook(keep))

    handles: list[torch.utils.hooks.RemovableHandle] = []
    for name in ("encoder", "mixer"):
        watch(name)
    autoencoder(samples, partition=partition)
    for handle in handles:
        handle.remove()
    return seen


def perturbed(samples: Tensor, partition: Partition, *, window: int, channel: int) -> Tensor:
    """Return samples with other numbers in one masked patch."""
    patch = partition.masked[window, channel, 0]
    changed = samples.clone()
    changed[window, channel, 4 * patch : 4 * patch + 4] = noise(4, seed=9)
    return changed


@pytest.mark.parametrize("masking", ["latent", "input"])
def test_mixer_sees_visible_tokens_only_and_the_encoder_all(masking: str) -> None:
    autoencoder, partition = make_autoencoder(masking=masking), draw(0.5, 9, channels=2)
    seen = inputs_of(autoencoder, noise(6, 2, 36), partition)
    assert seen["encoder"].shape == (6, 2, 9, 8)
    assert seen["mixer"].shape == (6, 2 * 5, 8)
    latent = autoencoder.network.encoder(seen["encoder"], rate=100.0)
    expected = take(latent, partition.visible).flatten(1, 2)
    torch.testing.assert_close(seen["mixer"], expected)


def test_latent_masking_keeps_the_spectrum_of_masked_patches() -> None:
    autoencoder = make_autoencoder(masking="latent", revin=False)
    samples, partition = noise(6, 2, 36), draw(0.5, 9, channels=2)
    changed = perturbed(samples, partition, window=1, channel=1)
    before = inputs_of(autoencoder, samples, partition)["mixer"]
    after = inputs_of(autoencoder, changed, partition)["mixer"]
    differs = (before != after).any(dim=-1)
    # All five visible tokens of the one channel of the one window, and no other.
    assert torch.equal(differs.nonzero()[:, 0], torch.ones(5, dtype=torch.int64))
    assert differs[1, 5:].all()
    assert (before - after)[1, 5:].abs().max() > 1e-2


def test_input_masking_hides_masked_patches() -> None:
    autoencoder = make_autoencoder(masking="input", revin=False)
    samples, partition = noise(6, 2, 36), draw(0.5, 9, channels=2)
    before = inputs_of(autoencoder, samples, partition)
    for window, channel in ((1, 1), (4, 0)):
        changed = perturbed(samples, partition, window=window, channel=channel)
        after = inputs_of(autoencoder, changed, partition)
        assert torch.equal(before["encoder"], after["encoder"])
        assert torch.equal(before["mixer"], after["mixer"])


def test_input_masking_with_revin_tells_of_masked_patches_mean_and_deviation_only() -> None:
    autoencoder = make_autoencoder(masking="input")
    samples, partition = noise(6, 2, 36), draw(0.5, 9, channels=2)
    before = inputs_of(autoencoder, samples, partition)["mixer"]
    start = 4 * int(partition.masked[1, 1, 0])
    reversed_patch = samples.clone()
    reversed_patch[1, 1, start : start + 4] = samples[1, 1, start : start + 4].flip(0)
    after = inputs_of(autoencoder, reversed_patch, partition)["mixer"]
    torch.testing.assert_close(before, after)


def test_input_masking_puts_the_mask_token_into_masked_places() -> None:
    autoencoder, partition = make_autoencoder(masking="input"), draw(0.5, 9, channels=2)
    tokens = inputs_of(autoencoder, noise(6, 2, 36), partition)["encoder"]
    masked = take(tokens, partition.masked)
    assert torch.equal(masked, autoencoder.mask_token.expand_as(masked))
    assert not (take(tokens, partition.visible) == autoencoder.mask_token).any()

"""Named channels: permuted, dropped, absent, unknown; one checkpoint for all of them."""

import pytest
import torch
from torch import Tensor

from biofame.channel_rows import UNKNOWN, copy_rows, row_numbers, select_rows
from biofame.config import DecoderConfig, LossConfig, ModelConfig
from biofame.mae import MaskedAutoencoder, Reconstruction
from biofame.masking import Partition, draw_partition
from biofame.model import BioFame, blank_absent

CHANNELS = ("eeg", "eog", "emg")


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_network(**options: object) -> BioFame:
    """Return a network whose channels' scales and shifts differ, as after training."""
    torch.manual_seed(0)
    small = {
        "channels": CHANNELS, "tokens": 9, "patch": 4, "dim": 8, "depth": 2, "mlp": 8,
        "mixer_heads": 2, "mixer_mlp": 8, "filter_std": 0.5, "patch_norm": False,
    }  # fmt: skip
    network = BioFame(ModelConfig(**(small | options))).eval()
    with torch.no_grad():
        network.revin.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
        network.revin.bias.copy_(torch.tensor([1.0, 0.0, -1.0]))
    return network


def test_rows_are_found_by_name() -> None:
    assert row_numbers(CHANNELS, CHANNELS) == [0, 1, 2]
    assert row_numbers(CHANNELS, ("emg", "resp", "eeg")) == [2, UNKNOWN, 0]
    assert row_numbers(CHANNELS, ()) == []


def test_channels_named_twice() -> None:
    with pytest.raises(ValueError, match="named once each, got eeg, eog, eeg"):
        row_numbers(CHANNELS, ("eeg", "eog", "eeg"))


def test_selected_rows_are_neutral_where_unknown() -> None:
    table = noise(3, 2, 4).requires_grad_()
    got = select_rows(table, torch.tensor([2, -1, 0]), neutral=7.0)
    assert torch.equal(got, torch.stack([table[2], torch.full((2, 4), 7.0), table[0]]))
    got.sum().backward()
    assert table.grad.flatten(1).sum(dim=1).tolist() == [8.0, 0.0, 8.0]


def test_copied_rows_go_by_name_and_stand_alone() -> None:
    table = noise(3, 4)
    copy = copy_rows(table, CHANNELS, ("resp", "emg", "eeg"), neutral=1.0)
    assert torch.equal(copy, torch.stack([torch.ones(4), table[2], table[0]]))
    copy.zero_()
    assert (table != 0).all()


@pytest.mark.parametrize("positional", ["none", "time", "modality", "both"])
@pytest.mark.parametrize("mixing", ["filter", "attention"])
def test_order_of_named_channels_does_not_matter(mixing: str, positional: str) -> None:
    network = make_network(mixing=mixing, mixer_positional=positional)
    samples, order = noise(3, 3, 36), [2, 0, 1]
    names = [CHANNELS[c] for c in order]
    reordered = network(samples[:, order], channels=names)
    torch.testing.assert_close(reordered, network(samples)[:, order])


def test_without_tables_the_network_does_not_tell_channels_apart() -> None:
    samples, order = noise(3, 3, 36), [2, 0, 1]

    def is_equivariant(network: BioFame) -> bool:
        permuted = network(samples[:, order])
        return torch.allclose(permuted, network(samples)[:, order], atol=1e-5)

    untrained = make_network()
    with torch.no_grad():
        untrained.revin.weight.fill_(1.0)
        untrained.revin.bias.zero_()
    assert is_equivariant(untrained)
    assert not is_equivariant(make_network())  # RevIN's own rows
    assert not is_equivariant(make_network(mixer_positional="modality"))


@pytest.mark.parametrize("garbage", [0.0, 1e6, float("nan"), float("inf")])
@pytest.mark.parametrize("positional", ["none", "both"])
def test_dropped_channel_is_absent_channel_is_smaller_window(
    positional: str, garbage: float
) -> None:
    network, samples = make_network(mixer_positional=positional), noise(3, 3, 36)
    samples[:, 1] = garbage
    present = torch.tensor([True, False, True]).expand(3, -1)
    masked = network(samples, present_BC=present)[:, [0, 2]]
    dropped = network(samples[:, [0, 2]], channels=("eeg", "emg"))
    torch.testing.assert_close(masked, dropped)


def test_windows_lack_channels_one_by_one() -> None:
    network, samples = make_network(), noise(3, 3, 36)
    present = torch.tensor([[True, True, True], [True, False, True], [False, False, True]])
    mixed = network(samples, present_BC=present)
    for row, there in enumerate(present):
        names = [name for name, is_there in zip(CHANNELS, there, strict=True) if is_there]
        alone = network(samples[[row]][:, there], channels=names)
        torch.testing.assert_close(mixed[[row]][:, there], alone)
    everyone = torch.ones(3, 3, dtype=torch.bool)
    torch.testing.assert_close(network(samples, present_BC=everyone), network(samples))


def test_absent_channels_get_and_give_no_gradient() -> None:
    network = make_network()
    samples = noise(3, 3, 36).requires_grad_()
    present = torch.tensor([True, False, True]).expand(3, -1)
    network(samples, present_BC=present)[:, [0, 2]].square().sum().backward()
    by_channel = samples.grad.abs().sum(dim=(0, 2)) > 0
    assert by_channel.tolist() == [True, False, True]


def test_blank_channels_are_zero_and_the_others_as_they_were() -> None:
    samples = noise(2, 3, 4)
    present = torch.tensor([[True, True, False], [False, True, True]])
    blank = blank_absent(samples, present)
    assert (blank[~present] == 0).all()
    assert torch.equal(blank[present], samples[present])
    assert blank_absent(samples, None) is samples


def test_unknown_channels_run_with_neutral_parameters() -> None:
    network, samples = make_network(mixer_positional="both"), noise(3, 2, 36)
    mixed = network(samples, channels=("resp", "ecg"))
    neutral = make_network(mixer_positional="both")
    with torch.no_grad():
        neutral.revin.weight.fill_(1.0)
        neutral.revin.bias.zero_()
        neutral.mixer.modality.table_KTD.zero_()
    torch.testing.assert_close(mixed, neutral(samples, channels=("eeg", "eog")))


def test_known_channels_keep_their_rows_beside_unknown_ones() -> None:
    network, samples = make_network(mixer_depth=0), noise(3, 2, 36)
    mixed = network(samples, channels=("resp", "emg"))
    alone = network(samples[:, [1]], channels=("emg",))
    torch.testing.assert_close(mixed[:, [1]], alone)


def test_more_channels_than_the_network_was_made_for() -> None:
    network, samples = make_network(), noise(2, 5, 36)
    names = ("resp", "emg", "ecg", "eeg", "eog")
    mixed = network(samples, channels=names)
    assert mixed.shape == (2, 5, 9, 8)
    assert mixed.isfinite().all()


@pytest.mark.parametrize(
    ("count", "names", "message"),
    [
        (2, None, "windows have 2 channels, 3 are named: eeg, eog, emg"),
        (3, ("eeg", "eog"), "windows have 3 channels, 2 are named: eeg, eog"),
        (2, ("eeg", "eeg"), "named once each, got eeg, eeg"),
    ],
)
def test_names_that_do_not_fit(count: int, names: tuple[str, ...] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_network()(noise(2, count, 36), channels=names)


def make_autoencoder(*, divisor: str = "code") -> MaskedAutoencoder:
    torch.manual_seed(0)
    decoder = DecoderConfig(heads=2, mlp=8)
    return MaskedAutoencoder(make_network().config, decoder, LossConfig(divisor=divisor)).eval()


def partition_of() -> Partition:
    torch.manual_seed(5)
    return draw_partition(4, 3, 9, ratio=0.5, device=torch.device("cpu"))


def test_absent_channels_do_not_count() -> None:
    predicted, target = noise(4, 3, 5, 4), noise(4, 3, 5, 4, seed=2)
    present = torch.tensor(
        [[True, True, False], [True, False, False], [True, True, False], [True, False, False]]
    )
    predicted.requires_grad_()
    target = target.where(present[..., None, None], 1e3)
    losses = make_autoencoder(divisor="mean").loss(
        Reconstruction(predicted, target, partition_of()), present_BC=present
    )
    square = ((predicted - target) ** 2)[present]
    torch.testing.assert_close(losses.total, square.mean())
    for c in (0, 1):
        there = present[:, c]
        square = ((predicted - target)[there, c] ** 2).mean()
        variance = target[there, c].numpy().var()
        assert losses.error[c].item() == pytest.approx(square.item() / variance, rel=1e-4)
    assert losses.error[2].isnan()
    losses.total.backward()
    assert (predicted.grad[~present] == 0).all()
    assert (predicted.grad[present] != 0).all()


@pytest.mark.parametrize("garbage", [0.0, 1e6, float("nan")])
def test_absent_channels_samples_do_not_matter(garbage: float) -> None:
    autoencoder, partition = make_autoencoder(), partition_of()
    present = torch.tensor([[True, True, False], [True, False, True], [True] * 3, [True] * 3])
    samples = noise(4, 3, 36)
    changed = samples.where(present[..., None], garbage)

    def run(windows: Tensor) -> tuple[Tensor, Tensor]:
        made = autoencoder(windows, partition=partition, present_BC=present)
        return made.predicted[present], autoencoder.loss(made, present_BC=present).total

    for mine, theirs in zip(run(samples), run(changed), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_decoders_do_not_attend_to_absent_channels() -> None:
    autoencoder, samples, partition = make_autoencoder(), noise(4, 3, 36), partition_of()
    present = torch.tensor([True, False, True]).expand(4, -1)
    before = autoencoder(samples, partition=partition, present_BC=present).predicted
    with torch.no_grad():
        autoencoder.positions.table_KTD[1] += noise(9, 8, seed=7)
    after = autoencoder(samples, partition=partition, present_BC=present).predicted
    torch.testing.assert_close(after[present], before[present])
    assert not torch.allclose(after[~present], before[~present], atol=1e-3)


def test_window_without_any_channel_does_no_harm() -> None:
    autoencoder = make_autoencoder()
    present = torch.tensor([[True] * 3, [False] * 3])
    made = autoencoder(noise(2, 3, 36), present_BC=present)
    losses = autoencoder.loss(made, present_BC=present)
    losses.total.backward()
    assert losses.total.isfinite()
    assert all(p.grad.isfinite().all() for p in autoencoder.parameters())

"""Tables of positions, read at the times of patches."""

import pytest
import torch
from torch import Tensor

from biofame.config import ModelConfig
from biofame.mixer import Mixer
from biofame.positions import STD, ChannelTimeTable, TimeTable, read_at

CHANNELS = ("eeg", "eog", "emg")


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_config(**options: object) -> ModelConfig:
    small = {"channels": CHANNELS, "tokens": 6, "dim": 8, "mixer_heads": 2, "rate": 100.0}
    return ModelConfig(**(small | options))


def read_by_loop(table_TD: Tensor, tokens: int, *, share: float) -> Tensor:
    """Interpolate between the centres of rows; before the first and after the last they hold."""
    rows = []
    for n in range(tokens):
        place = min(max((n + 0.5) * share - 0.5, 0.0), len(table_TD) - 1.0)
        low = min(int(place), len(table_TD) - 1)
        high = min(low + 1, len(table_TD) - 1)
        rows.append(table_TD[low] * (1 - (place - low)) + table_TD[high] * (place - low))
    return torch.stack(rows)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.78, 1.0, 1.5, 4.0])
@pytest.mark.parametrize("tokens", [1, 4, 6, 13])
@pytest.mark.parametrize("rows", [1, 2, 6])
def test_reading_is_interpolation(rows: int, tokens: int, share: float) -> None:
    table = noise(rows, 3)
    torch.testing.assert_close(
        read_at(table, tokens, share=share), read_by_loop(table, tokens, share=share)
    )


def test_own_rate_reads_rows_as_they_are() -> None:
    table = noise(6, 3)
    assert torch.equal(read_at(table, 4, share=1.0), table[:4])
    longer = read_at(table, 9, share=1.0)
    assert torch.equal(longer, torch.cat([table, table[-1:].expand(3, -1)]))


def test_a_linear_table_gives_physical_time() -> None:
    """Twice the rate: patches half as long, whose centres lie between the rows' centres."""
    centres = torch.arange(6.0)[:, None] + 0.5  # seconds, of a table with one second a row
    got = read_at(centres, 12, share=0.5)[:, 0]
    assert got[1:-1].tolist() == [0.75, 1.25, 1.75, 2.25, 2.75, 3.25, 3.75, 4.25, 4.75, 5.25]


def test_reading_is_the_same_for_leading_axes_and_differentiable() -> None:
    table = noise(2, 4, 3).double().requires_grad_()
    out = read_at(table, 5, share=0.7)
    for row in range(2):
        torch.testing.assert_close(out[row], read_at(table[row], 5, share=0.7))
    assert torch.autograd.gradcheck(lambda t: read_at(t, 5, share=0.7), (table,))


def test_time_table_reads_at_the_recordings_rate() -> None:
    table = TimeTable(make_config())
    assert torch.equal(table(6, rate=100.0), table.table_TD)
    expected = read_by_loop(table.table_TD, 12, share=0.5)
    torch.testing.assert_close(table(12, rate=200.0), expected)
    expected = read_by_loop(table.table_TD, 3, share=2.0)
    torch.testing.assert_close(table(3, rate=50.0), expected)


def test_channel_table_has_a_block_a_channel_and_zeros_for_others() -> None:
    table = ChannelTimeTable(make_config())
    rows = torch.tensor([2, -1, 0])
    got = table(rows, 4, rate=100.0)
    assert torch.equal(got[0], table.table_KTD[2, :4])
    assert (got[1] == 0).all()
    assert torch.equal(got[2], table.table_KTD[0, :4])
    faster = table(rows, 12, rate=200.0)
    torch.testing.assert_close(faster[0], read_by_loop(table.table_KTD[2], 12, share=0.5))
    assert (faster[1] == 0).all()


def test_tables_start_as_they_say() -> None:
    torch.manual_seed(0)
    config = make_config(tokens=150, dim=64)
    assert TimeTable(config).table_TD.std().item() == pytest.approx(STD, rel=0.05)
    assert ChannelTimeTable(config).table_KTD.std().item() == pytest.approx(STD, rel=0.05)
    assert ChannelTimeTable(config, std=1.0).table_KTD.std().item() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("positional", ["none", "time", "modality", "both"])
def test_mixer_adds_the_tables_it_was_told(positional: str) -> None:
    torch.manual_seed(0)
    mixer = Mixer(make_config(mixer_positional=positional))
    latent, rows = noise(2, 3, 6, 8), torch.tensor([1, 0, -1])
    expected = latent.clone()
    if positional in ("time", "both"):
        expected += mixer.time(6, rate=100.0)
    if positional in ("modality", "both"):
        expected += mixer.modality(rows, 6, rate=100.0)
    placed = mixer.place(latent, rows, rate=100.0)
    torch.testing.assert_close(placed, expected)
    assert torch.equal(placed, latent) is (positional == "none")
    held = {name for name in ("time", "modality") if getattr(mixer, name) is not None}
    assert held == {"none": set(), "both": {"time", "modality"}}.get(positional, {positional})

"""What filters do to windows, against what is known of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from trained_runs import MODEL, saved_pretraining, trained

from biofame.config import ModelConfig
from biofame.filter_report import choose_rows, filter_report, filters
from biofame.model import BioFame
from biofame.store import SignalStore, StoreInfo, Windows, open_store, write_store

SAMPLES_BCL = torch.randn(3, 2, 24, generator=torch.Generator().manual_seed(5))


def with_bank(config: ModelConfig, real: float, imag: float = 0.0) -> BioFame:
    """Return a network whose filters all multiply every frequency by the same number."""
    network = trained(config)
    with torch.no_grad():
        for block in network.encoder.blocks:
            block.filter.bank_HD2[..., 0] = real
            block.filter.bank_HD2[..., 1] = imag
    return network


@pytest.mark.parametrize("post_norm", [False, True])
def test_a_scaling_has_its_factor_as_gain_everywhere(post_norm: bool) -> None:
    reports = filter_report(with_bank(replace(MODEL, post_norm=post_norm), -0.3), SAMPLES_BCL)
    assert len(reports) == MODEL.depth
    for block in reports:
        assert block.gain == pytest.approx(0.3, rel=1e-5)
        np.testing.assert_allclose(block.response, 0.3, rtol=1e-5)
        assert block.selectivity == pytest.approx(0, abs=1e-6)


def test_frequencies_are_the_tokens_in_hertz() -> None:
    odd = filter_report(trained(), SAMPLES_BCL[..., :20])[0]
    np.testing.assert_allclose(odd.frequencies, [0, 5, 10])
    twice = filter_report(trained(), SAMPLES_BCL, rate=200.0)[0]
    np.testing.assert_allclose(twice.frequencies, [0, 200 / 24, 400 / 24, 25])


@pytest.mark.parametrize("post_norm", [False, True])
def test_the_share_is_what_a_block_adds(post_norm: bool) -> None:
    config = replace(MODEL, depth=1, post_norm=post_norm, operator="query")
    network = trained(config)
    with torch.no_grad():
        block = network.encoder.blocks[0]
        for parameter in block.feed_forward.parameters():
            parameter.zero_()
        block.feed_forward_norm.bias.zero_()
        cut = network.cut(SAMPLES_BCL, network.rows(SAMPLES_BCL, None))
        tokens = network.tokenizer(cut.patches)
        added = network.encoder(tokens, rate=100.0) - tokens
        expected = float(added.norm() / tokens.norm())
    assert filter_report(network, SAMPLES_BCL)[0].share == pytest.approx(expected, rel=1e-4)


def test_later_blocks_see_what_earlier_ones_made() -> None:
    network = trained(replace(MODEL, encoder_positional=True))
    given: list[torch.Tensor] = []
    for block in network.encoder.blocks:
        block.filter.register_forward_hook(
            lambda _, inputs, output: given.append(output.norm() / inputs[0].norm())
        )
    with torch.no_grad():
        network(SAMPLES_BCL)
    expected = [float(value) for value in given]
    found = [block.gain for block in filter_report(network, SAMPLES_BCL)]
    assert found == pytest.approx(expected, rel=1e-5)


def test_query_prefers_frequencies_and_pool_cannot() -> None:
    pool = filter_report(trained(), SAMPLES_BCL)
    query = filter_report(trained(replace(MODEL, operator="query")), SAMPLES_BCL)
    assert max(block.selectivity for block in pool) < 1e-6
    assert min(block.selectivity for block in query) > 0.01


def test_absent_channels_are_left_out() -> None:
    network = trained()
    windows = SAMPLES_BCL.clone()
    windows[1, 0] = torch.nan
    present = torch.tensor([[True, True], [False, True], [True, True]])
    found = filter_report(network, windows, present_BC=present)
    expected = filter_report(network, SAMPLES_BCL, present_BC=present)
    assert [block.gain for block in found] == [block.gain for block in expected]
    whole = filter_report(network, SAMPLES_BCL)
    assert found[0].share != whole[0].share


def make_store(folder: Path) -> SignalStore:
    """Write ten windows of three channels, the odd ones shorter, and two of another length."""
    n = 12
    samples = SAMPLES_BCL[:1].numpy().repeat(n, 0)
    samples = np.concatenate([samples, samples[:, :1] * 2], axis=1)
    lengths = np.array([24, 20] * 4 + [24, 24, 8, 8])
    present = np.ones((n, 3), dtype=np.bool_)
    present[0, 2] = False
    info = StoreInfo(channels=("eog", "eeg", "emg"), units=("uV",) * 3, rate=50.0)
    windows = Windows(
        samples=samples,
        subjects=["a"] * n,
        recordings=["r"] * n,
        onsets=np.arange(n, dtype=np.float64),
        lengths=lengths,
        present=present,
    )
    write_store(folder, info, [windows])
    return open_store(folder)


def test_windows_are_of_the_commonest_length(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    assert choose_rows(store, 64).tolist() == [0, 2, 4, 6, 8, 9]
    assert choose_rows(store, 3).tolist() == [0, 4, 9]
    with pytest.raises(ValueError, match="windows must be >= 1, got 0"):
        choose_rows(store, 0)


def test_the_verb_prints_a_row_for_each_block_and_plots(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = saved_pretraining(tmp_path / "x.ckpt", with_bank(MODEL, 0.3, 0.4))
    make_store(tmp_path / "store")
    filters(run, tmp_path / "store", out=tmp_path / "gain.png")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    rows = [line for line in lines if len(line) > 1 and line[1] in ("0", "1")]
    assert len(rows) == MODEL.depth
    assert (tmp_path / "gain.png").read_bytes().startswith(b"\x89PNG")


def test_what_has_no_filters_is_refused(tmp_path: Path) -> None:
    network = trained(replace(MODEL, mixing="attention"))
    with pytest.raises(ValueError, match=r"model\.mixing attention has no filters"):
        filter_report(network, SAMPLES_BCL)
    with pytest.raises(ValueError, match=r"must end in \.png"):
        filters(tmp_path, tmp_path, out=tmp_path / "x.pdf")

import json
from pathlib import Path

import pytest

from dataset_decomposition.prepare import prepare
from dataset_decomposition.records import read_info
from dataset_decomposition.stats import (
    average_context_length,
    average_sequence_length,
    official_tokens,
    stats,
    summary,
)

# Paper, Table 1: tokens x 2^30 from D_6 .. D_13, average sequence length, average context length.
TABLE_1 = {
    "natural": ((3, 6, 10, 17, 21, 17, 13, 9), 482, 1018),
    "equal": ((12,) * 8, 257, 1020),
    "1k-only": ((0, 0, 0, 0, 96, 0, 0, 0), 1024, 512),
    "<=2k": ((16, 16, 16, 16, 16, 16, 0, 0), 195, 336),
    ">=256": ((0, 0, 16, 16, 16, 16, 16, 16), 780, 1344),
}


def half_up(value: float) -> int:
    return int(value + 0.5)


@pytest.mark.parametrize("name", TABLE_1)
def test_averages_are_the_published_integers(name: str):
    amounts, sequence, context = TABLE_1[name]
    tokens = {6 + i: amount * 2**30 for i, amount in enumerate(amounts)}
    assert half_up(average_sequence_length(tokens)) == sequence
    assert half_up(average_context_length(tokens)) == context


def test_averages_equal_the_naive_sums_over_sequences():
    counts = {0: 5, 2: 3, 5: 2}
    lengths = [2**k for k, n in counts.items() for _ in range(n)]
    tokens = {k: n * 2**k for k, n in counts.items()}
    assert average_sequence_length(tokens) == pytest.approx(sum(lengths) / len(lengths))
    contexts = [position for length in lengths for position in range(length)]
    assert average_context_length(tokens) == pytest.approx(sum(contexts) / len(contexts))


@pytest.mark.parametrize("average", [average_sequence_length, average_context_length])
def test_averages_of_nothing_are_refused(average):
    with pytest.raises(ValueError, match="all 0"):
        average({8: 0})
    with pytest.raises(ValueError, match="must not be negative"):
        average({8: -1, 9: 5})


def test_official_shard_counts_give_the_published_tokens():
    buckets = range(8, 14)
    wikipedia = dict(zip(buckets, (553, 779, 831, 690, 475, 291), strict=True))
    dclm = dict(zip(buckets, (3560, 5996, 7410, 6309, 5157, 4513), strict=True))
    assert official_tokens(wikipedia) == 3_794_796_544
    assert official_tokens(dclm) == 34_545_336_320


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for index, length in enumerate((3, 40, 100, 300, 1000)):
        (folder / f"{index}.txt").write_text("x" * length)
    prepare([str(folder)], folder / "out", min_bucket=4, max_bucket=6)
    return folder / "out"


def test_stats_prints_json(data: Path, capsys: pytest.CaptureFixture[str]):
    capsys.readouterr()
    stats(data, json=True)
    figures = json.loads(capsys.readouterr().out)
    assert figures == json.loads(json.dumps(summary(read_info(data))))
    assert figures["balanced"]
    assert figures["documents"] == {"in": 5, "usable": 5, "empty": 0, "failed": {}}
    assert figures["tokens"]["in"] == 3 + 40 + 100 + 300 + 1000 + 5
    assert figures["tokens"]["dropped_short"] == 4
    assert sum(figures["shares"].values()) == pytest.approx(1)


def test_stats_prints_every_token_and_bucket(data: Path, capsys: pytest.CaptureFixture[str]):
    stats(data)
    printed = capsys.readouterr().out
    info = read_info(data)
    for key in ("in", "kept", "dropped_tail", "dropped_short"):
        assert f"{info['tokens'][key]:,}" in printed
    for bucket in ("D_4", "D_5", "D_6"):
        assert bucket in printed
    assert "512 to 1,023 tokens" in printed


def test_stats_explains_stored_tokens(data: Path, capsys: pytest.CaptureFixture[str]):
    stats(data)
    printed = " ".join(capsys.readouterr().out.split())
    info = read_info(data)
    stored = sum(bucket["sequences"] * 2 ** int(k) for k, bucket in info["buckets"].items())
    stored += sum(bucket["sequences"] for bucket in info["buckets"].values())
    assert stored == info["tokens"]["kept"]
    assert f"one fewer a row than the {stored:,} stored" in printed


@pytest.mark.parametrize("json_wanted", [False, True])
def test_stats_warns_of_tokens_that_do_not_add_up(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, json_wanted: bool
):
    stats(data, json=json_wanted)
    assert not caplog.records
    info = read_info(data)
    info["tokens"]["kept"] -= 1
    (tmp_path / "dataset.json").write_text(json.dumps(info))
    stats(tmp_path, json=json_wanted)
    assert "tokens that do not add up: in 1,448, kept" in caplog.text


def test_stats_of_an_unfinished_folder(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"has no dataset\.json; run prepare"):
        stats(tmp_path)

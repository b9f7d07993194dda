"""Batches of one bucket: plan and length of the run, resume, ranks, held-out documents."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from dataset_decomposition.data import DecompositionData, HeldoutBatches, TokenReader
from dataset_decomposition.prepare import prepare
from tenfold.bucketing import BadRecordError
from tenfold.testing import run_ranks


def write_documents(folder: Path) -> Path:
    """Write and prepare 300 documents of 1 to 400 bytes, buckets D_3 to D_6."""
    lengths = np.random.Generator(np.random.Philox(key=5)).integers(1, 400, 300)
    (folder / "text").mkdir(parents=True)
    for number, length in enumerate(lengths.tolist()):
        (folder / "text" / f"{number:03d}.txt").write_text(chr(97 + number % 26) * length)
    train, heldout = (str(folder / "text" / name) for name in ("??[0-8].txt", "??9.txt"))
    prepare([train], folder / "data", min_bucket=3, max_bucket=6, heldout=[heldout])
    return folder / "data"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_documents(tmp_path_factory.mktemp("documents"))


def make(path: Path, *, step: int = 0, **changes: Any) -> DecompositionData:
    """Make the data module of one rank, its trainer at `step`."""
    ranks = {name: changes.pop(name, default) for name, default in (("rank", 0), ("world", 1))}
    accum = changes.pop("accum", 1)
    options = {"tokens_per_step": 256, "total_steps": 60, "cycles": 2, "workers": 0, **changes}
    data = DecompositionData(path, **{"mixture": "natural", **options})
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        global_step=step,
        global_rank=ranks["rank"],
        world_size=ranks["world"],
        accumulate_grad_batches=accum,
    )
    data.setup("fit")
    return data


def keys(data: DecompositionData) -> list[list[str]]:
    return [batch["keys"] for batch in data.train_dataloader()]


def test_each_step_has_one_length_and_the_same_number_of_tokens(prepared: Path) -> None:
    batches = list(make(prepared).train_dataloader())
    assert len(batches) == 60
    lengths = [batch["tokens"].shape[1] - 1 for batch in batches]
    assert [len(batch["tokens"]) for batch in batches] == [256 // length for length in lengths]
    assert lengths[0] == 64  # running out of memory shows at once
    assert set(lengths) == {8, 16, 32, 64}
    for batch, length in zip(batches, lengths, strict=True):
        assert batch["tokens"].dtype == torch.int64
        bucket = {key.partition("/")[0] for key in batch["keys"]}
        assert bucket == {f"D_{length.bit_length() - 1}"}
    rows = [key for batch in batches for key in batch["keys"]]
    assert len(rows) == len(set(rows))


def test_rows_come_from_one_document_each(prepared: Path) -> None:
    for batch in make(prepared).train_dataloader():
        for row in batch["tokens"]:
            assert len(set(row.tolist()) - {256}) == 1


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("step", [1, 7, 33])
def test_a_resumed_run_sees_the_rest_with_other_ranks_and_workers(
    prepared: Path, step: int, workers: int
) -> None:
    straight = keys(make(prepared))
    state = make(prepared, step=step).state_dict()
    shares = []
    for rank in range(2):
        data = make(prepared, step=step, rank=rank, world=2, accum=2, workers=workers)
        data.load_state_dict(state)
        micro = keys(data)
        shares.append([micro[n] + micro[n + 1] for n in range(0, len(micro), 2)])
    resumed = [one + other for one, other in zip(*shares, strict=True)]
    assert resumed == straight[step:]


def test_a_state_of_another_plan_is_refused_and_the_difference_named(prepared: Path) -> None:
    state = make(prepared, step=3).state_dict()
    other = make(prepared, step=3, seed=1)
    other.load_state_dict(state)
    with pytest.raises(ValueError, match=r"belongs to another plan: .*\(seed: 42 -> 1\)"):
        other.train_dataloader()


def test_ids_that_the_tokenizer_has_not_are_bad_records(prepared: Path) -> None:
    data = make(prepared)
    reader = TokenReader("D_3", data.dataset.buckets[3], vocab_size=256)  # one too few for the EOT
    ends = [row for row in range(len(reader)) if 256 in data.dataset.buckets[3].read([row])]
    with pytest.raises(BadRecordError, match="id 256 of 256") as error:
        reader.read(np.array([ends[0]]))
    assert error.value.row == ends[0]


def test_each_rank_has_a_heldout_batch(prepared: Path) -> None:
    shares = [
        [
            n
            for batch in make(prepared, rank=r, world=4).val_dataloader()
            for n in batch["documents"]
        ]
        for r in range(4)
    ]
    assert all(shares)
    assert sorted(int(n) for share in shares for n in share) == list(range(30))


def test_cycles_differ_in_order(prepared: Path) -> None:
    data = make(prepared, mixture="equal", cycles=2, total_steps=120, repeat="reshuffle")
    assert data.plan is not None
    first, second = np.split(data.plan.steps, 2)
    assert np.bincount(first).tolist() == np.bincount(second).tolist() == [15] * 4
    # The longest bucket that leads the run takes the place of one step: two places differ by it.
    assert np.count_nonzero(first != second) > 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"total_steps": 10_000}, "repeat"),
        ({"tokens_per_step": 100}, "tokens_per_step must be a multiple"),
        ({"world": 3}, "nearest"),
        ({"curriculum": "pacman"}, "curriculum 'pacman' is unknown"),
        ({"mixture": {"D_20": 1.0}}, r"data\.mixture names \['D_20'\]"),
        ({"mixture": {"D_3": 1e-3, "D_6": 1.0}}, "D_3 rounds to 0 steps"),
        ({"tokens_per_step": 65_536, "mixture": {"D_6": 1.0}}, "no bucket fills one batch"),
        ({"tokens_per_step": 0}, r"data\.tokens_per_step must be >= 1"),
        ({"workers": -1}, r"data\.workers must be >= 0"),
    ],
)
def test_impossible_plans_are_refused(
    prepared: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(prepared, **changes)


def test_a_missing_data_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing-here"):
        make(tmp_path / "nothing-here")


def test_heldout_documents_are_whole_once_and_padded_little(prepared: Path) -> None:
    data = make(prepared)
    tokens, offsets = data.dataset.heldout()
    batches = HeldoutBatches(tokens, offsets, max_targets=64, tokens_per_batch=256)
    seen: list[int] = []
    for n in range(len(batches)):
        batch = batches[n]
        assert batch["tokens"][:, 1:].numel() <= 256 or len(batch["lengths"]) == 1
        for row, document in enumerate(batch["documents"].tolist()):
            whole = np.asarray(tokens[offsets[document] : offsets[document + 1]])
            length = int(batch["lengths"][row])
            assert length == min(len(whole) - 1, 64)
            assert batch["tokens"][row, : length + 1].tolist() == whole[: length + 1].tolist()
        seen += batch["documents"].tolist()
    assert sorted(seen) == list(range(30))


def test_scoring_beyond_the_longest_trained_bucket_is_warned_of(
    prepared: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def warned(data: DecompositionData) -> bool:
        caplog.clear()
        data.val_dataloader()
        return "the longest bucket in training has" in caplog.text

    assert not warned(make(prepared))
    assert not warned(make(prepared, heldout_tokens=64))
    assert warned(make(prepared, heldout_tokens=65))
    assert not warned(make(prepared, heldout_tokens=65, rank=1, world=2))
    short: dict[str, Any] = {"mixture": {"D_3": 1.0, "D_4": 1.0}, "total_steps": 6}
    assert warned(make(prepared, **short))  # the data's longest bucket, which is not trained
    assert "up to 64 tokens, but the longest bucket in training has 16:" in caplog.text
    assert not warned(make(prepared, **short, heldout_tokens=16))
    trained = make(prepared, **short, step=6).state_dict()
    data = make(prepared)
    data.run_plan = None  # as in `validate`
    data.load_state_dict(trained)
    assert warned(data)


def ranks_of_one_run(
    rank: int, world: int, path: str, seeds: list[int]
) -> list[tuple[int, list[str]]]:
    data = make(Path(path), rank=rank, world=world, total_steps=50, seed=seeds[rank])
    return [(b["tokens"].shape[1], b["keys"]) for b in data.train_dataloader()]


def test_two_ranks_take_the_same_bucket_and_other_rows_for_fifty_steps(prepared: Path) -> None:
    one, other = run_ranks(ranks_of_one_run, 2, str(prepared), [3, 3])
    assert [width for width, _ in one] == [width for width, _ in other]
    rows = [key for share in (one, other) for _, batch in share for key in batch]
    assert len(one) == 50
    assert len(rows) == len(set(rows))


def test_another_seed_on_one_rank_fails_at_the_start_and_names_it(prepared: Path) -> None:
    with pytest.raises(RuntimeError, match=r"different plans: seed \(ranks 0 \| 1\)"):
        run_ranks(ranks_of_one_run, 2, str(prepared), [3, 4])

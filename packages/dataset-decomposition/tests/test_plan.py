"""The planner against training's own plan, and what the verb prints."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dataset_decomposition.data import DecompositionData
from dataset_decomposition.plan import build_plan, plan, read_buckets, steps_of, steps_per_cycle
from dataset_decomposition.prepare import prepare
from tenfold.bucketing import Curriculum

# README of the official code: full shards of the DCLM part, by bucket.
DCLM = dict(zip(range(8, 14), (3560, 5996, 7410, 6309, 5157, 4513), strict=True))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Buckets D_3 to D_6 of 300 documents of 1 to 400 bytes."""
    folder = tmp_path_factory.mktemp("plan")
    lengths = np.random.Generator(np.random.Philox(key=5)).integers(1, 400, 300)
    text = "".join(json.dumps({"text": "x" * length}) + "\n" for length in lengths.tolist())
    (folder / "documents.jsonl").write_text(text)
    prepare([str(folder / "documents.jsonl")], folder / "data", min_bucket=3, max_bucket=6)
    return folder / "data"


@pytest.mark.parametrize("mixture", ["natural", "equal", {"D_4": 1.0, "D_6": 3.0}])
def test_training_follows_the_same_plan(prepared: Path, mixture) -> None:
    data = DecompositionData(
        prepared,
        tokens_per_step=256,
        total_steps=60,
        cycles=3,
        mixture=mixture,
        seed=9,
        workers=0,
        repeat="reshuffle",
    )
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        global_step=0, global_rank=0, world_size=2, accumulate_grad_batches=2
    )
    data.setup("fit")
    assert data.plan is not None
    ours = build_plan(
        read_buckets(prepared),
        total_steps=60,
        tokens_per_step=256,
        curriculum=Curriculum.named("grow_p2", cycles=3),
        mixture=mixture,
        seed=9,
        divisor=4,
        repeat="reshuffle",
    )
    assert ours.fingerprint == data.plan.fingerprint


def test_cycles_hold_equal_parts_of_every_bucket() -> None:
    made = build_plan(
        {"D_3": (8, 1000), "D_4": (16, 900), "D_5": (32, 70)},
        total_steps=101,
        tokens_per_step=64,
        curriculum=Curriculum.named("grow_p2", cycles=4),
        mixture="natural",
    )
    parts = steps_per_cycle(made)
    assert parts.shape == (4, 3)
    assert parts.sum(axis=0).tolist() == np.bincount(made.steps).tolist()
    assert parts.max(axis=0).tolist() == (parts.min(axis=0) + 1).tolist()  # no total divides by 4
    start = 0
    for part in parts:
        steps = made.steps[start : start + part.sum()]
        assert np.bincount(steps, minlength=3).tolist() == part.tolist()
        start += part.sum()


def figures_of(capsys: pytest.CaptureFixture[str], data: Path, **options) -> dict:
    capsys.readouterr()
    plan(data, json=True, **options)
    return json.loads(capsys.readouterr().out)


def test_plan_prints_json(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = figures_of(
        capsys,
        prepared,
        tokens=256 * 40 + 9,
        tokens_per_step=256,
        ranks=2,
        accumulate=2,
        cycles=2,
        mixture={"D_3": 1, "D_4": 2, "D_6": 5},
        repeat="reshuffle",
    )
    assert (figures["steps"], figures["tokens"], figures["cycles"]) == (40, 10_240, 2)
    rows = read_buckets(prepared)
    for key, steps in (("D_3", 5), ("D_4", 10), ("D_5", 0), ("D_6", 25)):
        bucket = figures["buckets"][key]
        length, count = rows[key]
        batch = 256 // length
        assert bucket["steps"] == steps
        assert bucket["tokens"] == steps * 256
        assert sum(bucket["steps_per_cycle"]) == steps
        assert bucket["sequences_per_batch"] == batch
        assert bucket["sequences_per_micro_batch"] == batch // 4
        assert bucket["passes"] == pytest.approx(steps / (count // batch))
        assert bucket["unused_sequences"] == max(count - steps * batch, count % batch)
    assert figures["warnings"][0].startswith("10,249 tokens are no whole number of steps")
    assert any(text.startswith("D_5 is not used: it has") for text in figures["warnings"])


def test_plan_names_repeats_and_cycles_without_a_bucket(
    prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"tokens": 256 * 1000, "tokens_per_step": 256, "repeat": "reshuffle"}
    figures = figures_of(capsys, prepared, **options, mixture={"D_3": 1, "D_6": 499}, cycles=8)
    assert figures["buckets"]["D_3"]["steps"] == 2
    assert "D_3 has only 2 steps: some cycles lack it" in figures["warnings"]
    passes = figures["buckets"]["D_6"]["passes"]
    assert f"D_6 is passed over {passes:.2f} times, reshuffled each time" in figures["warnings"]


def test_plan_prints_tables_and_draws(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    plot = tmp_path / "lengths.png"
    plan(prepared, tokens=256 * 40, tokens_per_step=256, cycles=4, mixture="natural", plot=plot)
    printed = capsys.readouterr().out
    for text in ("40 steps of 256: 10,240 tokens", "D_6", "Steps by cycle", "passes", "unused"):
        assert text in printed
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def dclm(tmp_path: Path) -> Path:
    """The official example's manifests."""
    for k, shards in DCLM.items():
        (tmp_path / f"D_{k}").mkdir()
        rows = 2 ** (20 - k)
        lines = (
            json.dumps({"shard": f"shard-{n:07d}", "num_sequences": rows}) for n in range(shards)
        )
        (tmp_path / f"D_{k}" / "manifest.jsonl").write_text("\n".join(lines))
    return tmp_path


def test_plan_of_official_manifests(dclm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = figures_of(capsys, dclm, tokens=28_795_904_000, ranks=8, compat="openlm")
    assert figures["tokens_per_cycle"] == 3_607_101_440
    assert figures["tokens"] == 28_856_811_520
    plan(dclm, tokens=28_795_904_000, ranks=8, compat="openlm")
    printed = " ".join(capsys.readouterr().out.split())
    assert "--epochs 8" in printed
    assert "--train-num-samples 3607101440" in printed
    assert "--train-data-mix-weights 1472 1248 776 328 134 60" in printed


def test_natural_in_official_arguments_weighs_each_bucket_by_its_size(
    dclm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"tokens": 28_795_904_000, "ranks": 8, "compat": "openlm", "curriculum": "natural"}
    figures = figures_of(capsys, dclm, **options)
    assert list(figures["weights"].values()) == [46, 78, 97, 82, 67, 60]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": 255}, "at least one step's 256, got 255"),
        ({"tokens": 1e9 + 0.5}, "must be a whole number"),
        ({"tokens": float("nan")}, "must be a whole number"),
        ({"tokens_per_step": 0}, "tokens_per_step must be >= 1"),
        ({"ranks": 0}, "ranks must be >= 1"),
        ({"accumulate": -1}, "accumulate must be >= 1"),
        ({"ranks": 3}, r"64 x 3, got 256; nearest: 192, 384"),
        ({"tokens": 25_600_000}, "steps from D_3, which has 4: lower the number of steps"),
        ({"curriculum": "pacman"}, "curriculum 'pacman' is unknown"),
        ({"mixture": {"D_20": 1.0}}, r"names \['D_20'\]"),
        ({"compat": "openlm", "curriculum": "sequential"}, "has no sequential curriculum"),
        ({"compat": "openlm", "plot": Path("x.png")}, "leave it out with compat=openlm"),
        ({"compat": "openlm"}, "no bucket fills one official shard"),
    ],
)
def test_impossible_plans_are_refused(prepared: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(prepared, **{"tokens": 2560, "tokens_per_step": 256, **options})


def test_a_missing_data_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no prepared data set; make one with prepare"):
        plan(tmp_path, tokens=2**20)


def test_steps_of_a_token_count_in_scientific_form() -> None:
    assert steps_of(28.8e9, 524_288) == 54_931

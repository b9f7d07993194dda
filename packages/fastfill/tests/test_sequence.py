"""Galleries of several old models: their arm, the verb `curve`, and the study of `reproduce`."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fastfill import demo_data, study
from fastfill.cache_writing import write_cache
from fastfill.card import ModelCard, TransformCard
from fastfill.claims import judge_sequence
from fastfill.cli import APP
from fastfill.evaluation.sequence import sequence_arm
from fastfill.feature_cache import FeatureCache, read_cache
from fastfill.sequence_study import SequenceOfUpdates, measure_sequence
from fastfill.transform import Chain, Transformation, transform_all
from fastfill.vector_checks import vector_stats
from fastfill.weights import save_transformation
from tenfold.keyed import generator

COUNT, CLASSES = 40, 4
MODELS = {
    "v1": ModelCard("v1", 2, "l2", "digest-1"),
    "v2": ModelCard("v2", 3, "l2", "digest-2"),
    "v3": ModelCard("v3", 5, "l2", "digest-3", num_classes=CLASSES),
}
NAMES = ["v1" if n % 3 else "v2" for n in range(COUNT)]


def said(model: str) -> np.ndarray:
    shape = (COUNT, MODELS[model].dim)
    return generator("sequence", model).standard_normal(shape, dtype=np.float32)


def step(root: Path, old: str, new: str, *, backwards: bool = False) -> FeatureCache:
    """Cache what two models say of the items, from the last to the first if asked for."""
    rows = np.arange(COUNT)[:: -1 if backwards else 1]
    head = np.eye(CLASSES, MODELS[new].dim, dtype=np.float32) if new == "v3" else None
    return write_cache(
        root / f"{old}{new}",
        ids=[f"item {row}" for row in rows],
        old=said(old)[rows],
        new=said(new)[rows],
        old_card=MODELS[old],
        new_card=MODELS[new],
        labels=rows % CLASSES,
        head=head,
        dtype="float32",
    )


def save_map(root: Path, old: str, new: str) -> Transformation:
    torch.manual_seed(MODELS[old].dim)
    h = Transformation(MODELS[old].dim, MODELS[new].dim, inner=8).eval()
    card = TransformCard(
        old=MODELS[old], new=MODELS[new], inner=8, old_stats=vector_stats(said(old))
    )
    save_transformation(root / f"h-{old}{new}.safetensors", h, card)
    return h


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """Features of two steps, their maps, and the vintages."""
    step(tmp_path, "v1", "v2", backwards=True)
    step(tmp_path, "v2", "v3")
    for old, new in (("v1", "v2"), ("v2", "v3"), ("v1", "v3")):
        save_map(tmp_path, old, new)
    lines = [f"item {n},{name}\n" for n, name in enumerate(NAMES)]
    (tmp_path / "vintages.csv").write_text("id,vintage\n" + "".join(lines[::-1]))
    return tmp_path


def maps(world: Path, *steps: str) -> list[Path]:
    return [world / f"h-{each}.safetensors" for each in steps]


def test_each_item_passes_the_maps_from_its_own_model(world: Path) -> None:
    caches = [read_cache(world / name) for name in ("v1v2", "v2v3")]
    arm = sequence_arm(caches, maps(world, "v1v2", "v2v3"), NAMES)
    assert arm.s is not None
    h12, h23 = save_map(world, "v1", "v2"), save_map(world, "v2", "v3")
    of_first = np.array([name == "v1" for name in NAMES])
    z, s = transform_all(h23, said("v2"))
    z[of_first], s[of_first] = transform_all(Chain([h12, h23]), said("v1")[of_first])
    np.testing.assert_allclose(arm.z, z, rtol=1e-6)
    np.testing.assert_allclose(arm.s, s, rtol=1e-6)
    direct = sequence_arm(
        [step(world / "direct", "v1", "v3"), caches[1]], maps(world, "v1v3", "v2v3"), NAMES
    )
    np.testing.assert_allclose(direct.z[~of_first], z[~of_first], rtol=1e-6)
    expected, _ = transform_all(save_map(world, "v1", "v3"), said("v1")[of_first])
    np.testing.assert_allclose(direct.z[of_first], expected, rtol=1e-6)


def command(world: Path, *words: str) -> list[str]:
    both = f"[{','.join(map(str, maps(world, 'v1v2', 'v2v3')))}]"
    usual = ["curve", str(world / "v2v3"), "--h", both, "--out", str(world / "out"), "--steps", "4"]
    usual += ["--earlier", f"[{world / 'v1v2'}]", "--vintages", str(world / "vintages.csv")]
    return [*usual, *words]


def test_curve_of_a_sequence_ends_at_the_new_model(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert APP.main(command(world, "--order", "sigma,entropy,random", "--seeds", "2")) == 0
    assert "sequence" in capsys.readouterr().out
    found = json.loads((world / "out" / "summary.json").read_text())["series"]
    assert [(each["arm"], each["order"]) for each in found] == [
        ("sequence", "sigma"),
        ("sequence", "entropy"),
        ("sequence", "random"),
    ]
    ends = {(e["metrics"]["map"]["first"], e["metrics"]["map"]["last"]) for e in found}
    assert len({round(first, 9) for first, _ in ends}) == 1
    assert len({round(last, 9) for _, last in ends}) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("no vintages", "earlier and vintages belong together"),
        ("unknown model", "vintages name v9, the maps come from v1, v2"),
        ("no map", "vintages name v1, the maps come from v2"),
        ("no features", "no cached features are of the old model v1"),
        ("other items", "the features of v1 lack 1 items, the first is 'item 1'"),
        ("old order", "order confidence asks one old model"),
        ("other new model", "new model of the maps"),
    ],
)
def test_mistakes_of_a_sequence(
    world: Path, change: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = command(world)
    vintages = world / "vintages.csv"
    if change == "no vintages":
        words = words[:-2]
    elif change == "unknown model":
        vintages.write_text(vintages.read_text().replace("item 3,v2", "item 3,v9"))
    elif change == "no map":
        words[3] = str(maps(world, "v2v3")[0])
    elif change == "no features":
        words[words.index("--earlier") + 1] = f"[{world / 'v2v3'}]"
    elif change == "other items":
        ids = world / "v1v2" / "ids.jsonl"
        ids.write_text(ids.read_text().replace('"item 1"', '"item x"'))
    elif change == "old order":
        words += ["--order", "confidence"]
    else:
        words[3] = str(maps(world, "v1v2")[0])
    assert APP.main(words) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert len(shown.strip().splitlines()) == 1


def test_two_old_models_of_one_name_are_refused(world: Path) -> None:
    card = TransformCard(
        old=replace(MODELS["v1"], name="v2"),
        new=MODELS["v2"],
        inner=8,
        old_stats=vector_stats(said("v1")),
    )
    save_transformation(maps(world, "v1v2")[0], save_map(world, "v1", "v2"), card)
    caches = [read_cache(world / name) for name in ("v1v2", "v2v3")]
    with pytest.raises(ValueError, match="two old models have the same name"):
        sequence_arm(caches, maps(world, "v1v2", "v2v3"), NAMES)


def test_the_study_measures_chain_and_direct_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = replace(demo_data.DEMOS["digits"], old_steps=20, steps=40)
    monkeypatch.setitem(demo_data.DEMOS, "digits", small)
    monkeypatch.setattr(study.train_map, "__kwdefaults__", {"steps": 32, "batch_size": 64})
    found = measure_sequence(SequenceOfUpdates(1), tmp_path)
    area, before = found["auc_map"], found["map_before"]
    for arm in ("chain", "direct"):
        assert area[f"{arm}, sigma"] < area[f"{arm}, distance"] + 1
        assert before[f"{arm}, before"] < before["full backfill (third model)"]
    # The larger variance alone gives another order of the same vectors.
    chain, largest = "chain", "chain by the largest variance"
    assert before[f"{chain}, before"] == before[f"{largest}, before"]
    assert area[f"{chain}, random"] == area[f"{largest}, random"]
    assert 0 <= found["first_half_old"]["chain, sigma"] <= 1
    assert measure_sequence(SequenceOfUpdates(1), tmp_path) == found


@pytest.mark.parametrize(("sigma", "holds"), [(71.5, True), (70.5, False)])
def test_the_order_of_a_sequence_must_gain_in_every_seed(sigma: float, holds: bool) -> None:
    area = {
        "chain, random": [70.0, 70.0],
        "chain, sigma": [75.0, sigma],
        "direct, sigma": [76.0, 76.0],
    }
    result = judge_sequence({"auc_map": area}, scale="tiny", notes="")
    assert result.holds is holds
    assert result.margin == pytest.approx(sigma - 71)

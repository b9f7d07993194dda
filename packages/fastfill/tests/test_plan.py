"""The plan: orders from stored data alone, cost, expected quality, stop rule."""

import json
from pathlib import Path

import numpy as np
import pytest
from gallery_files import NEW_DIM, OLD_DIM, cards, make, new_vectors, vectors

from fastfill.card import ModelCard, TransformCard, vector_stats
from fastfill.cli import APP
from fastfill.feature_cache import read_cache
from fastfill.forecast import LOSS, Forecast, costs, forecast_from_s, stop_share
from fastfill.gallery import Gallery
from fastfill.gallery.status import predicted_quality
from fastfill.ordering import OrderInputs, entropy
from fastfill.ordering import order as order_of
from fastfill.plan import plan

S = np.array([0.3, 2.0, -1.0, 0.5, 1.5, -0.2, 0.0, 1.0], dtype=np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make(tmp_path / "gallery", rows=8, s=S)


def queued(folder: Path) -> list[int]:
    return Gallery.open(folder).queue(100).tolist()


def read(folder: Path) -> dict:
    return json.loads((folder / "plan.json").read_text())


def test_sigma_plan_calls_no_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def called(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("fastfill.encoders.load_encoder", called)
    monkeypatch.setattr("fastfill.weights.load_backbone", called)
    assert APP.main(["plan", str(folder), "--img_per_s", "2", "--stop_gain", "0.1"]) == 0
    assert queued(folder) == np.argsort(-S, kind="stable").tolist()
    found = read(folder)
    losses = np.sort(np.exp(S.astype(np.float64)))[::-1]
    removed = np.append(0, np.cumsum(losses)) / losses.sum()
    np.testing.assert_allclose(found["predicted"], np.c_[np.arange(9) / 8, removed])
    assert [cost["items"] for cost in found["costs"]] == [0, 0, 2, 4, 8]
    assert [cost["seconds"] for cost in found["costs"]] == [0, 0, 1, 2, 4]
    share = found["stop"]["share"]
    assert share == np.flatnonzero(1 - removed < 0.1)[0] / 8
    out = capsys.readouterr().out
    assert "ordered by sigma, 8 of 8 items left at 2 items/s" in out
    assert f"backfill --stop_at {share:.4g}" in out
    assert (folder / "plan.png").read_bytes().startswith(b"\x89PNG")
    assert predicted_quality(Gallery.open(folder)) == 0


def test_plan_goes_on_from_where_the_backfill_is(folder: Path) -> None:
    with Gallery.open(folder, "w") as gallery:
        gallery.apply(np.array([1, 4]), new_vectors(2))
        gallery.delete(["item 0"])
        gallery.add(["fresh"], new_vectors(1))
    plan(folder, order="random", seed=3)
    live = np.arange(1, 8)
    ordered = live[order_of("random", OrderInputs(size=7, seed=3))]
    left = [row for row in ordered.tolist() if row not in (1, 4)]
    assert queued(folder) == left
    found = read(folder)
    assert (found["live"], found["new"], found["waiting"]) == (8, 3, 5)
    losses = np.exp(S.astype(np.float64))
    gone = losses[[1, 4]].sum() + np.append(0, np.cumsum(losses[left]))
    expected = np.c_[(3 + np.arange(6)) / 8, gone / losses[1:].sum()]
    np.testing.assert_allclose(found["predicted"], expected)
    with Gallery.open(folder, "w") as gallery:  # items rolled back have a place in the order
        gallery.rollback("transformed", z=lambda rows: vectors("z", 8, NEW_DIM)[rows])
    assert queued(folder) == ordered.tolist()


def test_orders_get_what_they_need(folder: Path, tmp_path: Path) -> None:
    head = vectors("head", 3, NEW_DIM)
    np.save(tmp_path / "head.npy", head)
    plan(folder, order="entropy", head=str(tmp_path / "head.npy"))
    z = np.asarray(Gallery.open(folder).column("vec"))
    assert queued(folder) == np.argsort(-entropy(z, head), kind="stable").tolist()

    old_head = vectors("old head", 3, OLD_DIM)
    np.save(tmp_path / "old_head.npy", old_head)
    plan(folder, order="old_entropy", old_head=str(tmp_path / "old_head.npy"))
    old = np.asarray(Gallery.open(folder).column("old"))
    assert queued(folder) == np.argsort(-entropy(old, old_head), kind="stable").tolist()

    lines = [f"item {row},{value}\n" for row, value in enumerate([5, 1, 7, 2, 8, 3, 6, 4])]
    (tmp_path / "values.csv").write_text("id,value\n" + "".join(lines))
    plan(folder, order="column", column=tmp_path / "values.csv")
    assert queued(folder) == [4, 2, 6, 0, 7, 5, 3, 1]

    (tmp_path / "hits.csv").write_text("id,hits\n" + "".join(lines))
    plan(folder, order="traffic", hits=tmp_path / "hits.csv")
    expected = np.log([5, 1, 7, 2, 8, 3, 6, 4]) + S
    assert queued(folder) == np.argsort(-expected, kind="stable").tolist()

    groups = [f"item {row},{'ab'[row // 4]}\n" for row in range(8)]
    (tmp_path / "groups.csv").write_text("id,group\n" + "".join(groups))
    plan(folder, order="quota", groups=tmp_path / "groups.csv")
    assert queued(folder) == [1, 4, 3, 7, 0, 6, 2, 5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "distance"}, "for `curve` alone"),
        ({"order": "alphabet"}, "order must be one of sigma"),
        ({"order": "entropy"}, "order entropy needs head"),
        ({"order": "traffic"}, "order traffic needs hits"),
        ({"img_per_s": -1.0}, "img_per_s must be >= 0"),
        ({"stop_gain": -0.1}, "stop_gain must be >= 0"),
        ({"features": Path("features")}, "features and h go together"),
    ],
)
def test_mistakes_are_named_and_change_nothing(folder: Path, options: dict, message: str) -> None:
    before = queued(folder)
    with pytest.raises(ValueError, match=message):
        plan(folder, **options)
    assert queued(folder) == before
    assert not (folder / "plan.json").exists()


def test_head_of_another_width_is_refused(folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "head.npy", np.ones((3, NEW_DIM + 1)))
    with pytest.raises(ValueError, match=r"must be floating \[K, 4\]"):
        plan(folder, order="entropy", head=str(tmp_path / "head.npy"))


def test_variances_that_are_all_alike_need_the_classifier(tmp_path: Path) -> None:
    folder = make(tmp_path / "gallery", rows=8, s=np.zeros(8, dtype=np.float32))
    with pytest.raises(ValueError, match="needs z and head"):
        plan(folder)
    head = vectors("head", 3, NEW_DIM)
    np.save(tmp_path / "head.npy", head)
    plan(folder, head=str(tmp_path / "head.npy"))
    z = np.asarray(Gallery.open(folder).column("vec"))
    assert queued(folder) == np.argsort(-entropy(z, head), kind="stable").tolist()


def test_labelled_features_give_the_measured_curve(tmp_path: Path) -> None:
    from fastfill.cache import write_cache
    from fastfill.evaluation.arms import Evaluation, Tables, load_arms
    from fastfill.transform import Transformation
    from fastfill.weights import save_transformation

    items = 30
    old, new = vectors("old", items, OLD_DIM), new_vectors(items)
    of = cards()
    write_cache(
        tmp_path / "features",
        ids=[f"feature {row}" for row in range(items)],
        old=old,
        new=new,
        old_card=of.old[0],
        new_card=of.new,
        labels=np.arange(items) % 3,
    )
    h = Transformation(OLD_DIM, NEW_DIM, inner=8).eval()
    card = TransformCard(old=of.old[0], new=of.new, inner=8, old_stats=vector_stats(old))
    save_transformation(tmp_path / "h.safetensors", h, card)
    folder = make(tmp_path / "gallery", rows=8, s=S)
    plan(folder, features=tmp_path / "features", h=tmp_path / "h.safetensors", device="cpu")
    found = read(folder)
    assert found["quality"] == "map"
    cache = read_cache(tmp_path / "features")
    (arm,) = load_arms(cache, [tmp_path / "h.safetensors"])
    evaluation = Evaluation(cache, ks=(1,))
    (series,) = evaluation.series(arm, ["sigma"], seeds=1, tables=Tables())
    expected = np.c_[series.curves[0].betas, series.curves[0].map]
    np.testing.assert_allclose(found["predicted"], expected)
    assert len(found["predicted_loss_removed"]) == 9

    with Gallery.open(folder, "w") as gallery:
        gallery.add([f"added {n}" for n in range(8)], new_vectors(8))
    plan(folder, features=tmp_path / "features", h=tmp_path / "h.safetensors", device="cpu")
    expected[:, 0] = (8 + 8 * expected[:, 0]) / 16  # half of the items need no backfill
    np.testing.assert_allclose(read(folder)["predicted"], expected)
    assert predicted_quality(Gallery.open(folder)) == pytest.approx(expected[0, 1])

    other = make(
        tmp_path / "other",
        rows=8,
        cards=type(of)(new=ModelCard("new", NEW_DIM, "l2", "sha-other"), old=of.old),
    )
    with pytest.raises(ValueError, match=r"new model of .*weights differ"):
        plan(other, features=tmp_path / "features", h=tmp_path / "h.safetensors", device="cpu")


def test_forecast_survives_large_variances_and_thins_out_its_points() -> None:
    forecast = forecast_from_s(np.full(1000, 5000.0), np.empty(0), live=1000, new=0)
    np.testing.assert_allclose(forecast.quality, forecast.shares)
    assert len(forecast.shares) == 201
    assert forecast.metric == LOSS
    done = forecast_from_s(np.empty(0), np.ones(4), live=4, new=4)
    assert done.pairs() == [(1.0, 1.0)]
    with pytest.raises(ValueError, match="no items"):
        forecast_from_s(np.empty(0), np.empty(0), live=0, new=0)


def test_stop_rule_looks_past_a_dip() -> None:
    forecast = Forecast(
        np.array([0, 0.25, 0.5, 0.75, 1]), np.array([0.5, 0.45, 0.7, 0.79, 0.8]), ""
    )
    assert stop_share(forecast, 0.05) == 0.75
    assert stop_share(forecast, 0.11) == 0.5
    assert stop_share(forecast, 0.31) == 0
    assert stop_share(forecast, 0.0) == 1


def test_costs_of_shares_that_are_reached_are_nothing() -> None:
    forecast = Forecast(np.array([0.5, 1.0]), np.array([0.6, 1.0]), "")
    found = costs(forecast, live=100, new=50, waiting=45, img_per_s=None, shares=(0.3, 0.75, 1.0))
    assert [cost.items for cost in found] == [0, 25, 45]
    assert [cost.quality for cost in found] == pytest.approx([0.6, 0.8, 1.0])
    assert {cost.seconds for cost in found} == {None}

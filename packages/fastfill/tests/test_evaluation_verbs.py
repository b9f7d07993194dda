"""Report, fairness, calibration, rank merge, and the verbs that write them."""

import csv
import dataclasses
import json

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from fastfill.cache_writing import write_cache
from fastfill.calibrate_verb import calibrate
from fastfill.card import ModelCard, TransformCard
from fastfill.curve_verb import curve as curve_verb
from fastfill.evaluation.calibration import calibration, item_losses, spearman
from fastfill.evaluation.curve import curve, curves
from fastfill.evaluation.distances import Space
from fastfill.evaluation.fairness import group_curves
from fastfill.evaluation.metrics import retrieval
from fastfill.evaluation.rank_merge import Calibration, fit_calibration, merge, merge_curves
from fastfill.evaluation.report import Series, area, band, summary
from fastfill.fairness_verb import fairness
from fastfill.transform import Transformation
from fastfill.vector_checks import vector_stats
from fastfill.weights import save_transformation
from tenfold.statistics import mean_interval

N, CLASSES, OLD, NEW = 90, 5, 4, 6
OLD_CARD = ModelCard("old", OLD, "l2", "1" * 64, num_classes=CLASSES)
NEW_CARD = ModelCard("new", NEW, "l2", "2" * 64, num_classes=CLASSES)


def embeddings(seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, N)
    centres = np.random.default_rng(9).standard_normal((CLASSES, NEW))
    new = (2 * centres[labels] + random.standard_normal((N, NEW))).astype(np.float32)
    old = (new[:, :OLD] + random.standard_normal((N, OLD))).astype(np.float32)
    return old, new, labels


@pytest.fixture
def features(tmp_path):
    old, new, labels = embeddings()
    head = np.random.default_rng(8).standard_normal((CLASSES, NEW)).astype(np.float32)
    write_cache(
        tmp_path / "features",
        ids=[f"item {n}" for n in range(N)],
        old=old,
        new=new,
        old_card=OLD_CARD,
        new_card=NEW_CARD,
        labels=labels,
        head=head,
        old_head=head[:, :OLD].copy(),
        groups=["minority" if n % 4 == 0 else "majority" for n in range(N)],
        dtype="float32",
    )
    return tmp_path / "features"


@pytest.fixture
def transformation(tmp_path):
    torch.manual_seed(0)
    card = TransformCard(
        old=OLD_CARD, new=NEW_CARD, inner=8, old_stats=vector_stats(embeddings()[0])
    )
    save_transformation(tmp_path / "h.safetensors", Transformation(OLD, NEW, inner=8), card)
    return tmp_path / "h.safetensors"


def drawn(seeds=3):
    old, new, labels = embeddings()
    z = np.pad(old, ((0, 0), (0, NEW - OLD)))
    orders = {str(n): np.random.default_rng(n).permutation(N) for n in range(seeds)}
    return curves(new, z, new, labels, orders, self_rows=np.arange(N), steps=4)


def test_several_permutations_get_students_interval_and_a_single_order_a_bootstrap():
    found = tuple(drawn().values())
    several, single = Series("h", "random", found), Series("h", "sigma", found[:1])
    each = area(several, "map")
    assert (each.low, each.mean, each.high) == mean_interval([c.auc() for c in found])
    point = band(several, "cmc1")
    assert point.low[2] < point.mean[2] < point.high[2]
    assert point.mean[2] == pytest.approx(np.mean([c.cmc[1][2] for c in found]))
    assert point.low[0] == pytest.approx(point.high[0])  # nothing is backfilled in any of them
    by_trapezoid = area(single, "map", trapezoid=True)
    assert by_trapezoid.mean == pytest.approx(found[0].auc(trapezoid=True))
    assert by_trapezoid.low < by_trapezoid.mean < by_trapezoid.high
    assert band(single, "map").low[0] < found[0].map[0]


def test_summary_says_what_the_curves_say():
    found = tuple(drawn(1).values())
    figures = summary([Series("h", "sigma", found)])["series"][0]
    assert figures["queries"] == N
    assert figures["skipped"] == 0
    assert figures["metrics"]["map"]["auc"] == pytest.approx(found[0].map.mean())
    assert figures["metrics"]["cmc5"]["last"] == pytest.approx(found[0].cmc[5][-1])
    assert figures["negative_flips"] is None


def test_groups_split_the_queries_and_not_the_gallery():
    found = drawn(1)["0"]
    groups = ["a" if n % 3 else "b" for n in range(N)]
    split = group_curves(found, groups)
    assert split.names == ("a", "b")
    assert split.counts == (60, 30)
    by_hand = np.array([found.ap[:, 1::3].sum(1) + found.ap[:, 2::3].sum(1)])[0] / 60
    np.testing.assert_allclose(split.values[0], by_hand)
    np.testing.assert_allclose(split.gap, np.abs(by_hand - found.ap[:, ::3].mean(1)))
    middle = (split.gap[1] + split.gap[2]) / 2
    assert split.gap_at(float(split.betas[1:3].mean())) == pytest.approx(middle)
    for wrong, message in (
        (groups[:-1], "89 entries for 90 queries"),
        (["a"] * N, "two groups or more, got a"),
    ):
        with pytest.raises(ValueError, match=message):
            group_curves(found, wrong)


def test_a_group_without_answers_is_refused():
    vectors = np.arange(6, dtype=np.float32)[:, None]
    found = curve(
        vectors, vectors, vectors, [0, 0, 0, 0, 1, 2], np.arange(6), self_rows=np.arange(6)
    )
    with pytest.raises(ValueError, match="group 'lone' has no query with a right answer"):
        group_curves(found, ["a"] * 4 + ["lone"] * 2)


def test_item_losses_are_the_objective():
    from fastfill.config import ObjectiveConfig
    from fastfill.objective import fastfill_loss

    _old, new, labels = embeddings()
    random = np.random.default_rng(1)
    z = (new + random.standard_normal(new.shape)).astype(np.float32)
    head = random.standard_normal((CLASSES, NEW)).astype(np.float32)
    config = ObjectiveConfig(mu_sim=0.7, mu_disc=1.3)
    tensors = (torch.from_numpy(a) for a in (z, np.zeros(N, np.float32), new, labels, head))
    expected = fastfill_loss(*tensors, config).per_item.numpy()
    found = item_losses(z, new, labels, head, mu_sim=0.7, mu_disc=1.3, rows=17)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    labels[::2] = -1
    alone = item_losses(z, new, labels, head)[::2]
    np.testing.assert_allclose(alone, np.square(z - new).mean(1)[::2], rtol=1e-5)
    with pytest.raises(ValueError, match="the head has 2 rows"):
        item_losses(z, new, labels, head[:2])


def test_calibration_of_true_and_of_random_variances():
    random = np.random.default_rng(2)
    s = random.standard_normal(4000)
    losses = np.exp(s) * random.exponential(size=4000)
    true = calibration(s, losses, losses)
    assert true.spearman_loss == pytest.approx(spearmanr(s, losses).statistic)
    assert true.expected_error < 0.05
    assert sum(each.count for each in true.bins) == 4000
    assert len(true.bins) == 10
    parts = np.array_split(np.argsort(s), 10)
    assert true.bins[9].actual == pytest.approx(losses[parts[9]].mean())
    assert true.bins[9].predicted == pytest.approx(np.exp(s[parts[9]]).mean())
    too_small = calibration(s - np.log(100), losses, losses)
    assert too_small.expected_error == pytest.approx(2, abs=0.05)
    assert abs(calibration(random.permutation(s), losses, losses).spearman_loss) < 0.05
    assert spearman(np.zeros(3), np.arange(3)) == 0
    with pytest.raises(ValueError, match="num_bins must lie in"):
        calibration(s[:3], losses[:3], losses[:3])


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_calibrated_distance_is_the_log_odds_of_one_class(metric):
    _, new, labels = embeddings()
    found = fit_calibration(new, labels, metric=metric, pairs=5000)
    assert found == fit_calibration(new, labels, metric=metric, pairs=5000)
    space = Space(new, new, metric)
    rows = np.arange(N)
    distance = space.distances(rows, space.items(rows, torch.device("cpu"))).numpy()
    apart = ~np.eye(N, dtype=bool)
    same = (labels[:, None] == labels)[apart]
    odds = -(found.slope * distance[apart] + found.intercept)
    share = 1 / (1 + np.exp(-odds))
    assert share[same].mean() > 0.6 > 0.4 > share[~same].mean()


def test_classes_that_cannot_be_told_or_compared_are_refused():
    random = np.random.default_rng(0)
    vectors = random.standard_normal((40, 3)).astype(np.float32)
    for labels in (np.zeros(40, int), np.arange(40), np.full(40, -1)):
        with pytest.raises(ValueError, match="items of one class and of two"):
            fit_calibration(vectors, labels)
    line = np.linspace(0, 1, 40, dtype=np.float32)[:, None]
    with pytest.raises(ValueError, match="nearer pairs are not of one class"):
        fit_calibration(line, np.arange(40) % 20)


def test_merged_lists_by_hand():
    merged = merge(
        np.array([[4, 2, -1]]),
        np.array([[1.0, 3.0, 0.0]]),
        np.array([[7, 1]]),
        np.array([[10.0, 20.0]]),
        4,
        old=Calibration(2.0, -1.0),
        new=Calibration(0.1, 0.0),
    )
    np.testing.assert_array_equal(merged.rows, [[4, 7, 1, 2]])
    np.testing.assert_allclose(merged.distances, [[1, 1, 2, 5]])


def test_merge_curve_goes_from_old_to_new_and_equals_merged_lists_between():
    old, new, labels = embeddings()
    rows = np.arange(N)
    order = np.random.default_rng(3).permutation(N)
    both = (fit_calibration(old, labels), fit_calibration(new, labels))
    spaces = (Space(old, old), Space(new, new))
    found = merge_curves(
        *spaces,
        labels=labels,
        orders={"random": order},
        calibrations=both,
        query_labels=labels,
        self_rows=rows,
        steps=4,
    )["random"]
    for place, vectors in ((0, old), (-1, new)):
        alone = retrieval(vectors, vectors, labels, labels, self_rows=rows)
        np.testing.assert_allclose(found.ap[place], alone.ap, rtol=1e-6)
    moved = order[: round(found.betas[2] * N)]
    stay = np.setdiff1d(rows, moved)
    device = torch.device("cpu")
    lists = []
    for space, kept in zip(spaces, (stay, moved), strict=True):
        distances = space.distances(rows, space.items(kept, device)).double().numpy()
        distances[rows[:, None] == kept] = np.inf
        lists += [np.broadcast_to(kept, distances.shape), distances]
    nearest = merge(*lists, 1, old=both[0], new=both[1]).rows[:, 0]
    assert found.cmc[1][2] == pytest.approx((labels[nearest] == labels).mean())


def test_curve_verb_writes_all_files(tmp_path, features, transformation, capsys):
    values = "id,value\n" + "".join(f"item {n},{n}\n" for n in range(N))
    (tmp_path / "values.csv").write_text(values)
    policies = "sigma,random,distance,confidence,old_entropy,entropy,kcenter,quota,column"
    curve_verb(
        features,
        out=tmp_path / "out",
        h=[transformation],
        order=policies,
        steps=3,
        seeds=2,
        queries=40,
        column=tmp_path / "values.csv",
        merge=features,
        device="cpu",
    )
    table = capsys.readouterr().out
    assert table == (tmp_path / "out" / "summary.md").read_text()
    assert table.count("\n") == 2 + 1 + 9 + 1
    figures = json.loads((tmp_path / "out" / "summary.json").read_text())
    by_order = {each["order"]: each for each in figures["series"] if each["arm"] == "h"}
    assert by_order["random"]["permutations"] == 2
    assert by_order["sigma"]["queries"] == 40
    assert len({round(each["metrics"]["map"]["last"], 12) for each in figures["series"]}) == 1
    assert len(by_order["sigma"]["negative_flips"]) == 5
    with (tmp_path / "out" / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10 * 3 * 5
    assert all(float(row["low"]) <= float(row["mean"]) + 1e-6 for row in rows)
    assert (tmp_path / "out" / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_fairness_and_calibrate_verbs(tmp_path, features, transformation, capsys):
    fairness(features, out=tmp_path / "fair", h=[transformation], steps=3, seeds=2, device="cpu")
    figures = json.loads((tmp_path / "fair" / "fairness.json").read_text())
    assert set(figures["series"]) == {"h sigma", "h quota", "h random"}
    assert figures["series"]["h sigma"]["groups"] == {"majority": 67, "minority": 23}
    assert (tmp_path / "fair" / "fairness.png").is_file()
    assert (tmp_path / "fair" / "fairness.csv").read_text().count("gap") == 3 * 5
    calibrate(features, [transformation], out=tmp_path / "true", device="cpu")
    found = json.loads((tmp_path / "true" / "calibration.json").read_text())["h"]
    assert len(found["bins"]) == 10
    assert abs(found["spearman_loss"]) <= 1
    assert (tmp_path / "true" / "h.png").is_file()
    assert "Spearman" in capsys.readouterr().out


def test_compatible_models_need_no_transformation(tmp_path):
    _, new, labels = embeddings()
    card = ModelCard("new", NEW, "cosine", "3" * 64)
    write_cache(
        tmp_path / "features",
        ids=[str(n) for n in range(N)],
        old=new + 1,
        new=new,
        old_card=card,
        new_card=card,
        labels=labels,
        dtype="float32",
    )
    curve_verb(tmp_path / "features", out=tmp_path / "out", order="random", seeds=2, device="cpu")
    figures = json.loads((tmp_path / "out" / "summary.json").read_text())
    full = retrieval(new, new, labels, labels, metric="cosine", self_rows=np.arange(N))
    of_map = figures["series"][0]["metrics"]["map"]
    assert of_map["last"] == pytest.approx(full.map)
    before = retrieval(new, new + 1, labels, labels, metric="cosine", self_rows=np.arange(N))
    assert of_map["first"] == pytest.approx(before.map)


def test_bad_options_of_the_verbs(tmp_path, features, transformation):
    def run(**options):
        curve_verb(features, out=tmp_path / "out", **{"h": [transformation], **options})

    other = tmp_path / "other.safetensors"
    card = TransformCard(
        old=ModelCard("older", OLD, "l2", "9" * 64),
        new=NEW_CARD,
        inner=8,
        old_stats=vector_stats(embeddings()[0]),
    )
    save_transformation(other, Transformation(OLD, NEW, inner=8), card)
    (tmp_path / "short.csv").write_text("id,value\nitem 0,1\n")
    (tmp_path / "texts.csv").write_text("id,value\n" + "".join(f"item {n},x\n" for n in range(N)))
    (tmp_path / "twice.csv").write_text("id,value\nitem 0,1\nitem 0,2\n")
    table = [
        ({"order": "sigma,best"}, "order must be one of"),
        ({"order": "sigma,sigma"}, "names a policy twice"),
        ({"seeds": 0}, "seeds must be >= 1"),
        ({"queries": N + 1}, "queries must lie in 0..90"),
        ({"metric": "l1"}, "metric must be one of"),
        ({"h": []}, "order sigma needs s"),
        ({"h": [transformation, transformation]}, "twice"),
        ({"h": [other]}, "their weights differ"),
        ({"order": "traffic"}, "order traffic needs hits"),
        ({"order": "column", "column": tmp_path / "short.csv"}, "lacks 89 items.*'item 1'"),
        ({"order": "column", "column": tmp_path / "texts.csv"}, "could not convert"),
        ({"order": "column", "column": tmp_path / "twice.csv"}, "has an id twice"),
        ({"order": "quota", "groups": tmp_path / "short.csv"}, "must have the heading id,group"),
    ]
    for options, message in table:
        with pytest.raises(ValueError, match=message):
            run(**options)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        run(hits=tmp_path / "none.csv")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="h is empty"):
        calibrate(features, [], out=tmp_path / "out")


@pytest.mark.parametrize("wide", [False, True])
def test_compatible_models_of_other_widths_are_compared_in_the_old_ones(tmp_path, wide):
    old, new, labels = embeddings()
    old_card, new_card = OLD_CARD, NEW_CARD
    if wide:
        old, new, old_card, new_card = new, old, NEW_CARD, OLD_CARD
    head = np.random.default_rng(8).standard_normal((CLASSES, new.shape[1])).astype(np.float32)
    write_cache(
        tmp_path / "features",
        ids=[str(n) for n in range(N)],
        old=old,
        new=new,
        old_card=dataclasses.replace(old_card, num_classes=0),
        new_card=new_card,
        labels=labels,
        head=head,
        dtype="float32",
    )
    orders = "random,entropy,distance"
    curve_verb(tmp_path / "features", out=tmp_path / "out", order=orders, seeds=2, device="cpu")
    figures = json.loads((tmp_path / "out" / "summary.json").read_text())
    width = old.shape[1]
    fitted = np.pad(new, ((0, 0), (0, width - new.shape[1]))) if wide else new[:, :width]
    rows = np.arange(N)
    for series in figures["series"]:
        of_map = series["metrics"]["map"]
        full = retrieval(fitted, fitted, labels, labels, self_rows=rows)
        assert of_map["last"] == pytest.approx(full.map)
        before = retrieval(fitted, old, labels, labels, self_rows=rows)
        assert of_map["first"] == pytest.approx(before.map)

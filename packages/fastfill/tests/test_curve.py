import numpy as np
import pytest

from fastfill.evaluation import counting
from fastfill.evaluation.auc import (
    auc_mean,
    auc_trapezoid,
    beta_star,
    cut_offs,
    negative_flips,
)
from fastfill.evaluation.curve import bootstrap_bounds, curve, curves
from fastfill.evaluation.metrics import retrieval


def gallery(count=150, *, tied=False, seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(-1, 7, count)
    shape = (count, 4)
    if tied:
        z, new = (random.integers(0, 3, shape).astype(np.float32) for _ in range(2))
    else:
        new = random.standard_normal(shape).astype(np.float32) + labels[:, None]
        z = new + random.standard_normal(shape).astype(np.float32)
    return z, new, labels, random


def mixed(z, new, order, cut):
    vectors = z.copy()
    vectors[order[:cut]] = new[order[:cut]]
    return vectors


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
@pytest.mark.parametrize("tied", [True, False])
def test_every_point_equals_the_gallery_ranked_anew(metric, tied):
    z, new, labels, random = gallery(tied=tied)
    if tied:  # parallel vectors are as near only up to rounding
        z, new = z + 1, new + 1
    orders = {name: random.permutation(150) for name in "ab"}
    rows = np.flatnonzero(random.random(150) < 0.6)
    found = curves(new[rows], z, new, labels, orders, metric=metric, self_rows=rows)
    for name, order in orders.items():
        for place, cut in enumerate(cut_offs(150, 20)):
            anew = retrieval(
                new[rows],
                mixed(z, new, order, cut),
                labels[rows],
                labels,
                metric=metric,
                self_rows=rows,
            )
            np.testing.assert_allclose(found[name].ap[place], anew.ap, rtol=1e-12)
            np.testing.assert_array_equal(found[name].ahead[place], anew.ahead)
            assert found[name].map[place] == pytest.approx(anew.map)
            assert found[name].cmc[5][place] == anew.cmc(5)


def test_ends_are_the_same_for_every_order():
    z, new, labels, random = gallery()
    rows = np.arange(150)
    orders = {str(n): random.permutation(150) for n in range(3)}
    found = list(curves(new, z, new, labels, orders, self_rows=rows).values())
    for each in found:
        np.testing.assert_array_equal(each.ap[[0, -1]], found[0].ap[[0, -1]])
        assert each.betas[0] == 0
        assert each.betas[-1] == 1
        assert len(each.betas) == 22
    assert not np.array_equal(found[0].ap[10], found[1].ap[10])
    full = retrieval(new, new, labels, labels, self_rows=rows)
    np.testing.assert_allclose(found[0].ap[-1], full.ap, rtol=1e-14)


def test_area_is_the_mean_of_points_and_no_order_matters_when_nothing_changes():
    z, new, labels, random = gallery()
    orders = {str(n): random.permutation(150) for n in range(3)}
    found = curves(new, new, new, labels, orders, self_rows=np.arange(150))
    areas = {each.auc() for each in found.values()}
    assert len(areas) == 1
    each = curve(new, z, new, labels, orders["0"], self_rows=np.arange(150))
    assert each.auc("cmc1") == pytest.approx(each.cmc[1].sum() / 22)
    assert each.auc(trapezoid=True) == pytest.approx(np.trapezoid(each.map, each.betas))


def test_memory_changes_nothing(monkeypatch):
    z, new, labels, random = gallery(60)
    order = random.permutation(60)
    whole = curve(new, z, new, labels, order, self_rows=np.arange(60))
    monkeypatch.setattr(counting, "GALLERY_PART", 31)
    monkeypatch.setattr(counting, "_KEPT", 0)
    for max_bytes in (1, 10_000, 100_000):  # points one by one, a few at a time, all
        parts = curve(new, z, new, labels, order, self_rows=np.arange(60), max_bytes=max_bytes)
        np.testing.assert_allclose(parts.ap, whole.ap, rtol=1e-14)
        np.testing.assert_array_equal(parts.ahead, whole.ahead)


def test_flips_count_answers_that_the_old_system_had_right():
    z, new, labels, random = gallery(seed=3)
    rows = np.arange(150)
    old_vectors = random.standard_normal((150, 6)).astype(np.float32) + labels[:, None] / 2
    old = retrieval(old_vectors, old_vectors, labels, labels, self_rows=rows)
    order = random.permutation(150)
    found = curve(new, z, new, labels, order, self_rows=rows, old=old)
    now = retrieval(new, z, labels, labels, self_rows=rows)
    expected = sum(a and not b for a, b in zip(old.hits[1], now.hits[1], strict=True))
    assert found.flips[0] == expected > 0
    assert curve(new, z, new, labels, order, self_rows=rows).flips is None


def test_cut_offs_are_the_published_ones():
    np.testing.assert_array_equal(
        cut_offs(50_000, 20), [int(i * 50_000 / 21) for i in range(21)] + [50_000]
    )
    np.testing.assert_array_equal(cut_offs(2, 3), [0, 0, 1, 1, 2])


def test_area_and_beta_star_by_hand():
    betas, values = [0, 0.25, 0.5, 1.0], [0.2, 0.1, 0.9, 1.0]
    assert auc_mean(values) == pytest.approx(0.55)
    assert auc_trapezoid(betas, values) == pytest.approx(0.0375 + 0.125 + 0.475)
    assert beta_star(betas, values, share=0.5) == pytest.approx(0.25 + 0.25 * 0.5 / 0.8)
    assert beta_star(betas, values, share=1.0) == 1
    assert beta_star(betas, [0.5, 0.4, 0.3, 0.2]) == 0
    assert negative_flips(np.array([True, True, False]), np.array([False, True, False])) == 1


def test_bootstrap_bounds_hold_the_mean_and_shrink_with_queries():
    random = np.random.default_rng(0)
    few, many = random.standard_normal((1, 50)), random.standard_normal((1, 5000))
    (low, high), (low_many, high_many) = bootstrap_bounds(few), bootstrap_bounds(many)
    assert low < few.mean() < high
    error = few.std() / 50**0.5
    assert (high - low)[0] == pytest.approx(2 * 1.96 * error, rel=0.15)
    assert high_many - low_many < (high - low) / 5
    np.testing.assert_array_equal(bootstrap_bounds(few), (low, high))


Z, NEW, LABELS, _ = gallery(20)
ALL = np.arange(20)


@pytest.mark.parametrize(
    ("order", "options", "message"),
    [
        (ALL[:-1], {}, "order order must be 20 rows"),
        (ALL * 0.5, {}, "must be 20 rows, got float64"),
        (ALL // 2, {}, "must have each row once, but 10 are missing"),
        (ALL + 1, {}, "1 are missing"),
        (ALL, {"self_rows": None}, "query_labels is missing"),
        (ALL, {"self_rows": ALL - 1}, "query_labels is missing"),
        (ALL, {"steps": -1}, "steps >= 0"),
        (ALL, {"ks": ()}, "ks must be numbers"),
        (ALL, {"device": "abacus"}, "device must be"),
    ],
)
def test_bad_input(order, options, message):
    with pytest.raises(ValueError, match=message):
        curve(NEW, Z, NEW, LABELS, order, **{"self_rows": ALL, **options})


def test_bad_areas():
    with pytest.raises(ValueError, match="share must lie in"):
        beta_star([0, 1], [0, 1], share=0)
    with pytest.raises(ValueError, match="two points or more"):
        beta_star([0], [0])
    with pytest.raises(ValueError, match="the same ones"):
        negative_flips(np.ones(2, bool), np.ones(3, bool))
    with pytest.raises(ValueError, match="metric must be map or cmc<k>"):
        curve(NEW, Z, NEW, LABELS, ALL, self_rows=ALL).auc("ndcg")

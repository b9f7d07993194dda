import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from fastfill.evaluation import counting
from fastfill.evaluation.distances import Space
from fastfill.evaluation.metrics import retrieval


def naive_distances(query, gallery, metric):
    query, gallery = query.astype(np.float64), gallery.astype(np.float64)
    if metric == "l2":
        return np.square(query - gallery).sum(1).astype(np.float32)
    if metric == "cosine":
        query = query / np.linalg.norm(query)
        gallery = gallery / np.linalg.norm(gallery, axis=1, keepdims=True)
    return (-gallery @ query).astype(np.float32)


def naive(query, gallery, query_labels, gallery_labels, metric, self_rows):
    ap, ahead = [], []
    for vector, label, own in zip(query, query_labels, self_rows, strict=True):
        kept = np.arange(len(gallery)) != own
        distance = naive_distances(vector, gallery, metric)[kept]
        right = np.array([other == label for other in gallery_labels])[kept]
        if label in (-1, None) or not right.any():
            ap.append(np.nan)
            ahead.append(-1)
            continue
        ap.append(average_precision_score(right, -distance))
        ahead.append(int(((distance <= distance[right].min()) & ~right).sum()))
    return np.array(ap), np.array(ahead)


def coarse(random, count, dim=3):
    """Vectors of few values: most distances are tied and many vectors are equal."""
    return random.integers(0, 3, (count, dim)).astype(np.float32) + 0.25


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
@pytest.mark.parametrize("tied", [True, False])
def test_equals_scikit_learn(metric, tied):
    random = np.random.default_rng(1)
    draw = coarse if tied else lambda r, n: r.standard_normal((n, 8)).astype(np.float32)
    gallery, labels = draw(random, 300), random.integers(-1, 12, 300)
    if tied and metric == "cosine":
        gallery = np.exp2(gallery.round()).astype(np.float32)  # parallel ones tie to the last bit
        gallery = np.unique(gallery, axis=0).repeat(12, axis=0)[:300]
        labels = labels[: len(gallery)]
    rows = np.arange(len(gallery))
    found = retrieval(gallery, gallery, labels, labels, metric=metric, self_rows=rows)
    ap, ahead = naive(gallery, gallery, labels, labels, metric, rows)
    np.testing.assert_allclose(found.ap, ap, rtol=1e-12)
    np.testing.assert_array_equal(found.ahead, ahead)
    assert found.map == pytest.approx(np.nanmean(ap))
    assert found.skipped == np.isnan(ap).sum() > 0
    for k in (1, 5):
        np.testing.assert_array_equal(found.hits[k], (ahead >= 0) & (ahead < k))
        assert found.cmc(k) == pytest.approx((ahead[ahead >= 0] < k).mean())


def test_texts_none_foreign_labels_and_queries_from_outside():
    random = np.random.default_rng(2)
    gallery, query = coarse(random, 80), coarse(random, 20)
    names = ["cat", "dog", None, "a\nb"]
    gallery_labels = [names[i] for i in random.integers(0, 4, 80)]
    query_labels = [[*names, "emu"][i] for i in random.integers(0, 5, 20)]
    self_rows = np.where(np.arange(20) % 2, random.integers(0, 80, 20), -1)
    found = retrieval(query, gallery, query_labels, gallery_labels, self_rows=self_rows)
    ap, ahead = naive(query, gallery, query_labels, gallery_labels, "l2", self_rows)
    np.testing.assert_allclose(found.ap, ap, rtol=1e-12)
    np.testing.assert_array_equal(found.ahead, ahead)


@pytest.mark.parametrize(("part", "block", "kept", "max_bytes"), [(7, 3, 0, 1), (64, 128, 0, 1e9)])
def test_sizes_of_parts_change_nothing(monkeypatch, part, block, kept, max_bytes):
    random = np.random.default_rng(3)
    gallery = random.standard_normal((200, 16)).astype(np.float32)
    gallery[100:] = gallery[:100]  # of another label: parts must not break these ties
    labels = random.integers(0, 6, 200)
    whole = retrieval(gallery, gallery, labels, labels, self_rows=np.arange(200))
    monkeypatch.setattr(counting, "GALLERY_PART", part)
    monkeypatch.setattr(counting, "QUERY_PART", block)
    monkeypatch.setattr(counting, "_KEPT", kept)
    parts = retrieval(
        gallery, gallery, labels, labels, self_rows=np.arange(200), max_bytes=int(max_bytes)
    )
    np.testing.assert_allclose(parts.ap, whole.ap, rtol=1e-14)
    np.testing.assert_array_equal(parts.ahead, whole.ahead)


def test_a_hundred_thousand_items_in_bounded_parts(monkeypatch):
    random = np.random.default_rng(4)
    labels = random.integers(0, 500, 100_000)
    gallery = random.standard_normal((100_000, 8)).astype(np.float32)
    gallery[:, 0] += labels / 20
    rows = random.choice(100_000, 12, replace=False)
    sizes = []
    count = counting._count

    def watched(distances, *rest):
        sizes.append(distances.numel())
        return count(distances, *rest)

    monkeypatch.setattr(counting, "_count", watched)
    few = retrieval(gallery[rows], gallery, labels[rows], labels, self_rows=rows, max_bytes=1 << 22)
    assert max(sizes) * 4 < 1 << 22
    many = retrieval(gallery[rows], gallery, labels[rows], labels, self_rows=rows)
    np.testing.assert_allclose(few.ap, many.ap, rtol=1e-14)
    ap, ahead = naive(gallery[rows[:3]], gallery, labels[rows[:3]], labels, "l2", rows[:3])
    np.testing.assert_allclose(many.ap[:3], ap, rtol=1e-12)
    np.testing.assert_array_equal(many.ahead[:3], ahead)


def test_counting_by_search_equals_counting_by_sorting():
    """What a GPU does and what a CPU does, on one device."""
    import torch

    random = np.random.default_rng(5)
    distances = torch.from_numpy(random.integers(-4, 5, (6, 90)).astype(np.float32))
    distances[:, ::9] = torch.inf
    distances[0, 1] = -0.0
    edges = torch.from_numpy(np.sort(random.integers(-3, 4, (6, 5)).astype(np.float32), axis=1))
    edges[2, -1] = torch.inf
    steps = [random.integers(0, 5, 90) for _ in range(2)]
    by_sorting = counting._count(distances, edges, steps, 4)
    by_search = counting._count_by_search(distances, edges, steps, 4)
    single = counting._count(distances, edges, [], 1)[0]
    finite = np.isfinite(edges.numpy())
    for one, other in zip(by_sorting, by_search, strict=True):
        for step in range(5):
            np.testing.assert_array_equal(one[:, step][finite], other[:, step][finite])
        np.testing.assert_array_equal(one.sum(1)[finite], single[:, 0][finite])


V = np.ones((4, 2), np.float32)
L = np.array([0, 0, 1, 1])


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((V, V[:, :1], L, L), {}, "both must come from one space"),
        ((V, V * np.nan, L, L), {}, "gallery has 4 vectors with NaN"),
        ((V, V, L[:3], L), {}, "query_labels has 3 labels for 4 vectors"),
        ((V, V, L, L[:3]), {}, "gallery_labels has 3 labels"),
        ((V.astype(int), V, L, L), {}, "queries must be vectors of floating point"),
        ((V[0], V, L, L), {}, "queries has|queries must be vectors|query_labels has"),
        ((V, V, L * 0.5, L), {}, "labels must be a list of whole numbers or of texts"),
        ((V, V, ["a"] * 4, L), {}, "both be whole numbers or both texts"),
        ((V, V, L + 9, L), {}, "none of 4 queries shares its label"),
        ((V, V, L, L), {"metric": "l1"}, "metric must be one of l2, cosine, ip, got 'l1'"),
        ((V, V, L, L), {"ks": (0,)}, "ks must be numbers >= 1"),
        ((V, V, L, L), {"self_rows": np.arange(3)}, "self_rows has 3 rows for 4 queries"),
        ((V, V, L, L), {"self_rows": np.arange(4) + 1}, "self_rows has row 4"),
    ],
)
def test_bad_input(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        retrieval(*arguments, **options)


@pytest.mark.parametrize("metric", ["cosine", "ip"])
def test_orthogonal_items_tie_whatever_the_parts(metric):
    for seed in range(20):
        random = np.random.default_rng(seed)
        gallery = random.integers(-2, 3, (600, 5)).astype(np.float32)
        gallery[~gallery.any(axis=1)] = 1
        labels = random.integers(0, 5, 600)
        whole, parts = (
            retrieval(
                *(gallery, gallery, labels, labels),
                metric=metric,
                self_rows=np.arange(600),
                max_bytes=max_bytes,
            )
            for max_bytes in (1 << 30, 1 << 14)
        )
        np.testing.assert_allclose(parts.ap, whole.ap, rtol=1e-12)
        np.testing.assert_array_equal(parts.ahead, whole.ahead)


@pytest.mark.parametrize("metric", ["cosine", "ip"])
def test_orthogonal_items_have_distance_zero(metric):
    random = np.random.default_rng(0)
    query = random.standard_normal((40, 32)).astype(np.float32)
    query *= np.float32(10) ** random.integers(-4, 5, query.shape)
    turned = np.concatenate([query[:, 16:], -query[:, :16]], axis=1)  # u v - v u + ...
    order = random.permutation(32)
    space = Space(query[:, order], turned[:, order], metric)
    items = space.items(slice(None), torch.device("cpu"))
    found = space.distances(np.arange(40), items).numpy()
    assert (np.diag(found) == 0).all()
    assert np.count_nonzero(found) > 1500
    small = Space(query[:, order], query[:, order] * np.float32(1e-9), metric)
    found = small.distances(np.arange(40), small.items(slice(None), torch.device("cpu")))
    assert (np.diag(found.numpy()) < 0).all()


@pytest.mark.parametrize(("metric", "length"), [("l2", 1e19), ("ip", 2e19)])
def test_vectors_whose_distances_are_beyond_float32_are_refused(metric, length):
    long = np.array([[length, 0], [0, length], [1, 0]], np.float32)
    labels = np.array([0, 0, 1])
    with pytest.raises(ValueError, match="too long"):
        retrieval(long, long, labels, labels, metric=metric)
    retrieval(long / 10, long / 10, labels, labels, metric=metric)
    retrieval(long, long, labels, labels, metric="cosine")

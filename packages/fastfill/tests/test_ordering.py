import logging
import subprocess
import sys

import numpy as np
import pytest

from fastfill.ordering import POLICIES, OrderInputs, needs, order

N = 60
RANDOM = np.random.default_rng(0)
KNOWN = {
    "s": RANDOM.standard_normal(N).astype(np.float32),
    "z": RANDOM.standard_normal((N, 5)).astype(np.float32),
    "head": RANDOM.standard_normal((7, 5)).astype(np.float32),
    "old": RANDOM.standard_normal((N, 4)).astype(np.float32),
    "old_head": RANDOM.standard_normal((3, 4)).astype(np.float32),
    "hits": RANDOM.integers(0, 4, N),
    "groups": RANDOM.choice(["a", "b", "b", "b"], N),
    "column": RANDOM.standard_normal(N),
    "new": RANDOM.standard_normal((N, 5)).astype(np.float32),
}


def of(policy, **changes):
    given = {name: KNOWN[name] for name in needs(policy)}
    return order(policy, OrderInputs(size=N, **{**given, **changes}))


def softmax(vectors, head):
    logits = vectors.astype(np.float64) @ head.T.astype(np.float64)
    p = np.exp(logits - logits.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_item_comes_once_and_always_in_the_same_place(policy):
    rows = of(policy)
    assert rows.dtype == np.int64
    np.testing.assert_array_equal(np.sort(rows), np.arange(N))
    np.testing.assert_array_equal(of(policy), rows)


@pytest.mark.parametrize("policy", [p for p in POLICIES if p != "distance"])
def test_only_the_oracle_may_see_new_embeddings(policy):
    assert "new" not in needs(policy)
    with pytest.raises(ValueError, match="must not see new embeddings"):
        of(policy, new=KNOWN["new"])


@pytest.mark.parametrize("policy", [p for p in POLICIES if needs(p)])
def test_what_is_missing_is_named(policy):
    with pytest.raises(ValueError, match=", ".join(sorted(needs(policy)))):
        order(policy, OrderInputs(size=N))


def test_scores_fall_along_each_order():
    p_old, p_new = softmax(KNOWN["old"], KNOWN["old_head"]), softmax(KNOWN["z"], KNOWN["head"])
    distance = np.square(KNOWN["new"].astype(float) - KNOWN["z"]).sum(1)
    falling = {
        "sigma": KNOWN["s"],
        "distance": distance,
        "confidence": -p_old.max(1),
        "old_entropy": -(p_old * np.log(p_old)).sum(1),
        "entropy": -(p_new * np.log(p_new)).sum(1),
        "column": KNOWN["column"],
        "traffic": KNOWN["hits"] * np.exp(KNOWN["s"]),
    }
    for policy, score in falling.items():
        np.testing.assert_array_equal(np.argsort(-score, kind="stable")[:20], of(policy)[:20])
        assert (np.diff(score[of(policy)]) <= 0).all(), policy


def test_items_never_found_come_last_by_s():
    tail = of("traffic")[-(KNOWN["hits"] == 0).sum() :]
    assert (KNOWN["hits"][tail] == 0).all()
    assert (np.diff(KNOWN["s"][tail]) <= 0).all()


def test_quota_keeps_shares_and_goes_by_s_inside():
    rows = of("quota")
    share = (KNOWN["groups"] == "a").mean()
    for cut in range(1, N):
        assert abs((KNOWN["groups"][rows[:cut]] == "a").sum() - share * cut) <= 1
    inside = rows[KNOWN["groups"][rows] == "a"]
    assert (np.diff(KNOWN["s"][inside]) <= 0).all()


def test_kcenter_takes_the_farthest_each_time():
    rows = order("kcenter", OrderInputs(size=N, z=KNOWN["z"], centres=8))
    z = KNOWN["z"].astype(np.float64)
    assert rows[0] == np.square(z - z.mean(0)).sum(1).argmax()
    for place in range(1, 8):
        nearest = np.square(z[:, None] - z[rows[:place]]).sum(2).min(1)
        assert rows[place] == nearest.argmax()
    nearest = np.square(z[:, None] - z[rows[:8]]).sum(2).min(1)
    assert (np.diff(nearest[rows[8:]]) <= 1e-6).all()


def test_kcenter_of_equal_items_is_a_permutation():
    rows = order("kcenter", OrderInputs(size=9, z=np.ones((9, 2), np.float32), centres=20))
    np.testing.assert_array_equal(np.sort(rows), np.arange(9))


def test_seeds_give_other_random_orders():
    one, other = (order("random", OrderInputs(size=N, seed=seed)) for seed in (0, 1))
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("policy", ["sigma", "quota", "traffic"])
def test_collapsed_s_warns_and_goes_by_entropy(policy, caplog):
    flat = np.zeros(N, np.float32)
    with caplog.at_level(logging.WARNING):
        rows = of(policy, s=flat, z=KNOWN["z"], head=KNOWN["head"])
    assert "s is 0 for all items" in caplog.text
    p = softmax(KNOWN["z"], KNOWN["head"])
    entropy = -(p * np.log(p)).sum(1)
    np.testing.assert_array_equal(rows, of(policy, s=entropy))
    with pytest.raises(ValueError, match="needs z and head"):
        of(policy, s=flat)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"s": np.full(N, np.nan)}, "s must be one finite number an item"),
        ({"s": np.zeros(N - 1)}, "s has 59 entries for 60 items"),
        ({"hits": np.full(N, -1)}, "hits must be >= 0, got -1"),
        ({"column": np.ones((N, 2))}, "column must be one finite number"),
        ({"size": 0}, "size and centres must be >= 1"),
    ],
)
def test_bad_inputs(changes, message):
    with pytest.raises(ValueError, match=message):
        OrderInputs(**{"size": N, **changes})


def test_bad_policies_and_shapes():
    with pytest.raises(ValueError, match="order must be one of sigma, random"):
        needs("best")
    with pytest.raises(ValueError, match="does not take vectors"):
        of("entropy", head=np.ones((3, 4), np.float32))
    with pytest.raises(ValueError, match="one space, please"):
        of("distance", new=np.ones((N, 2), np.float32))


def test_orders_and_areas_do_without_torch():
    code = (
        "import sys, fastfill.ordering, fastfill.evaluation.auc; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

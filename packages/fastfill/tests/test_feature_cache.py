"""Files of cached features: what is written is read, in any rows and views; damage is named."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastfill.cache import FeatureCache, read_cache, write_cache
from fastfill.card import ModelCard
from fastfill.npz_columns import map_npz

N, V = 10, 3
OLD = ModelCard("old", 4, "l2", "o", num_classes=2)
NEW = ModelCard("new", 5, "l2", "n", num_classes=7)
SIDE = ModelCard("side", 2, "l2", "s")


def arrays() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "ids": [f"id\u2028 {row}" for row in range(N)],
        "old": rng.normal(size=(N, V, 4)).astype(np.float32),
        "new": rng.normal(size=(N, V, 5)).astype(np.float32),
        "side": rng.normal(size=(N, V, 2)).astype(np.float32),
        "labels": rng.integers(-1, 7, N),
        "head": rng.normal(size=(7, 5)).astype(np.float32),
        "old_head": rng.normal(size=(2, 4)).astype(np.float32),
        "groups": [f"g{row % 2}" for row in range(N)],
    }


def write(folder: Path, **changes: Any) -> FeatureCache:
    options = {
        **arrays(),
        "old_card": OLD,
        "new_card": NEW,
        "side_card": SIDE,
        "dtype": "float32",
        "shard_size": 4,
        **changes,
    }
    return write_cache(folder, **options)


def test_columns_come_back(tmp_path: Path) -> None:
    expected = arrays()
    cache = write(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("pairs-*")) == [
        "pairs-00000.npz",
        "pairs-00001.npz",
        "pairs-00002.npz",
    ]
    assert (len(cache), cache.num_views) == (N, V)
    for view in range(V):
        for name in ("old", "new", "side"):
            column = getattr(cache, name)(view)
            assert column.dtype == np.float32
            assert column.flags.c_contiguous
            assert np.array_equal(column, expected[name][:, view])
    assert cache.labels.tolist() == expected["labels"].tolist()
    assert list(cache.ids) == expected["ids"]
    assert list(cache.groups or ()) == expected["groups"]
    assert np.array_equal(cache.head, expected["head"])
    assert np.array_equal(cache.old_head, expected["old_head"])
    assert (cache.cards.old, cache.cards.new, cache.cards.side) == (OLD, NEW, SIDE)
    cache.verify()


def test_rows_in_views_of_their_own(tmp_path: Path) -> None:
    expected, cache = arrays(), write(tmp_path)
    rows, views = np.array([9, 0, 4, 4, 3]), np.array([2, 0, 1, 2, 1])
    cache = pickle.loads(pickle.dumps(cache))  # noqa: S301
    pairs = cache.rows(rows, views)
    for name in ("old", "new", "side"):
        wanted = np.stack([expected[name][r, v] for r, v in zip(rows, views, strict=True)])
        assert np.array_equal(getattr(pairs, name), wanted)
    assert pairs.labels.tolist() == expected["labels"][rows].tolist()
    assert np.array_equal(cache.rows(rows, 1).new, expected["new"][rows, 1])
    assert cache.rows([]).old.shape == (0, 4)
    for rows, views in (([10], 0), ([-1], 0), ([0], 3)):
        with pytest.raises(IndexError, match="is not in 0"):
            cache.rows(rows, views)
    with pytest.raises(IndexError, match="view 3"):
        cache.old(3)


def test_a_cache_without_extras_in_half_precision(tmp_path: Path) -> None:
    old = arrays()["old"]
    cache = write_cache(
        tmp_path / "c",
        ids=[str(row) for row in range(N)],
        old=old[:, 0],
        new=old[:, 1],
        old_card=ModelCard("a", 4, "cosine", "a"),
        new_card=ModelCard("b", 4, "cosine", "b"),
    )
    assert cache.num_views == 1
    assert np.array_equal(cache.old(), old[:, 0].astype(np.float16).astype(np.float32))
    assert cache.side() is cache.head is cache.old_head is cache.groups is cache.cards.side is None
    assert cache.labels.tolist() == [-1] * N
    assert cache.rows([1]).side is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"old": np.zeros((N, V, 3))}, r"old is \[10, 3, 3\], expected \[10, 3, 4\]"),
        ({"new": np.zeros((N, 5))}, "new is"),
        ({"new": np.zeros(5)}, "must be"),
        ({"side_card": None}, "side and its card"),
        ({"ids": ["x"] * N}, "distinct"),
        ({"labels": np.zeros(3, int)}, "labels and groups must be 10"),
        ({"labels": np.full(N, 7)}, "labels go up to 7, but the classifier of new has 7 rows"),
        ({"head": np.zeros((6, 5))}, r"head is \(6, 5\)"),
        ({"head": None}, "head is None"),
        ({"new": np.full((N, V, 5), 1e6), "dtype": "float16"}, "use dtype float32"),
        ({"new": np.full((N, V, 5), np.nan)}, "new embeddings"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "c", **changes)
    assert not (tmp_path / "c" / "cache.json").exists()


def test_a_folder_of_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(ValueError, match="is not empty"):
        write(tmp_path)


def test_damage_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    shard = tmp_path / "pairs-00001.npz"
    data, manifest = shard.read_bytes(), json.loads((tmp_path / "cache.json").read_text())
    shard.write_bytes(data[:-40])
    with pytest.raises(ValueError, match="is damaged"):
        read_cache(tmp_path)
    at = data.index(arrays()["new"][5, 0].tobytes())
    shard.write_bytes(data[:at] + b"\0" + data[at + 1 :])
    with pytest.raises(ValueError, match=r"pairs-00001\.npz is not what"):
        read_cache(tmp_path).verify()
    shard.write_bytes((tmp_path / "pairs-00002.npz").read_bytes())
    with pytest.raises(ValueError, match="cache it again"):
        read_cache(tmp_path)
    shard.unlink()
    with pytest.raises(FileNotFoundError, match="is missing"):
        read_cache(tmp_path)
    shard.write_bytes(data)
    for change, message in (
        ({"schema": 2}, "schema version is 2, expected 1"),
        ({"models": {}}, "missing or malformed"),
        ({"shards": [{**manifest["shards"][0], "name": "../x.npz"}]}, "leaves the folder"),
        ({"shards": [{"name": "x"}]}, "missing or malformed"),
    ):
        (tmp_path / "cache.json").write_text(json.dumps({**manifest, **change}))
        with pytest.raises(ValueError, match=message):
            read_cache(tmp_path)
    (tmp_path / "cache.json").write_text("{")
    with pytest.raises(ValueError, match=r"cache\.json"):
        read_cache(tmp_path)
    (tmp_path / "cache.json").unlink()
    with pytest.raises(FileNotFoundError, match="cache-features has finished"):
        read_cache(tmp_path)


def test_ids_and_heads_that_do_not_fit(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "ids.jsonl").write_text('{"id": "a"}\n')
    with pytest.raises(ValueError, match="1 ids for 10 items"):
        _ = read_cache(tmp_path).ids
    np.save(tmp_path / "head.npy", np.zeros((3, 5)))
    with pytest.raises(ValueError, match=r"head\.npy is \[3, 5\]"):
        _ = read_cache(tmp_path).head
    np.save(tmp_path / "head.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match="cannot be read"):
        _ = read_cache(tmp_path).head


def test_compressed_and_foreign_arrays_are_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "c.npz", a=np.zeros(9))
    with pytest.raises(ValueError, match="is compressed"):
        map_npz(tmp_path / "c.npz")
    np.savez(tmp_path / "o.npz", a=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="no plain array"):
        map_npz(tmp_path / "o.npz")
    np.savez(tmp_path / "e.npz", a=np.zeros((0, 3), np.float16))
    assert map_npz(tmp_path / "e.npz")["a"].shape == (0, 3)

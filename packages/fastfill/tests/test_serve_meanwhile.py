"""The service while items come, go and fail, with restarts and other writers."""

import threading
from pathlib import Path

import numpy as np
import pytest
from served import World, make_model, make_world, png, running, versions_of, wait_for

from fastfill.gallery import (
    Gallery,
    GalleryBusyError,
    Message,
    submit,
)
from fastfill.gallery.journal import read_base
from fastfill.gallery.state import journal_path, read_state
from fastfill.live_index import Hit


def submit_all(world: World, size: int = 3) -> None:
    for start in range(0, len(world.ids), size):
        rows = np.arange(start, min(start + size, len(world.ids)))
        submit(world.gallery, Message(kind="result", rows=rows, vectors=world.new[rows]))


def test_queries_during_a_backfill(tmp_path: Path) -> None:
    world = make_world(tmp_path, items=60)
    query = world.new[30].astype(np.float64)
    possible = {
        (item, version): float(((vector - query) ** 2).sum())
        for version, vectors in (("h(old)", world.z), ("new", world.new))
        for item, vector in zip(world.ids, vectors, strict=True)
    }
    sha = world.encoder.card.weights_sha256
    one = {"vector": query.tolist(), "model": sha, "k": 60}
    many = {"vectors": [query.tolist()] * 4, "model": sha, "k": 60}
    with running(world) as client:
        threads = [threading.Thread(target=submit_all, args=(world,))]
        threads[0].start()
        shares = []
        while not shares or shares[-1] < 1:
            code, found = client.post("/api/query", one)
            assert code == 200
            hits = [Hit(**hit) for hit in found["hits"]]
            distances = [hit.distance for hit in hits]
            assert {hit.id for hit in hits} == set(world.ids)
            assert distances == sorted(distances)
            for hit in hits:  # the vector is one of the two, whatever its name says
                near = min(abs(possible[hit.id, name] - hit.distance) for name in ("h(old)", "new"))
                assert near < 1e-4 * (1 + hit.distance)
            code, found = client.post("/api/query/batch", many)
            assert code == 200
            lists = [answer["hits"] for answer in found["results"]]
            assert lists == [lists[0]] * 4
            for hit in (Hit(**hit) for hit in lists[0]):
                true = possible[hit.id, hit.version]
                assert hit.distance == pytest.approx(true, rel=1e-4, abs=1e-5)
            shares.append(np.mean([hit["version"] == "new" for hit in lists[0]]))
        threads[0].join()
        wait_for(lambda: client.ask("GET", "/api/status")[1]["inbox"] == 0)
        assert client.ask("GET", "/api/status")[1]["progress"] == 1
    assert shares == sorted(shares)


def test_items_come_and_go(tmp_path: Path) -> None:
    world = make_world(tmp_path, items=6)
    with running(world) as client:
        submit(world.gallery, Message(kind="add", ids=["fresh"], vectors=world.new[:1]))
        submit(world.gallery, Message(kind="delete", ids=[world.ids[2]]))
        wait_for(lambda: client.ask("GET", "/api/status")[1]["counts"]["deleted"] == 1)
        wait_for(lambda: client.ask("GET", "/api/status")[1]["service"]["indexed"] == 6)
        found = client.post("/api/query", {"id": "fresh", "k": 10})[1]["hits"]
        assert sorted(hit["id"] for hit in found) == sorted({*world.ids} - {world.ids[2]})
        assert client.post("/api/query", {"id": world.ids[2]})[0] == 404


def test_restart_goes_on_where_it_was(tmp_path: Path) -> None:
    world = make_world(tmp_path, items=9)
    with running(world) as client:
        with pytest.raises(GalleryBusyError):
            Gallery.open(world.gallery, "w")
        submit(world.gallery, Message(kind="result", rows=np.arange(4), vectors=world.new[:4]))
        wait_for(lambda: client.ask("GET", "/api/status")[1]["counts"]["new"] == 4)
        before = client.post("/api/query", {"id": world.ids[0]})
    state = read_state(world.gallery)
    assert read_base(journal_path(world.gallery, state.generation)) > 0  # a checkpoint
    with Gallery.open(world.gallery, "w") as gallery:  # the lock is free
        assert gallery.counts().new == 4
    with running(world) as client:
        assert client.post("/api/query", {"id": world.ids[0]}) == before


def test_follows_another_writer_and_takes_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastfill.serve.keeper.RETRY_S", 0.1)
    world = make_world(tmp_path, items=6)
    gallery = Gallery.open(world.gallery, "w")
    with running(world) as client:
        assert client.ask("GET", "/api/status")[1]["service"]["role"] == "reader"
        gallery.apply(np.arange(6), world.new)
        asked = {"id": world.ids[0]}
        wait_for(lambda: versions_of(client.post("/api/query", asked)[1]) == {"new"})
        gallery.close()
        wait_for(lambda: client.ask("GET", "/api/status")[1]["service"]["role"] == "writer")


def test_rolled_back_gallery_needs_the_old_model(tmp_path: Path) -> None:
    world = make_world(tmp_path, items=4)
    with Gallery.open(world.gallery, "w") as gallery:
        gallery.rollback("old")
    with running(world) as client:
        asked = {"vector": [0.0] * 6, "model": world.encoder.card.weights_sha256}
        assert client.post("/api/query", asked)[0] == 409
        assert client.post("/api/query", {"vector": [0.0] * 3, "model": "sha-old"})[0] == 200
        code, answer = client.upload("/api/query", [png()])
        assert (code, "does not have" in answer["error"]) == (409, True)


def test_failure_to_write_is_told_and_got_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastfill.serve.keeper.RETRY_S", 0.1)
    world = make_world(tmp_path, items=4)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with running(world) as client:
        with monkeypatch.context() as patch:
            patch.setattr("fastfill.gallery.journal.Journal.append", full)
            submit(world.gallery, Message(kind="result", rows=np.arange(4), vectors=world.new))
            wait_for(lambda: client.ask("GET", "/api/status")[1]["service"]["problem"])
            assert client.post("/api/query", {"id": world.ids[0]})[0] == 200
        wait_for(lambda: client.ask("GET", "/api/status")[1]["progress"] == 1)
        wait_for(lambda: client.ask("GET", "/api/status")[1]["service"]["problem"] is None)


def test_other_model_is_refused_at_the_start(tmp_path: Path) -> None:
    world = make_world(tmp_path, items=2)
    other = make_model(tmp_path / "other.safetensors", seed=1)
    with pytest.raises(ValueError, match="model: expected new"):
        running(World(**{**vars(world), "model": other})).__enter__()

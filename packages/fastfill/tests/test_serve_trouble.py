"""The service when something is broken, and when it is told to roll back."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from served import TOKEN, Client, World, make_world, running, versions_of, wait_for

from fastfill.card import ModelCard, TransformCard
from fastfill.gallery import (
    Gallery,
    GalleryCards,
    Message,
    read_control,
    submit,
)
from fastfill.gallery.init import init_gallery
from fastfill.serve.errors import RequestError
from fastfill.serve.keeper import Keeper
from fastfill.serve.old_model import check_old_model
from fastfill.serve.run import open_service
from fastfill.serve.security import Security
from fastfill.sources import open_source
from fastfill.transform import Transformation, transform_all
from fastfill.vector_checks import vector_stats
from fastfill.weights import save_transformation
from tenfold import keyed


class Idle:
    """A worker that has nothing to do."""

    state = "idle"

    def tend(self, *, work: bool) -> None:
        assert isinstance(work, bool)

    def stop(self) -> None:
        pass


def test_keeper_outlives_every_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastfill.serve.keeper.RETRY_S", 0.1)
    world = make_world(tmp_path, items=4)
    keeper = Keeper(world.gallery, backend="brute", worker=Idle())  # pyright: ignore
    keeper.start()
    control = world.gallery / "control.json"
    control.write_text("{")
    wait_for(lambda: keeper.problem and "control.json" in keeper.problem)
    submit(world.gallery, Message(kind="result", rows=np.arange(1), vectors=world.new[:1]))
    (world.gallery / "pending" / "00-bad.npz").write_bytes(b"PK\x03\x04garbage")
    wait_for(lambda: _new(keeper) == 1)
    control.unlink()
    wait_for(lambda: keeper.problem is None)

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(Gallery, "apply_pending", broken)
        wait_for(lambda: keeper.problem == "ZeroDivisionError")
    submit(world.gallery, Message(kind="result", rows=np.arange(1, 4), vectors=world.new[1:]))
    wait_for(lambda: _new(keeper) == 4)
    keeper.close()


def _new(keeper: Keeper) -> int:
    with keeper.view() as gallery:
        return gallery.counts().new


def test_roll_back_over_http(tmp_path: Path) -> None:
    world = make_world(tmp_path, items=4)
    with Gallery.open(world.gallery, "w") as gallery:
        gallery.apply(np.arange(4), world.new)
    with running(world, token=TOKEN) as client:
        unnamed = Client(client.port, client.service, {})
        assert unnamed.post("/api/rollback", {"to": "old"})[0] == 401
        for value in ({}, {"to": "x"}, {"to": []}, {"to": "old", "h": "x"}, [1]):
            assert client.post("/api/rollback", value)[0] == 400
        assert client.ask("POST", "/api/rollback", b"{}")[0] == 415
        code, answer = client.post("/api/rollback", {"to": "old"})
        assert (code, answer) == (200, {"changed": 4, "model": "old", "paused": True})
        old = {"vector": [0.0] * 3, "model": "sha-old"}
        assert client.post("/api/query", old)[0] == 200
        code, answer = client.post("/api/rollback", {"to": "new"})
        assert (code, answer) == (200, {"changed": 4, "model": "new", "paused": True})
        assert versions_of(client.post("/api/query", {"id": world.ids[0]})[1]) == {"new"}
        code, answer = client.post("/api/rollback", {"to": "transformed"})
        assert (code, "start serve with --h" in answer["error"]) == (409, True)


def test_roll_back_to_the_maps_vectors(tmp_path: Path) -> None:
    world = make_world(tmp_path, items=4)
    h, card = mapped(tmp_path, world)
    with Gallery.open(world.gallery, "w") as gallery:
        gallery.apply(np.arange(4), world.new)
        old = gallery.column("old")[:]
    with running(world, h=card) as client:
        code, answer = client.post("/api/rollback", {"to": "transformed"})
        assert (code, answer["changed"], answer["paused"]) == (200, 4, True)
        counts = client.ask("GET", "/api/status")[1]["counts"]
        assert (counts["new"], counts["waiting"]) == (0, 4)
    with Gallery.open(world.gallery) as gallery:
        np.testing.assert_array_equal(gallery.column("vec"), transform_all(h, old)[0])


def mapped(folder: Path, world: World) -> tuple[Transformation, Path]:
    """Make the world's gallery anew with a map."""
    old = keyed.generator("old").normal(size=(len(world.ids), 3)).astype(np.float32)
    h = Transformation(3, 6, inner=4).eval()
    card = TransformCard(
        old=ModelCard("old", 3, "l2", "sha-old"),
        new=world.encoder.card,
        inner=4,
        old_stats=vector_stats(old),
    )
    save_transformation(folder / "h.safetensors", h, card)
    np.save(folder / "old.npy", old)
    (folder / "old.card.json").write_text(json.dumps(card.old.to_json()))
    (folder / "ids.txt").write_text("".join(f"{item}\n" for item in world.ids))
    shutil.rmtree(world.gallery)
    init_gallery(
        world.gallery,
        vectors=folder / "old.npy",
        ids=folder / "ids.txt",
        h=folder / "h.safetensors",
    )
    return h, folder / "h.safetensors"


def test_roll_back_is_refused_where_another_process_writes(tmp_path: Path) -> None:
    world = make_world(tmp_path, items=2)
    with Gallery.open(world.gallery, "w"), running(world) as client:
        code, answer = client.post("/api/rollback", {"to": "old"})
        assert (code, "another process writes gallery" in answer["error"]) == (409, True)
        assert not read_control(world.gallery).paused


def test_damaged_plan_is_told_and_no_failure(tmp_path: Path) -> None:
    world = make_world(tmp_path, items=2)
    with running(world) as client:
        for damaged in ("[]", "{", '{"predicted": [[0, NaN]]}'):
            (world.gallery / "plan.json").write_text(damaged)
            code, status = client.ask("GET", "/api/status")
            assert (code, status["predicted_quality"]) == (200, None)
            assert "run plan again" in status["service"]["problem"]
            code, curve = client.ask("GET", "/api/curve")
            assert (code, curve["predicted"]) == (200, [])
            assert "run plan again" in curve["problem"]


def test_length_of_thousands_of_digits_is_too_long() -> None:
    headers = [(b"host", b"127.0.0.1"), (b"content-length", b"9" * 5000)]
    scope = {"type": "http", "path": "/api/query", "method": "POST", "headers": headers}
    with pytest.raises(RequestError, match="larger than 10485760 bytes"):
        Security(host="127.0.0.1").check(scope)


def test_old_model_must_give_the_vectors_that_the_gallery_has(tmp_path: Path) -> None:
    world = make_world(tmp_path, items=4)
    source = open_source(str(world.images))
    for factor in (1.0, 1.1):
        folder = tmp_path / f"gallery {factor}"
        Gallery.create(
            folder,
            world.ids,
            world.new * np.float32(factor),
            world.z,
            np.zeros(4, np.float32),
            cards=GalleryCards(new=world.encoder.card, old=(world.encoder.card,)),
        )
        with Gallery.open(folder) as gallery:
            if factor == 1:
                check_old_model(gallery, world.encoder, source)
                continue
            with pytest.raises(ValueError, match="old model embeds 4 of 4 probe items otherwise"):
                check_old_model(gallery, world.encoder, source)
    options = {"model": str(world.model), "source": str(world.images)}
    with pytest.raises(ValueError, match="probe items otherwise"):
        open_service(tmp_path / "gallery 1.1", old_model=str(world.model), **options)

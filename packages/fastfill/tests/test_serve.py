"""The service over real HTTP: endpoints, limits, tokens, a backfill meanwhile, restart."""

import http.client
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from served import TOKEN, Client, World, make_world, png, running, wait_for

from fastfill.gallery import (
    Gallery,
    Message,
    read_control,
    submit,
)
from fastfill.serve.errors import RequestError
from fastfill.serve.images import decode_upload


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = make_world(tmp_path_factory.mktemp("world"))
    plan = {"predicted": [[0.0, 0.5], [1.0, 0.75]]}
    (world.gallery / "plan.json").write_text(json.dumps(plan))
    with Gallery.open(world.gallery, "w") as gallery:
        gallery.apply(np.arange(3), world.new[:3])
        gallery.fail(5, "is missing")
    return world


@pytest.fixture(scope="module")
def client(world: World) -> Iterator[Client]:
    with running(world, source=str(world.images), max_batch=4) as client:
        yield client


def nearest(vectors: np.ndarray, query: np.ndarray, k: int) -> list[int]:
    distance = ((vectors.astype(np.float64) - query) ** 2).sum(axis=1)
    return np.argsort(distance, kind="stable")[:k].tolist()


def mixed(world: World, new: int = 3) -> np.ndarray:
    return np.concatenate([world.new[:new], world.z[new:]])


def test_status_tells_counts_and_prediction(client: Client, world: World) -> None:
    code, status = client.ask("GET", "/api/status")
    assert code == 200
    assert status["counts"] == {
        "live": 12, "new": 3, "transformed": 9, "old": 0, "waiting": 9, "failed": 1, "deleted": 0,
    }  # fmt: skip
    assert status["progress"] == 0.25
    assert status["predicted_quality"] == 0.5625
    assert status["failures"][0]["id"] == world.ids[5]
    service = status["service"]
    assert (service["role"], service["problem"], service["embeds"]) == ("writer", None, "image")
    assert service["model"]["weights_sha256"] == world.encoder.card.weights_sha256


@pytest.mark.parametrize("exact", [False, True])
def test_query_by_vector(client: Client, world: World, exact: bool) -> None:
    query = world.new[7] + 0.01
    sha = world.encoder.card.weights_sha256
    asked = {"vector": query.tolist(), "model": sha, "k": 5, "exact": exact}
    code, found = client.post("/api/query", asked)
    rows = nearest(mixed(world), query, 5)
    assert code == 200
    assert [hit["id"] for hit in found["hits"]] == [world.ids[row] for row in rows]
    names = ["new" if row < 3 else "h(old)" for row in rows]
    assert [hit["version"] for hit in found["hits"]] == names
    expected = ((mixed(world)[rows] - query) ** 2).sum(axis=1)
    np.testing.assert_allclose([hit["distance"] for hit in found["hits"]], expected, rtol=1e-4)
    assert (found["model"], found["weights_sha256"]) == ("new", sha)


def test_query_by_image_and_by_id(client: Client, world: World) -> None:
    data = (world.images / world.ids[4]).read_bytes()
    code, found = client.upload("/api/query", [data], k="4")
    assert code == 200
    rows = nearest(mixed(world), world.new[4], 4)
    assert [hit["id"] for hit in found["hits"]] == [world.ids[row] for row in rows]
    code, found = client.post("/api/query", {"id": world.ids[1], "k": 4})
    assert code == 200
    assert found["query"] == {"id": world.ids[1], "version": "new"}
    rows = nearest(mixed(world), world.new[1], 5)
    assert [hit["id"] for hit in found["hits"]] == [world.ids[row] for row in rows if row != 1]


def test_batch_equals_single_queries(client: Client, world: World) -> None:
    sha = world.encoder.card.weights_sha256
    vectors = (world.new[4:8] + 0.02).tolist()
    code, found = client.post("/api/query/batch", {"vectors": vectors, "model": sha, "k": 3})
    assert code == 200
    for vector, answer in zip(vectors, found["results"], strict=True):
        one = client.post("/api/query", {"vector": vector, "model": sha, "k": 3})[1]
        assert answer["hits"] == one["hits"]
    images = [(world.images / item).read_bytes() for item in world.ids[:2]]
    code, found = client.upload("/api/query/batch", images, k="2", exact="true")
    assert code == 200
    for data, answer in zip(images, found["results"], strict=True):
        assert answer["hits"] == client.upload("/api/query", [data], k="2")[1]["hits"]
    code, found = client.post("/api/query/batch", {"ids": world.ids[:2], "k": 2})
    assert [answer["query"]["id"] for answer in found["results"]] == world.ids[:2]


def test_pause_and_resume(client: Client, world: World) -> None:
    assert client.ask("POST", "/api/pause") == (200, {"paused": True})
    assert read_control(world.gallery).paused
    assert client.ask("GET", "/api/status")[1]["paused"] is True
    assert client.ask("POST", "/api/resume") == (200, {"paused": False})
    assert not read_control(world.gallery).paused


def test_originals(client: Client, world: World) -> None:
    item = world.ids[0].replace(" ", "%20")
    code, content, kind = client.raw("GET", f"/api/items/{item}/image")
    assert (code, kind) == (200, "image/jpeg")
    assert Image.open(io.BytesIO(content)).size == (32, 40)
    (world.images.parent / "secret.png").write_bytes(png())
    for path in ("../secret.png", "..%2Fsecret.png", "%2Fetc%2Fpasswd", "a/nothing.png"):
        code, answer = client.ask("GET", f"/api/items/{path}/image")
        assert (code, list(answer)) == (404, ["error"])
        assert str(world.images) not in answer["error"]
    assert client.ask("GET", f"/api/items/{item}/text")[0] == 404


def test_ids_that_leave_the_folder_are_refused(tmp_path: Path) -> None:
    world = make_world(tmp_path, items=2)
    (tmp_path / "secret.png").write_bytes(png())
    with Gallery.open(world.gallery, "w") as gallery:
        gallery.add(["../secret.png"], world.new[:1])
    with running(world, source=str(world.images)) as client:
        code, answer = client.ask("GET", "/api/items/../secret.png/image")
        assert (code, answer) == (404, {"error": "the original of '../secret.png' cannot be had"})


def test_curve_measures_what_labels_say(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    plan = {"predicted": [[1.0, 0.75], [0.0, 0.5]]}
    (world.gallery / "plan.json").write_text(json.dumps(plan))
    with running(world, source=str(world.images)) as client:
        wait_for(lambda: client.ask("GET", "/api/curve")[1]["measured"])
        curve = client.ask("GET", "/api/curve")[1]
        assert curve["predicted"] == [[0.0, 0.5], [1.0, 0.75]]
        ((share, quality),) = curve["measured"]
        assert (share, curve["progress"]) == (0, 0)
        assert quality == pytest.approx(naive_map(world, world.z))
        submit(world.gallery, Message(kind="result", rows=np.arange(12), vectors=world.new))
        wait_for(lambda: len(client.ask("GET", "/api/curve")[1]["measured"]) == 2)
        share, quality = client.ask("GET", "/api/curve")[1]["measured"][1]
        assert share == 1
        assert quality == pytest.approx(naive_map(world, world.new))


def naive_map(world: World, gallery: np.ndarray) -> float:
    values = []
    for row, item in enumerate(world.ids):
        order = [r for r in nearest(gallery, world.new[row], len(world.ids)) if r != row]
        right = np.array([world.ids[r][0] == item[0] for r in order])
        precision = np.cumsum(right) / np.arange(1, len(right) + 1)
        values.append(precision[right].mean())
    return float(np.mean(values))


def test_vector_of_another_model_is_refused(client: Client, world: World) -> None:
    asked = {"vector": [0.0] * 6, "model": "sha-old"}
    code, answer = client.post("/api/query", asked)
    assert code == 409
    assert "the gallery is searched with new" in answer["error"]


VECTOR = {"vector": [1.0] * 6, "model": "SHA"}
BAD = [
    (b"{", 400, "no JSON"),
    (b"\xff{}", 400, "no JSON"),
    (b"[" * 100_000, 400, "no JSON"),
    (b"[1]", 400, "must be a JSON object"),
    ({}, 400, "give one of vector, text, id, got 0"),
    ({"id": "x", "text": "y"}, 400, "got 2 of them"),
    (VECTOR | {"deep": 1}, 400, "unknown entry 'deep'"),
    ({"vector": [1.0]}, 400, "needs `model`"),
    (VECTOR | {"vector": [1.0]}, 400, r"shape \[n, 6\]"),
    (VECTOR | {"vector": "1"}, 400, "list of numbers"),
    (VECTOR | {"vector": []}, 400, "list of numbers"),
    (VECTOR | {"vector": ["1"] * 6}, 400, "numbers only"),
    (VECTOR | {"vector": [True] * 6}, 400, "numbers only"),
    (VECTOR | {"vector": [1e39] * 6}, 400, "beyond float32"),
    (VECTOR | {"vector": [10**400] * 6}, 400, "beyond float32"),
    (b'{"vector": [NaN], "model": "x"}', 400, "NaN is no number"),
    (VECTOR | {"k": 0}, 400, "k must lie in 1..1000, got 0"),
    (VECTOR | {"k": 1001}, 400, "k must lie in 1..1000"),
    (VECTOR | {"k": "3"}, 400, "k must be a whole number"),
    (VECTOR | {"k": True}, 400, "k must be a whole number"),
    (VECTOR | {"exact": 1}, 400, "exact must be true or false"),
    ({"id": ""}, 400, "text of 1..10000"),
    (b'{"id": "\\ud800"}', 400, "Unicode"),
    ({"id": "x" * 10_001}, 400, "text of 1..10000"),
    ({"id": "nobody"}, 404, "no item 'nobody'"),
    ({"text": "a word"}, 400, "embeds images, the query is text"),
]


@pytest.mark.parametrize(("value", "code", "message"), BAD)
def test_bad_json(client: Client, world: World, value: Any, code: int, message: str) -> None:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    body = text.replace(b"SHA", world.encoder.card.weights_sha256.encode())
    found, answer = client.ask("POST", "/api/query", body, content_type="application/json")
    assert found == code
    with pytest.raises(ValueError, match=message):
        raise ValueError(answer["error"])
    assert "\n" not in answer["error"]


def test_bad_batches(client: Client) -> None:
    code, answer = client.post("/api/query/batch", {"ids": ["x"] * 5})
    assert (code, answer["error"]) == (413, "a batch has at most 4 queries, got 5")
    assert client.post("/api/query/batch", {"ids": []})[0] == 400
    assert client.post("/api/query/batch", {"ids": "x"})[0] == 400
    assert client.post("/api/query/batch", {"vectors": [[1.0], [1.0, 2.0]], "model": "x"})[0] == 400
    assert client.post("/api/query/batch", {"id": "x"})[0] == 400


def test_bad_forms(client: Client) -> None:
    assert client.upload("/api/query", [png(), png()])[0] == 400
    assert client.upload("/api/query", [])[1] == {"error": "the form has no file `image`"}
    assert client.upload("/api/query", [b"no image"])[0] == 400
    assert client.upload("/api/query", [png()[:60]])[0] == 400
    assert client.upload("/api/query", [png()], k="-1")[0] == 400
    assert client.upload("/api/query", [png()], exact="yes")[0] == 400
    assert client.upload("/api/query", [png()], other="1")[0] == 400
    code, answer = client.ask("POST", "/api/query", b"", content_type="multipart/form-data")
    assert (code, list(answer)) == (400, ["error"])
    assert client.ask("POST", "/api/query", b"x", content_type="text/plain")[0] == 415


def test_unknown_paths_and_methods(client: Client) -> None:
    assert client.ask("GET", "/api/nothing") == (404, {"error": "Not Found"})
    assert client.ask("GET", "/api/pause") == (405, {"error": "Method Not Allowed"})
    assert client.ask("GET", "/docs")[0] == client.ask("GET", "/openapi.json")[0] == 404


def test_image_that_unfolds_to_too_many_pixels(client: Client) -> None:
    bomb = png((8000, 8000))
    assert len(bomb) < 1 << 20
    code, answer = client.upload("/api/query", [bomb])
    assert (code, "50000000 pixels" in answer["error"]) == (413, True)
    with pytest.raises(RequestError, match="more than 100 pixels"):
        decode_upload(png((11, 10)), max_pixels=100)
    assert decode_upload(png((10, 10)), max_pixels=100).size == (10, 10)


def test_long_bodies_are_refused_while_they_come(client: Client) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=30)
    connection.putrequest("POST", "/api/query")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str((1 << 20) + 1))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()
    for kind in ("application/json", "multipart/form-data; boundary=edge"):
        connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=30)
        connection.putrequest("POST", "/api/query")
        connection.putheader("Content-Type", kind)
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        head = b'--edge\r\nContent-Disposition: form-data; name="image"; filename="q"\r\n\r\n'
        for chunk in (head, *([b" " * (1 << 18)] * 4)):
            connection.send(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        # The body has not ended: the answer comes because of what has been sent.
        answer = connection.getresponse()
        assert (answer.status, list(json.loads(answer.read()))) == (413, ["error"])
        connection.close()


def test_page_takes_nothing_from_elsewhere(client: Client) -> None:
    kinds = {"/": "text/html", "/page.js": "text/javascript", "/page.css": "text/css"}
    for path, kind in kinds.items():
        connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=30)
        connection.request("GET", path)
        answer = connection.getresponse()
        content = answer.read().decode()
        connection.close()
        assert answer.status == 200
        assert answer.headers["content-type"].startswith(kind)
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "server" not in answer.headers or answer.headers["server"] == "uvicorn"
        assert "http" not in content.replace("http://www.w3.org/2000/svg", "")


def test_other_sites_are_refused(client: Client) -> None:
    assert client.ask("GET", "/api/status", Host="evil.example:8000")[0] == 403
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1"):
        assert client.ask("POST", "/api/pause", Origin=origin)[0] == 403
    mine = f"http://127.0.0.1:{client.port}"
    assert client.ask("POST", "/api/resume", Origin=mine)[0] == 200


def test_token_is_asked_for(tmp_path: Path) -> None:
    world = make_world(tmp_path, items=2)
    with running(world, token=TOKEN) as client:
        assert client.ask("GET", "/api/status")[0] == 200
        client.headers = {}
        assert client.ask("GET", "/")[0] == 200
        refused = {"error": "a token is needed: send Authorization: Bearer <token>"}
        assert client.ask("GET", "/api/status") == (401, refused)
        for given in (TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer", "Bearer \xe9"):
            assert client.ask("POST", "/api/pause", Authorization=given)[0] == 401
        assert client.ask("POST", "/api/pause", Authorization=f"bearer {TOKEN}")[0] == 200
        assert client.ask("GET", f"/api/items/{world.ids[0]}/image".replace(" ", "%20"))[0] == 401

"""The verb `query`: images, vectors, vintages, refusals."""

import json
from pathlib import Path

import numpy as np
import pytest
from backfill_files import DIM, Backfill, make_model, name_of

from fastfill.cli import APP
from fastfill.query import query
from tenfold.keyed import generator


@pytest.fixture(scope="module")
def half_done(tmp_path_factory: pytest.TempPathFactory) -> Backfill:
    """A gallery whose last 20 items have the new model's vector; no test changes it."""
    there = Backfill(tmp_path_factory.mktemp("half"))
    there.run(stop_at=0.5)
    return there


def write_vector(path: Path, array: np.ndarray, there: Backfill) -> Path:
    np.save(path, array)
    card = there.open().state.cards.new
    path.with_suffix(".card.json").write_text(json.dumps(card.to_json()))
    return path


def test_image_finds_itself_first(half_done: Backfill, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["query", str(half_done.gallery), "--image", str(half_done.images / name_of(33))]
    words += ["--model", str(half_done.model), "--k", "3", "--json"]
    assert APP.main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"] == "new"
    (hits,) = found["queries"]
    assert [hit["rank"] for hit in hits] == [1, 2, 3]
    assert (hits[0]["id"], hits[0]["vintage"]) == (name_of(33), "new")
    assert hits[0]["distance"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("backend", ["faiss-flat", "brute"])
def test_vectors_find_what_a_scan_finds(
    half_done: Backfill, tmp_path: Path, capsys: pytest.CaptureFixture[str], backend: str
) -> None:
    queries = generator("queries").normal(size=(2, DIM)).astype(np.float32)
    path = write_vector(tmp_path / "q.npy", queries, half_done)
    query(half_done.gallery, vector=path, k=40, backend=backend, exact=True, json=True)
    found = json.loads(capsys.readouterr().out)["queries"]
    stored = np.asarray(half_done.open().column("vec"), dtype=np.float64)
    distances = ((queries[:, None].astype(np.float64) - stored) ** 2).sum(2)
    for hits, expected in zip(found, distances, strict=True):
        order = np.argsort(expected, kind="stable")
        assert [hit["id"] for hit in hits] == [name_of(row) for row in order]
        np.testing.assert_allclose([hit["distance"] for hit in hits], expected[order], rtol=1e-4)
        assert [hit["vintage"] for hit in hits] == [
            "new" if row >= 20 else "transformed" for row in order
        ]
        assert {hit["version"] for hit in hits} == {"new", "h(old)"}


def test_table_names_rank_and_vintage(
    half_done: Backfill, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = np.array(half_done.open().column("vec")[3])
    query(half_done.gallery, vector=write_vector(tmp_path / "q.npy", stored, half_done), k=1)
    out = capsys.readouterr().out
    assert name_of(3) in out
    assert "transformed" in out


def test_queries_of_another_model_are_refused(half_done: Backfill, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    card = make_model(other, seed=1)
    with pytest.raises(ValueError, match="embed the query with that model"):
        query(half_done.gallery, image=half_done.images / name_of(1), model=str(other))
    path = write_vector(tmp_path / "q.npy", np.ones(DIM, dtype=np.float32), half_done)
    path.with_suffix(".card.json").write_text(json.dumps(card.to_json()))
    with pytest.raises(ValueError, match="embed the query with that model"):
        query(half_done.gallery, vector=path)


def test_mistakes_are_named(half_done: Backfill, tmp_path: Path) -> None:
    folder, image = half_done.gallery, half_done.images / name_of(1)
    with pytest.raises(ValueError, match="give one query"):
        query(folder)
    with pytest.raises(ValueError, match="give one query"):
        query(folder, image=image, text="a text")
    with pytest.raises(ValueError, match="k must be >= 1"):
        query(folder, image=image, k=0)
    with pytest.raises(ValueError, match="model is missing"):
        query(folder, image=image)
    with pytest.raises(FileNotFoundError, match="expected an image"):
        query(folder, image=tmp_path / "none.png", model=str(half_done.model))
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="cannot be decoded"):
        query(folder, image=tmp_path / "bad.png", model=str(half_done.model))
    with pytest.raises(ValueError, match="embeds images, got texts"):
        query(folder, text="a text", model=str(half_done.model))
    with pytest.raises(FileNotFoundError, match="no card says"):
        query(folder, vector=tmp_path / "none.npy")
    path = write_vector(tmp_path / "q.npy", np.ones(DIM + 1, dtype=np.float32), half_done)
    with pytest.raises(ValueError, match=f"with d {DIM}"):
        query(folder, vector=path)

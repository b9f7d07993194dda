"""The index that follows a gallery: changes, roll-backs, snapshots, backends, threads."""

import shutil
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from gallery_files import NEW_DIM, OLD_DIM, cards, make, new_vectors, vectors

from fastfill import live_index
from fastfill.card import ModelCard
from fastfill.gallery import Gallery, GalleryCards, writing
from fastfill.index import VectorIndex
from fastfill.index.brute import BruteForce
from fastfill.live_index import Hit, LiveIndex

MEMORY = ("brute", "faiss-flat")
BACKENDS = (*MEMORY, "lancedb")


def expected(folder: Path, queries: np.ndarray, k: int) -> list[list[Hit]]:
    """Search the gallery as it is, without any index that was kept in step."""
    gallery = Gallery.open(folder)
    brute = BruteForce(None, dim=gallery.dim, metric=gallery.state.serving_card.metric)
    for rows, found in gallery.batches():
        brute.upsert(rows, found)
    lists = []
    for rows, distances in zip(*brute.search(queries, k), strict=True):
        rows, distances = rows[rows >= 0], distances[rows >= 0]
        named = zip(gallery.id_of(rows), distances.tolist(), gallery.describe(rows), strict=True)
        lists.append([Hit(*each) for each in named])
    return lists


@pytest.mark.parametrize("backend", BACKENDS)
def test_index_follows_every_change_of_the_gallery(tmp_path: Path, backend: str) -> None:
    folder = make(tmp_path / "gallery", rows=30)
    queries = vectors("queries", 5, NEW_DIM)
    new = new_vectors(31)
    with LiveIndex(folder, backend) as live, Gallery.open(folder, "w") as gallery:
        assert live.search(queries, 40) == expected(folder, queries, 40)
        assert {hit.version for hit in live.search(queries, 40)[0]} == {"h(old)"}
        gallery.apply(np.arange(10), new[:10])
        gallery.add(["fresh"], new[30:])
        gallery.delete(["item 3", "item 20"])
        gallery.fail(25, "is missing")
        assert live.refresh() == 4
        found = live.search(queries, 40)
        assert found == expected(folder, queries, 40)
        assert {hit.version for hit in found[0]} == {"h(old)", "new"}
        assert live.count() == 29
        gallery.checkpoint()
        gallery.apply(np.arange(10, 20), new[10:20])
        live.refresh()
        assert live.search(queries, 40) == expected(folder, queries, 40)
        gallery.rollback("transformed", z=lambda rows: vectors("z", 30, NEW_DIM)[rows])
        live.refresh()
        assert live.search(queries, 40) == expected(folder, queries, 40)


@pytest.mark.parametrize("backend", ["faiss-flat", "lancedb"])
def test_roll_back_to_the_old_model_searches_another_space(tmp_path: Path, backend: str) -> None:
    folder = make(tmp_path / "gallery", rows=12)
    with LiveIndex(folder, backend) as live:
        assert live.card.name == "new"
        with Gallery.open(folder, "w") as gallery:
            gallery.apply(np.arange(4), new_vectors(4))
            gallery.rollback("old")
            live.refresh()
            assert live.card.name == "old"
            queries = vectors("queries", 3, 3)
            assert live.search(queries, 5) == expected(folder, queries, 5)
            with pytest.raises(ValueError, match="embedded by new"):
                live.check_query(cards().new)
            gallery.delete(["item 7"])
            gallery.apply(np.array([5]), new_vectors(1))
            live.refresh()
            assert live.search(queries, 20) == expected(folder, queries, 20)
            gallery.rollback("transformed", z=lambda rows: vectors("z", 12, NEW_DIM)[rows])
            live.refresh()
        queries = vectors("queries", 3, NEW_DIM)
        assert live.search(queries, 20) == expected(folder, queries, 20)


def test_switch_of_space_is_seen_at_whatever_moment_the_index_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(tmp_path / "gallery", rows=10)
    write = writing.write_state

    def refresh_around(*arguments: object) -> None:
        live.refresh()
        write(*arguments)  # pyright: ignore[reportArgumentType]
        live.refresh()
        assert live.state.serving == Gallery.open(folder).state.serving

    with LiveIndex(folder, "brute") as live, Gallery.open(folder, "w") as gallery:
        monkeypatch.setattr(writing, "write_state", refresh_around)
        gallery.rollback("old")
        gallery.apply(np.arange(3), new_vectors(3))
        live.refresh()
        queries = vectors("queries", 2, OLD_DIM)
        assert live.search(queries, 9) == expected(folder, queries, 9)
        gallery.rollback("new")
        live.refresh()
        queries = vectors("queries", 2, NEW_DIM)
        assert live.search(queries, 9) == expected(folder, queries, 9)


def test_query_is_checked_against_the_vectors_that_are_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = GalleryCards(new=cards().new, old=(ModelCard("old", NEW_DIM, "l2", "sha-old"),))
    folder = make(tmp_path / "gallery", cards=models, old=vectors("old", 10, NEW_DIM))
    queries, build = vectors("queries", 1, NEW_DIM), live_index.rebuild
    asked = []

    def search_first(index: VectorIndex, batches: Iterable) -> int:
        live.check_query("sha-new")
        asked.append(live.search(queries, 3, stamp="sha-new"))
        with pytest.raises(ValueError, match="searched with new"):
            live.check_query("sha-old")
        with pytest.raises(ValueError, match="searched with new"):
            live.search(queries, 3, stamp=models.old[0])
        return build(index, batches)

    with LiveIndex(folder, "brute") as live, live.snapshot() as snapshot:
        before = live.search(queries, 3)
        with Gallery.open(folder, "w") as gallery:
            gallery.rollback("old")
        monkeypatch.setattr(live_index, "rebuild", search_first)
        live.refresh()
        assert asked == [before]
        assert live.search(queries, 3, stamp="sha-old") == expected(folder, queries, 3)
        assert live.search(queries, 3, stamp="sha-new", snapshot=snapshot) == before
        with pytest.raises(ValueError, match="searched with old"):
            live.search(queries, 3, stamp="sha-new")


@pytest.mark.parametrize("switch", [False, True])
def test_reload_that_failed_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switch: bool
) -> None:
    folder = make(tmp_path / "gallery", rows=10)

    def fail(*_: object) -> int:
        raise OSError("No space left on device")

    with LiveIndex(folder, "brute") as live:
        with Gallery.open(folder, "w") as gallery:
            gallery.apply(np.arange(10), new_vectors(10))
            for _ in range(3):
                gallery.checkpoint()
            if switch:
                gallery.rollback("old")
        with monkeypatch.context() as patch:
            patch.setattr(live_index, "rebuild", fail)
            for _ in range(2):
                with pytest.raises(OSError, match="No space left"):
                    live.refresh()
                assert live.card.name == "new"
        assert live.refresh() == 1
        queries = vectors("queries", 2, OLD_DIM if switch else NEW_DIM)
        assert live.search(queries, 9) == expected(folder, queries, 9)
        assert live.refresh() == 0


def test_items_deleted_while_the_index_is_built_do_not_end_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(tmp_path / "gallery", rows=10, cards=cards("cosine"))
    batches = Gallery.batches

    def delete_between(reader: Gallery) -> Iterator:
        for number, batch in enumerate(batches(reader, 3)):
            yield batch
            if number == 0:
                gallery.delete(["item 1", "item 9"])

    with Gallery.open(folder, "w") as gallery:
        with monkeypatch.context() as patch:
            patch.setattr(Gallery, "batches", delete_between)
            live = LiveIndex(folder, "brute")
        with live:
            assert live.count() == 8
            queries = vectors("queries", 2, NEW_DIM)
            assert live.search(queries, 9) == expected(folder, queries, 9)


def test_gallery_that_was_replaced_is_read_again(tmp_path: Path) -> None:
    folder = make(tmp_path / "gallery", rows=6)
    shutil.copytree(folder, tmp_path / "copy")
    queries = vectors("queries", 2, NEW_DIM)
    with LiveIndex(folder, "brute") as live:
        with Gallery.open(folder, "w") as gallery:
            gallery.apply(np.arange(6), new_vectors(6))
        live.refresh()
        folder.rename(tmp_path / "aside")
        (tmp_path / "copy").rename(folder)
        live.refresh()
        assert live.search(queries, 9) == expected(folder, queries, 9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_snapshot_keeps_vectors_and_names(tmp_path: Path, backend: str) -> None:
    folder = make(tmp_path / "gallery", rows=20)
    queries = vectors("queries", 4, NEW_DIM)
    with LiveIndex(folder, backend) as live, Gallery.open(folder, "w") as gallery:
        before = live.search(queries, 20)
        with live.snapshot() as snapshot:
            gallery.apply(np.arange(15), new_vectors(15))
            gallery.add(["fresh"], new_vectors(1))
            gallery.delete(["item 1"])
            live.refresh()
            assert live.search(queries, 20, snapshot=snapshot) == before
            assert live.search(queries, 20) == expected(folder, queries, 20)
        with pytest.raises(ValueError, match="released"):
            live.search(queries, 20, snapshot=snapshot)


def test_index_on_disk_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(tmp_path / "gallery", rows=20, backend="lancedb")
    queries = vectors("queries", 4, NEW_DIM)
    with LiveIndex(folder):
        pass
    with Gallery.open(folder, "w") as gallery:
        gallery.apply(np.arange(6), new_vectors(6))

    def no_rebuild(*_: object) -> int:
        raise AssertionError("the index was built again")

    with monkeypatch.context() as patch:
        patch.setattr("fastfill.live_index.rebuild", no_rebuild)
        with LiveIndex(folder) as live:
            assert live.search(queries, 20) == expected(folder, queries, 20)
            with LiveIndex(folder) as second:  # reads what the first one writes
                assert second.search(queries, 20) == expected(folder, queries, 20)
    (folder / "index/lancedb-new.json").unlink()
    with LiveIndex(folder) as live:
        assert live.search(queries, 20) == expected(folder, queries, 20)


def test_index_on_disk_that_misses_vectors_is_built_again(tmp_path: Path) -> None:
    folder = make(tmp_path / "gallery", rows=20, backend="lancedb")
    with LiveIndex(folder) as live:
        live._space.index.delete([4, 5])
    queries = vectors("queries", 4, NEW_DIM)
    with LiveIndex(folder) as live:
        assert live.search(queries, 20) == expected(folder, queries, 20)


def test_threads_search_while_one_refreshes(tmp_path: Path) -> None:
    folder = make(tmp_path / "gallery", rows=200)
    queries, new = vectors("queries", 2, NEW_DIM), new_vectors(200)
    done, errors, lengths = threading.Event(), [], set()

    def search(live: LiveIndex) -> None:
        try:
            while not done.is_set():
                lengths.update(len(hits) for hits in live.search(queries, 7))
        except Exception as error:
            errors.append(error)

    with LiveIndex(folder) as live, Gallery.open(folder, "w") as gallery:
        threads = [threading.Thread(target=search, args=(live,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for start in range(0, 200, 10):
            gallery.apply(np.arange(start, start + 10), new[start : start + 10])
            gallery.add([f"fresh {start}"], new[start : start + 1])
            live.refresh()
        done.set()
        for thread in threads:
            thread.join()
        assert not errors
        assert lengths == {7}
        assert live.search(queries, 220) == expected(folder, queries, 220)


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is no gallery"):
        LiveIndex(tmp_path / "nothing")
    folder = make(tmp_path / "gallery")
    with pytest.raises(ValueError, match="backend must be one of"):
        LiveIndex(folder, "oracle")
    with LiveIndex(folder) as live, pytest.raises(ValueError, match=r"\[n, 4\]"):
        live.search(np.ones((1, 9), dtype=np.float32), 3)

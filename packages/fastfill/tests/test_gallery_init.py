"""Old vectors and maps to a gallery."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gallery_files import vectors

from fastfill.card import ModelCard, TransformCard
from fastfill.cli import APP
from fastfill.gallery import Gallery
from fastfill.gallery.init import init_gallery
from fastfill.gallery.maps import GalleryMaps
from fastfill.transform import Chain, Transformation, transform_all
from fastfill.vector_checks import vector_stats
from fastfill.weights import save_transformation

V1 = ModelCard("v1", 2, "l2", "digest-1")
V2 = ModelCard("v2", 3, "l2", "digest-2")
V3 = ModelCard("v3", 4, "l2", "digest-3")
COUNT = 12


def old_vectors(count: int = COUNT, dim: int = V2.dim) -> np.ndarray:
    return vectors(f"old {dim}", count, dim)


def save_map(
    path: Path, *, old: ModelCard = V2, new: ModelCard = V3, side: ModelCard | None = None
) -> Transformation:
    torch.manual_seed(old.dim)
    side_dim = 0 if side is None else side.dim
    h = Transformation(old.dim, new.dim, side_dim=side_dim, inner=8).eval()
    card = TransformCard(
        old=old, new=new, side=side, inner=8, old_stats=vector_stats(old_vectors(dim=old.dim))
    )
    save_transformation(path, h, card)
    return h


def save_items(folder: Path, array: np.ndarray, card: ModelCard | None = V2) -> dict[str, Path]:
    np.save(folder / "old.npy", array)
    (folder / "ids.txt").write_text("".join(f"item {n}\n" for n in range(len(array))))
    if card is not None:
        (folder / "old.card.json").write_text(json.dumps(card.to_json()))
    return {"vectors": folder / "old.npy", "ids": folder / "ids.txt"}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_gallery_holds_what_h_gives(tmp_path: Path, dtype: str) -> None:
    h = save_map(tmp_path / "h.safetensors")
    files = save_items(tmp_path, old_vectors())
    init_gallery(tmp_path / "g", h=tmp_path / "h.safetensors", dtype=dtype, **files)  # pyright: ignore
    z, s = transform_all(h, old_vectors().astype(dtype))
    with Gallery.open(tmp_path / "g") as gallery:
        np.testing.assert_array_equal(gallery.column("vec"), z.astype(dtype))
        np.testing.assert_array_equal(gallery.column("s"), s)
        np.testing.assert_array_equal(gallery.column("old"), old_vectors().astype(dtype))
        assert gallery.queue(99).tolist() == np.argsort(-s, kind="stable").tolist()
        assert gallery.row_of("item 11") == 11
        assert gallery.state.cards.new == V3
        assert gallery.describe(np.array([0])) == ["h(v2)"]


def test_items_do_not_depend_on_the_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    h = save_map(tmp_path / "h.safetensors")
    files = save_items(tmp_path, old_vectors())
    monkeypatch.setattr("fastfill.gallery.init._CHUNK", 5)
    init_gallery(tmp_path / "g", h=[tmp_path / "h.safetensors"], **files)
    z, _ = transform_all(h, old_vectors())
    with Gallery.open(tmp_path / "g") as gallery:
        np.testing.assert_allclose(gallery.column("vec"), z, rtol=1e-5, atol=1e-6)


def test_side_information_goes_along(tmp_path: Path) -> None:
    side_card = ModelCard("side", 2, "cosine", "digest-s")
    h = save_map(tmp_path / "h.safetensors", side=side_card)
    files = save_items(tmp_path, old_vectors())
    with pytest.raises(ValueError, match="side information of side; side must be given"):
        init_gallery(tmp_path / "g", h=tmp_path / "h.safetensors", **files)
    side = vectors("side", COUNT, 2)
    np.save(tmp_path / "side.npy", side)
    init_gallery(tmp_path / "g", h=tmp_path / "h.safetensors", side=tmp_path / "side.npy", **files)
    with Gallery.open(tmp_path / "g") as gallery:
        np.testing.assert_array_equal(
            gallery.column("vec"), transform_all(h, old_vectors(), side)[0]
        )
        np.testing.assert_array_equal(gallery.column("side"), side)


def test_items_of_several_models_take_their_own_way(tmp_path: Path) -> None:
    first = save_map(tmp_path / "12.safetensors", old=V1, new=V2)
    second = save_map(tmp_path / "23.safetensors")
    paths = [tmp_path / "12.safetensors", tmp_path / "23.safetensors"]
    old = old_vectors()
    is_v1 = np.arange(COUNT) % 3 == 0
    old[is_v1] = np.pad(old_vectors(dim=2)[is_v1], [(0, 0), (0, 1)])
    files = save_items(tmp_path, old, None)
    names = tmp_path / "vintages.txt"
    with pytest.raises(ValueError, match="maps from 2 old models; say in vintages"):
        init_gallery(tmp_path / "g", h=paths, **files)
    names.write_text("\n".join("v1" if one else "v2" for one in is_v1))
    init_gallery(tmp_path / "g", h=paths, vintages=names, **files)
    with Gallery.open(tmp_path / "g") as gallery:
        assert gallery.vintages().tolist() == (~is_v1).astype(int).tolist()
        z, s = transform_all(Chain([first, second]), old[is_v1][:, :2])
        np.testing.assert_array_equal(gallery.column("vec")[is_v1], z)
        np.testing.assert_array_equal(gallery.column("s")[is_v1], s)
        z, s = transform_all(second, old[~is_v1])
        np.testing.assert_array_equal(gallery.column("vec")[~is_v1], z)
        assert gallery.describe(np.array([0, 1])) == ["h(v1)", "h(v2)"]
    for content, match in (
        ("v2\n" * 11, "has 11 lines for 12 vectors"),
        ("v2\n" * 11 + "v9\n", "names 'v9', for which there is no map; maps start from v1, v2"),
    ):
        names.write_text(content)
        with pytest.raises(ValueError, match=match):
            init_gallery(tmp_path / "other", h=paths, vintages=names, **files)


def test_one_model_of_several_may_be_named_by_its_card(tmp_path: Path) -> None:
    save_map(tmp_path / "12.safetensors", old=V1, new=V2)
    second = save_map(tmp_path / "23.safetensors")
    paths = [tmp_path / "12.safetensors", tmp_path / "23.safetensors"]
    init_gallery(tmp_path / "g", h=paths, **save_items(tmp_path, old_vectors()))
    with Gallery.open(tmp_path / "g") as gallery:
        z, _ = transform_all(second, old_vectors())
        np.testing.assert_array_equal(gallery.column("vec"), z)


@pytest.mark.parametrize(
    ("array", "card", "match"),
    [
        (old_vectors(), dataclasses.replace(V2, weights_sha256="other"), "expected v2 .*got v2"),
        (old_vectors(), dataclasses.replace(V2, metric="cosine"), "metric of v2"),
        (old_vectors(dim=4), None, "are 4 wide, but the map takes 3"),
        (old_vectors() * np.nan, None, "have NaN or infinity"),
        (old_vectors() * 0, None, "have length zero"),
        (
            old_vectors() / np.linalg.norm(old_vectors(), axis=1, keepdims=True),
            None,
            "are normalised .* trained on raw",
        ),
        (old_vectors().astype(np.int64), None, "must hold floating vectors"),
        (old_vectors()[0], None, "must hold floating vectors"),
    ],
)
def test_vectors_of_another_model_make_no_gallery(
    tmp_path: Path, array: np.ndarray, card: ModelCard | None, match: str
) -> None:
    save_map(tmp_path / "h.safetensors")
    files = save_items(tmp_path, array, card)
    with pytest.raises(ValueError, match=match):
        init_gallery(tmp_path / "g", h=tmp_path / "h.safetensors", unknown_old=True, **files)
    assert not (tmp_path / "g").exists()


def test_maps_that_do_not_lead_to_one_model_are_refused(tmp_path: Path) -> None:
    files = save_items(tmp_path, old_vectors())
    for name, old, new in (("a", V2, V3), ("b", V2, V1), ("c", V1, V2), ("d", V3, V2)):
        save_map(tmp_path / name, old=old, new=new)
    for names, match in (
        ("ab", "two maps start from the same old model"),
        ("ad", "one new model, they lead to a circle"),
        ("", "one map or more, got none"),
    ):
        with pytest.raises(ValueError, match=match):
            init_gallery(tmp_path / "g", h=[tmp_path / name for name in names], **files)
    unrelated = ModelCard("v4", 4, "l2", "digest-4")
    save_map(tmp_path / "e", old=V1, new=unrelated)
    with pytest.raises(ValueError, match="they lead to v3, v4"):
        init_gallery(tmp_path / "g", h=[tmp_path / "a", tmp_path / "e"], **files)


def test_missing_and_unreadable_files_are_named(tmp_path: Path) -> None:
    save_map(tmp_path / "h.safetensors")
    files = save_items(tmp_path, old_vectors())
    h = tmp_path / "h.safetensors"
    with pytest.raises(FileNotFoundError, match=r"no\.npy is missing"):
        init_gallery(tmp_path / "g", h=h, **files | {"vectors": tmp_path / "no.npy"})
    with pytest.raises(FileNotFoundError, match=r"no\.txt is missing"):
        init_gallery(tmp_path / "g", h=h, **files | {"ids": tmp_path / "no.txt"})
    with pytest.raises(FileNotFoundError, match=r"card\.json is missing"):
        init_gallery(tmp_path / "g", h=h, old_card=tmp_path / "card.json", **files)
    with pytest.raises(ValueError, match=r"is no \.npy file"):
        init_gallery(tmp_path / "g", h=h, **files | {"vectors": files["ids"]})
    files["ids"].write_bytes(b"\xff\n")
    with pytest.raises(ValueError, match="is not UTF-8"):
        init_gallery(tmp_path / "g", h=h, **files)
    with pytest.raises(ValueError, match="backend"):
        init_gallery(tmp_path / "g", h=h, backend="nothing", **files)


def test_equal_variances_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    h = save_map(tmp_path / "h.safetensors")
    torch.nn.init.zeros_(h.log_variance.weight)
    card = TransformCard(old=V2, new=V3, inner=8, old_stats=vector_stats(old_vectors()))
    save_transformation(tmp_path / "h.safetensors", h, card)
    init_gallery(
        tmp_path / "g", h=tmp_path / "h.safetensors", **save_items(tmp_path, old_vectors())
    )
    assert "same variance" in caplog.text


def test_command_line_makes_a_gallery_and_rolls_it_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    h = save_map(tmp_path / "h.safetensors")
    save_items(tmp_path, old_vectors())
    arguments = ["--vectors", "old.npy", "--ids", "ids.txt", "--h", "h.safetensors"]
    paths = [a if a.startswith("--") else str(tmp_path / a) for a in arguments]
    folder = tmp_path / "g"
    assert APP.main(["init-gallery", "--out", str(folder), *paths]) == 0
    assert "12 items of v2, searchable with v3" in capsys.readouterr().out
    assert APP.main(["init-gallery", "--out", str(folder), *paths]) == 2
    assert "g exists; name another folder or delete it" in capsys.readouterr().err
    with Gallery.open(folder, "w") as gallery:
        gallery.apply(np.arange(COUNT), vectors("new", COUNT, V3.dim))
    save_map(tmp_path / "12", old=V1)
    other = ["rollback", "--gallery", str(folder), "--h", str(tmp_path / "12")]
    assert APP.main(other) == 2
    assert "not the map that the gallery was made with" in capsys.readouterr().err
    assert APP.main(["rollback", "--gallery", str(folder)]) == 2
    assert "needs h" in capsys.readouterr().err
    assert APP.main([*other[:-1], str(tmp_path / "h.safetensors")]) == 0
    assert "12 items rolled back" in capsys.readouterr().out
    with Gallery.open(folder) as gallery:
        np.testing.assert_array_equal(gallery.column("vec"), transform_all(h, old_vectors())[0])


def test_vectors_of_an_unknown_model_need_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_map(tmp_path / "h.safetensors")
    files = save_items(tmp_path, old_vectors(), None)
    with pytest.raises(ValueError, match=r"give it in old_card, or set unknown_old true .* v2"):
        init_gallery(tmp_path / "g", h=tmp_path / "h.safetensors", **files)
    assert not (tmp_path / "g").exists()
    init_gallery(tmp_path / "g", h=tmp_path / "h.safetensors", unknown_old=True, **files)
    assert "taken for v2's" in caplog.text


def test_vectors_between_two_maps_are_normalised_as_their_model_does(tmp_path: Path) -> None:
    unit = dataclasses.replace(V2, metric="cosine", normalized=True)
    first = save_map(tmp_path / "12", old=V1, new=unit)
    second = save_map(tmp_path / "23", old=unit)
    old = old_vectors(dim=2)
    maps = GalleryMaps([tmp_path / "12", tmp_path / "23"])
    z, _ = maps.transform(np.pad(old, [(0, 0), (0, 1)]), None, np.zeros(COUNT, np.int64))
    middle = transform_all(first, old)[0]
    middle /= np.linalg.norm(middle, axis=1, keepdims=True)
    np.testing.assert_allclose(z, transform_all(second, middle)[0], rtol=1e-5, atol=1e-6)

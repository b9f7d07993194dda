"""Joining by uid: holes on either side, changed images, order, interruption."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from published_shards import INFO, Made, make_sample, write_folder, write_tar

from mobileclip.join import join
from mobileclip.schema import read_info
from mobileclip.uid_table import UidTable, hash_uids
from tenfold.shards import TarMembers, read_index, verify


def without_image(made: Made, **about: Any) -> Made:
    members = {name: data for name, data in made.members.items() if name not in ("jpg", "txt")}
    members["json"] = json.dumps({"uid": made.uid, **about}).encode()
    return replace(made, members=members)


def write_sides(folder: Path) -> list[Made]:
    """Write a release of samples 0..7, and images of 9..1 but 3 under img2dataset's keys."""
    made = [make_sample(number) for number in range(10)]
    bare = [without_image(one) for one in made[:8]]
    write_folder(folder / "dr", [bare[:3], bare[3:4], bare[4:]])
    order = [n for n in range(9, 0, -1) if n != 3]
    for tar, numbers in enumerate((order[:5], order[5:])):
        samples = {}
        for n in numbers:
            about = json.dumps({"uid": made[n].uid, "key": f"{n:09d}"}).encode()
            samples[f"{n:09d}"] = {
                "jpg": made[n].members["jpg"], "txt": made[n].members["txt"], "json": about
            }  # fmt: skip
        write_tar(folder / "images" / f"{tar:05d}.tar", samples)
    return made


def contents(folder: Path) -> dict[str, dict[str, bytes]]:
    found = {}
    for entry in read_index(folder).entries:
        members = TarMembers(folder / entry.name)
        for key in members.keys:
            found[key] = {e: members.read(key, e) for e in members.extensions(key)}
    return found


def test_images_come_to_their_uid(tmp_path: Path) -> None:
    # Defect 4: the official snippet joins by names of files, and no tool checks uids.
    made = write_sides(tmp_path)
    out = tmp_path / "out"
    join(str(tmp_path / "dr"), str(tmp_path / "images"), out)
    joined = contents(out)
    assert list(joined) == [made[n].uid for n in (1, 2, 4, 5, 6, 7)]  # order of the release
    for number in (1, 2, 4, 5, 6, 7):
        expected = {**made[number].members, "json": without_image(made[number]).members["json"]}
        assert joined[made[number].uid] == expected
    assert (out / "missing_images.txt").read_text().split() == [made[n].uid for n in (0, 3)]
    assert (out / "unused_images.txt").read_text().split() == [made[n].uid for n in (9, 8)]
    counts = {"joined": 6, "missing": 2, "changed": 0, "unused": 2, "repeated": 0}
    assert json.loads((out / "join.json").read_text()) == counts
    assert [entry.name for entry in read_index(out).entries] == ["00000000.tar", "00000002.tar"]
    assert read_info(out) == INFO
    assert verify(out).ok
    assert not (out / ".join").exists()


def test_another_image_under_the_same_uid(tmp_path: Path) -> None:
    made = [make_sample(number) for number in range(2)]
    digests = [hashlib.sha256(made[0].members["jpg"]).hexdigest()] * 2
    bare = [
        without_image(one, meta=INFO.meta(height=1, width=1, image_sha256=digest).to_json())
        for one, digest in zip(made, digests, strict=True)
    ]
    write_folder(tmp_path / "dr", [bare])
    write_folder(tmp_path / "images", [made])
    join(str(tmp_path / "dr"), str(tmp_path / "images"), tmp_path / "out")
    assert list(contents(tmp_path / "out")) == [made[0].uid]
    assert (tmp_path / "out/changed_images.txt").read_text().split() == [made[1].uid]


def test_the_first_of_repeated_images_is_taken(tmp_path: Path) -> None:
    made = make_sample(0)
    write_folder(tmp_path / "dr", [[without_image(made)]])
    members = {"jpg": made.members["jpg"], "txt": b"first", "json": made.members["json"]}
    write_tar(tmp_path / "images/0.tar", {"a": members, "b": {**members, "txt": b"second"}})
    join(str(tmp_path / "dr"), str(tmp_path / "images"), tmp_path / "out")
    assert contents(tmp_path / "out")[made.uid]["txt"] == b"first"
    assert json.loads((tmp_path / "out/join.json").read_text())["repeated"] == 1


def test_a_rerun_goes_on_and_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sides(tmp_path)
    arguments = (str(tmp_path / "dr"), str(tmp_path / "images"))
    join(*arguments, tmp_path / "whole")
    with monkeypatch.context() as broken:
        broken.setattr("mobileclip.join._report", None)
        with pytest.raises(TypeError):
            join(*arguments, tmp_path / "out")
    assert not (tmp_path / "out/index.json").exists()  # nobody takes it for finished
    join(*arguments, tmp_path / "out")
    assert read_index(tmp_path / "out").sha256 == read_index(tmp_path / "whole").sha256
    with pytest.raises(FileExistsError, match="holds shards already"):
        join(*arguments, tmp_path / "out")


def test_what_cannot_be_joined(tmp_path: Path) -> None:
    made = [make_sample(number) for number in range(2)]
    write_folder(tmp_path / "images", [made[1:]])
    write_folder(tmp_path / "whole", [made[:1]])
    with pytest.raises(Exception, match="has an image already: nothing to join"):
        join(str(tmp_path / "whole"), str(tmp_path / "images"), tmp_path / "a")
    write_folder(tmp_path / "dr", [[without_image(made[0])]])
    with pytest.raises(ValueError, match="are they of the same data set"):
        join(str(tmp_path / "dr"), str(tmp_path / "images"), tmp_path / "b")
    assert not (tmp_path / "b/index.json").exists()


def test_uids_with_one_hash_are_told_apart() -> None:
    hashes = hash_uids(["b", "a"])
    columns = {"hashes": hashes, "tars": hashes * 0, "samples": hashes * 0}
    order = hashes.argsort()
    table = UidTable({**columns, "hashes": hashes[order]})
    assert len(table.find("a")) == 1
    assert table.find("c") == []
    twice = UidTable({"hashes": hash_uids(["a", "a"]), "tars": [0, 1], "samples": [4, 5]})  # type: ignore[dict-item]
    assert twice.find("a") == [(0, 4), (1, 5)]
    assert twice.num_repeated == 1

"""Checks of reinforced shards, and their teachers asked again."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from generation_files import write_ensemble
from published_shards import (
    AUGMENT,
    INFO,
    Made,
    encode_arrays,
    make_sample,
    write_folder,
    write_release,
)

from mobileclip.generate.teacher_config import TeacherEnsembleConfig
from mobileclip.generate.teachers import build_teachers
from mobileclip.images import decode_image
from mobileclip.recompute import teacher_cosines
from mobileclip.replay import decode_view
from mobileclip.schema import ReinforcementInfo
from mobileclip.stats import stats
from mobileclip.verify import Problem, check_samples, choose_samples, verify
from tenfold.augment.pipeline import Augment


def test_good_shards_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_release(tmp_path, count=5, shard_size=3)
    assert verify(str(tmp_path), sample=4) == 0
    printed = capsys.readouterr().out
    assert "4 of 5 samples (--sample 0 for all): 0 bad" in printed
    assert "warning" not in printed


def test_bad_samples_are_named_by_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = [make_sample(number) for number in range(4)]
    info = INFO
    made[0].members["jpg"] = b"no image"
    views = json.dumps({"param_aug": [[[0, 0, 99, 99], None]] * 4}).encode()
    made[1].members["paug.json"] = views
    meta = info.meta(height=made[2].size[0], width=made[2].size[1], image_sha256="0")
    about = {"meta": meta.to_json()}
    made[2].members["json"] = json.dumps(about).encode()
    index = write_folder(tmp_path, [made], info=info)
    found = list(check_samples(index, info, range(4)))
    problems = [one for one in found if isinstance(one, Problem)]
    assert [problem.kind for problem in problems] == ["undecodable", "crop box", "views"]
    assert [problem.key for problem in problems] == [one.uid for one in made[:3]]
    assert verify(str(tmp_path), sample=0) == 1
    printed = capsys.readouterr().out
    assert "4 of 4 samples: 3 bad" in printed
    assert "the image is another than the one" in printed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_views": 5}, "views: 4, reinforcement.json says 5"),
        ({"num_captions": 2}, "captions: 3 of syn_text, reinforcement.json says 2"),
    ],
)
def test_counts_against_the_file(tmp_path: Path, changes: dict[str, int], message: str) -> None:
    info = replace(INFO, **changes)
    index = write_folder(tmp_path, [[make_sample(0)]], info=info)
    (problem,) = check_samples(index, info, [0])
    assert isinstance(problem, Problem)
    assert problem.reason == message


def test_one_uid_in_two_tars_is_a_counted_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other, again = make_sample(0), make_sample(1), make_sample(2)
    again.members["json"] = one.members["json"]  # the uid stands there, the key is another
    write_folder(tmp_path, [[other, one], [again]])
    expected = f"another one: 1, such as {one.uid} in {tmp_path}/00000000.tar and {tmp_path}"
    assert verify(str(tmp_path), sample=0) == 0
    assert f"warning: samples with the uid of {expected}/00000001.tar;" in capsys.readouterr().out
    stats(str(tmp_path))
    assert f"warning: samples with the uid of {expected}/00000001.tar;" in capsys.readouterr().out


def test_samples_are_drawn_once_and_in_order() -> None:
    chosen = choose_samples(100, 10, seed=0)
    assert len(set(chosen)) == 10
    assert chosen == sorted(chosen) == choose_samples(100, 10, seed=0)
    assert chosen != choose_samples(100, 10, seed=1)
    assert choose_samples(3, 10, seed=0) == choose_samples(3, 0, seed=0) == [0, 1, 2]
    with pytest.raises(ValueError, match="sample must be >= 0"):
        choose_samples(3, -1, seed=0)


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> TeacherEnsembleConfig:
    return write_ensemble(tmp_path_factory.mktemp("teachers"))


def reinforced(
    teachers: TeacherEnsembleConfig, *, shift: int = 0
) -> tuple[list[Made], ReinforcementInfo]:
    """Make samples that these teachers embedded; `shift` pairs parameters with other views."""
    ensemble, augment = build_teachers(teachers), Augment(AUGMENT)
    info = replace(INFO, teachers=ensemble.describe())
    made: list[Made] = []
    for number in range(4):
        one = make_sample(number)
        image = decode_image(one.members["jpg"])
        views = [augment.apply(image, decode_view(v, AUGMENT, name="")) for v in one.views]
        synthetic = json.loads(one.members["syn.json"])["syn_text"]
        texts = ensemble.encode_texts([one.members["txt"].decode(), *synthetic])
        arrays = {"image_emb": ensemble.encode_images(torch.stack(views)).numpy()}
        arrays["text_emb"] = texts.numpy()
        shuffled = one.views[shift:] + one.views[:shift]
        one.members["npz"] = encode_arrays(arrays, "npz")
        one.members["paug.json"] = json.dumps({"param_aug": shuffled}).encode()
        about = {"meta": meta_of(one, info)}
        one.members["json"] = json.dumps(about).encode()
        made.append(one)
    return made, info


def meta_of(made: Made, info: ReinforcementInfo) -> dict[str, object]:
    digest = hashlib.sha256(made.members["jpg"]).hexdigest()
    return info.meta(height=made.size[0], width=made.size[1], image_sha256=digest).to_json()


def test_teachers_say_the_same_of_replayed_views(
    tmp_path: Path, teachers: TeacherEnsembleConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    made, info = reinforced(teachers)
    write_folder(tmp_path, [made], info=info)
    assert verify(str(tmp_path), recompute=True, teachers=teachers) == 0
    printed = capsys.readouterr().out
    assert "4 views: smallest cosine 1.00000: ok" in printed
    assert "16 captions: smallest cosine 1.00000: ok" in printed
    assert "shuffled parameters would be noticed" in printed


def test_shuffled_parameters_fail(
    tmp_path: Path, teachers: TeacherEnsembleConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    made, info = reinforced(teachers, shift=1)
    write_folder(tmp_path, [made], info=info)
    assert verify(str(tmp_path)) == 0  # all members fit: only the teachers can tell
    assert verify(str(tmp_path), recompute=True, teachers=teachers) == 1
    assert "below 0.999" in capsys.readouterr().out


def test_other_teachers_are_refused(
    tmp_path: Path, teachers: TeacherEnsembleConfig, tmp_path_factory: pytest.TempPathFactory
) -> None:
    made, info = reinforced(teachers)
    write_folder(tmp_path, [made], info=info)
    with pytest.raises(ValueError, match="recompute needs teachers"):
        verify(str(tmp_path), recompute=True)
    one = replace(teachers, members=teachers.members[:1])
    with pytest.raises(ValueError, match=r"widths \[8, 12\], the given ones have \[8\]"):
        verify(str(tmp_path), recompute=True, teachers=one)
    other = replace(info.teachers[0], weights_sha256="0" * 64)
    write_folder(tmp_path / "other", [made], info=replace(info, teachers=(other, info.teachers[1])))
    with pytest.raises(ValueError, match=r"teacher 0 of the data is .* with weights 000000000000"):
        verify(str(tmp_path / "other"), recompute=True, teachers=teachers)


def test_plain_shards_cannot_be_verified(tmp_path: Path) -> None:
    write_folder(tmp_path, [[make_sample(0)]], info=None)
    with pytest.raises(ValueError, match="name the published data in release"):
        verify(str(tmp_path))


def test_cosines_are_those_of_each_teacher() -> None:
    one = torch.tensor([[1.0, 0.0, 0.0, 2.0]])
    other = torch.tensor([[1.0, 1.0, 0.0, -1.0]])
    expected = torch.tensor([[2**-0.5, -1.0]])
    torch.testing.assert_close(teacher_cosines(one, other, (2, 2)), expected)

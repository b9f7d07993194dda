"""The verb `teacher-study`: ranks by hand, a study of two teachers and two tiny students."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tiny_reinforcement import SIZE, TinyData

from dataset_reinforcement import teacher_study as study_module
from dataset_reinforcement.evaluation_images import evaluation_augment
from dataset_reinforcement.images import open_images
from dataset_reinforcement.study_report import StudyResult, mean_ranks, plot_study, report
from dataset_reinforcement.teacher import build_teacher
from dataset_reinforcement.teacher_study import StudentRecipe, StudyRun, teacher_study
from tenfold.augment.config import AugmentConfig
from tenfold.augment.params import ViewParams
from tenfold.cli.functions import run_function
from tenfold.optim_config import OptimConfig

PNG = b"\x89PNG\r\n\x1a\n"
RESULT = StudyResult(
    teachers=("large", "several", "small"),
    students=("light", "heavy"),
    seeds=(0, 1),
    teacher_top1=(0.9, 0.8, 0.7),
    per_seed={
        "large": {"light": (0.4, 0.6), "heavy": (0.5, 0.7)},
        "several": {"light": (0.7, 0.9), "heavy": (0.8, 0.8)},
        "small": {"light": (0.5, 0.5), "heavy": (0.9, 0.9)},
    },
)


def test_ranks_by_hand() -> None:
    assert mean_ranks([[0.5, 0.6], [0.8, 0.8], [0.5, 0.9]]) == [2.75, 1.5, 1.75]
    assert mean_ranks([[0.1, 0.1, 0.1]]) == [1]
    assert mean_ranks([[1], [1], [1]]) == [2, 2, 2]


def test_figures_are_means_over_seeds_and_best_comes_first() -> None:
    figures = RESULT.to_json()
    assert figures["matrix"] == [
        [pytest.approx(0.5), pytest.approx(0.6)],
        [pytest.approx(0.8), pytest.approx(0.8)],
        [pytest.approx(0.5), pytest.approx(0.9)],
    ]
    assert figures["mean_rank"] == {"large": 2.75, "several": 1.5, "small": 1.75}
    assert figures["best_first"] == ["several", "small", "large"]
    assert list(report(RESULT).columns[0].cells) == ["several", "small", "large"]
    assert list(report(RESULT).columns[1].cells) == ["80.00", "70.00", "90.00"]


def test_the_heat_map_is_a_picture(tmp_path: Path) -> None:
    plot_study(RESULT, tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(PNG)


def options(tiny: TinyData, steps: int = 2) -> dict[str, Any]:
    single = replace(tiny.teacher, members=tiny.teacher.members[:1])
    recipe = StudentRecipe(model="conv4", optim=OptimConfig(lr=0.05, total_steps=steps, name="sgd"))
    return {
        "teachers": {"one": single, "both": tiny.teacher},
        "students": {"conv": recipe, "separable": replace(recipe, model="separable4")},
        "augment": AugmentConfig(size=SIZE),
        "batch_size": 8,
        "eval_resize": 0,
        "workers": 0,
        "device": "cpu",
    }


def test_a_study_ranks_teachers_and_runs_only_what_is_new(
    tiny: TinyData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made: list[str] = []
    students = study_module._student_accuracy

    def noted(run: StudyRun, recipe: StudentRecipe, *others: Any) -> float:
        made.append(f"{len(run.teacher.members)} {recipe.model} {run.seed}")
        return students(run, recipe, *others)

    monkeypatch.setattr(study_module, "_student_accuracy", noted)
    out = tmp_path / "study"
    given = options(tiny)
    teacher_study(tiny.train, tiny.val, out, **given)
    assert made == ["1 conv4 0", "1 separable4 0", "2 conv4 0", "2 separable4 0"]
    figures = json.loads((out / "teacher_study.json").read_text())
    assert sorted(figures["best_first"]) == ["both", "one"]
    assert all(0 <= value <= 1 for row in figures["matrix"] for value in row)
    assert [value * 11 for value in figures["teacher_top1"]] == [
        pytest.approx(round(value * 11)) for value in figures["teacher_top1"]
    ]
    assert (out / "teacher_study.png").read_bytes().startswith(PNG)
    assert "mean rank" in capsys.readouterr().out

    made.clear()
    fewer = {"teachers": {"one": given["teachers"]["one"]}, "seeds": [0, 3]}
    teacher_study(tiny.train, tiny.val, out, **{**given, **fewer})
    assert made == ["1 conv4 3", "1 separable4 3"]
    again = json.loads((out / "teacher_study.json").read_text())
    for student in ("conv", "separable"):
        assert again["per_seed"]["one"][student][0] == figures["per_seed"]["one"][student][0]


def test_a_student_learns_its_teachers_answers(tiny: TinyData, tmp_path: Path) -> None:
    """On images that are labelled by the teacher itself it is always right, and is imitated."""
    given = options(tiny, steps=60)
    source = open_images(tiny.train)
    pixels = torch.stack([source.load(index) for index in range(len(source))])
    teacher = build_teacher(given["teachers"]["one"], num_classes=5)
    shown = torch.stack(
        [evaluation_augment(SIZE, resize=None).apply(p, ViewParams()) for p in pixels]
    )
    labels = teacher.probabilities(shown).argmax(-1).numpy()
    most = np.bincount(labels).max() / len(labels)
    own_path = tmp_path / "labelled.npz"
    np.savez(own_path, images=pixels.permute(0, 2, 3, 1), labels=labels, classes=source.classes)
    data = study_module.StudyData(
        images=str(own_path),
        val=str(own_path),
        augment=AugmentConfig(size=SIZE, crop="none", flip=0),
        batch_size=23,
        eval_resize=0,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
    )
    runs = study_module.study_runs(data, given["teachers"], given["students"], [0])
    top1 = [
        study_module.measure(runs[key], tmp_path, workers=0, device=torch.device("cpu"))
        for key in ("one", "one--conv--0")
    ]
    assert top1[0] == 1
    assert most + 0.1 < top1[1], (most, top1)


def test_options_come_from_a_file(
    tiny: TinyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    member = {"model": "conv4", "checkpoint": str(tiny.teacher.members[0].checkpoint), "size": SIZE}
    content = {
        "teachers": {"one": {"members": [member]}},
        "students": {"conv": {"model": "conv4", "optim": {"lr": 0.1, "total_steps": 3}}},
        "seeds": [4, 5],
        "device": "cpu",
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    seen: dict[str, Any] = {}

    def run(function: Any, runs: dict[str, StudyRun], **options: Any) -> dict[str, float]:
        seen.update(runs)
        return dict.fromkeys(runs, 0.5)

    monkeypatch.setattr(study_module, "run_jobs", run)
    out = tmp_path / "out"
    words = [tiny.train, tiny.val, str(out), f"--config={tmp_path / 'study.yaml'}"]
    assert run_function(teacher_study, words, prog="teacher-study") == 0
    assert list(seen) == ["one", "one--conv--4", "one--conv--5"]
    assert seen["one--conv--4"].student == StudentRecipe(
        model="conv4", optim=OptimConfig(lr=0.1, total_steps=3)
    )


def test_other_weights_at_the_same_place_are_another_run(tiny: TinyData, tmp_path: Path) -> None:
    source = tiny.teacher.members[0].checkpoint
    assert source is not None
    path = tmp_path / "teacher.safetensors"
    path.write_bytes(source.read_bytes())
    given = options(tiny)
    teacher = replace(tiny.teacher, members=(replace(tiny.teacher.members[0], checkpoint=path),))
    data = study_module.StudyData(
        images=tiny.train,
        val=tiny.val,
        augment=given["augment"],
        batch_size=8,
        eval_resize=0,
        mean=(0, 0, 0),
        std=(1, 1, 1),
    )
    first = study_module.study_runs(data, {"t": teacher}, {}, [0])
    path.write_bytes(source.read_bytes() + b" ")
    assert study_module.study_runs(data, {"t": teacher}, {}, [0]) != first


@pytest.mark.parametrize("name", ["teachers", "students", "seeds"])
def test_empty_options(tiny: TinyData, tmp_path: Path, name: str) -> None:
    given = {**options(tiny), name: type(options(tiny).get(name, []))()}
    with pytest.raises(ValueError, match=f"{name} is empty: give at least one"):
        teacher_study(tiny.train, tiny.val, tmp_path, **given)

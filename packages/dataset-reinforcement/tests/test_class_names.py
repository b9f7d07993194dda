"""Class names: kept by checkpoints, compared with those of other data, used where data has none."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from tiny_reinforcement import CLASSES, SIZE, TinyData

from dataset_reinforcement.class_names import are_numbers, check_same_names
from dataset_reinforcement.cli import APP
from dataset_reinforcement.config import ModelConfig
from dataset_reinforcement.model import build_model
from dataset_reinforcement.robustness import plain_labels
from dataset_reinforcement.student import load_student
from dataset_reinforcement.teacher import build_teacher
from dataset_reinforcement.teacher_config import MemberConfig, TeacherConfig
from tenfold import checkpoints
from tenfold.plain_configs import plain

NAMES = tuple(f"class-{label}" for label in range(CLASSES))
OTHERS = ("ant", *NAMES[1:])
FIT = ("--optim.name=sgd", "--optim.lr=0.1", "--trainer.accelerator=cpu", "--trainer.max_steps=1")
FIT += (f"--model.classes={CLASSES}", f"--model.image_size={SIZE}", f"--data.augment.size={SIZE}")
FIT += ("--model.name=conv4", "--loss.mode=erm", "--data.batch_size=8", "--data.eval_resize=0")
FIT += ("--data.workers=0",)


@pytest.mark.parametrize(
    ("classes", "numbers"),
    [((), True), (("0", "1", "2"), True), (("1", "2"), False), (("0", "1", "10", "2"), False)],
)
def test_numbers_in_order_are_no_names(classes: tuple[str, ...], numbers: bool) -> None:
    assert are_numbers(classes) is numbers


def test_names_are_compared_where_both_have_some() -> None:
    for trained, found in ((NAMES, NAMES), ((), NAMES), (NAMES, ("0", "1")), (("0", "1"), NAMES)):
        check_same_names(trained, found, "it")
    with pytest.raises(ValueError, match=r"it was .*: class 1 is 'b' there and 'x' in the data;"):
        check_same_names(("a", "b", "c"), ("a", "x", "y"), "it")
    with pytest.raises(ValueError, match="it has 2 classes, the data 3"):
        check_same_names(("a", "b"), ("a", "b", "c"), "it")


@pytest.fixture(scope="module")
def run(tiny: TinyData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step, which no test changes."""
    folder = tmp_path_factory.mktemp("named") / "run"
    data = [f"--data.images={tiny.train}", f"--data.val={tiny.val}"]
    assert APP.main(["fit", *FIT, *data, f"--run_dir={folder}"]) == 0
    return folder


def renamed(tiny: TinyData, folder: Path, classes: tuple[str, ...]) -> str:
    """Copy the images to measure on with other class names."""
    with np.load(tiny.val) as arrays:
        np.savez(folder / "renamed.npz", **({**arrays} | {"classes": classes}))
    return str(folder / "renamed.npz")


def test_a_checkpoint_keeps_the_names(run: Path) -> None:
    assert checkpoints.load(checkpoints.find(run))["classes"] == list(NAMES)
    assert load_student(run, device="cpu").classes == NAMES


def test_other_names_than_the_checkpoints_are_refused(
    run: Path, tiny: TinyData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    val = renamed(tiny, tmp_path, OTHERS)
    assert APP.main(["validate", f"--ckpt_path={run}", f"--data.val={val}"]) == 2
    assert "class 0 is 'class-0' there and 'ant' in the data" in capsys.readouterr().err
    assert APP.main(["evaluate", str(run), "--sets", f"val={val}", "--device=cpu"]) == 2
    assert "class 0 is 'ant', which is none of the 5 classes" in capsys.readouterr().err


def test_data_without_names_get_the_checkpoints(run: Path, tiny: TinyData, tmp_path: Path) -> None:
    val = renamed(tiny, tmp_path, tuple(map(str, range(CLASSES))))
    out = tmp_path / "p.safetensors"
    words = [f"--ckpt_path={run}", f"--data.val={val}", f"--out={out}"]
    assert APP.main(["predict", *words]) == 0
    names = json.loads(out.with_suffix(".json").read_text())
    assert names["classes"] == list(NAMES)
    assert len(names["keys"]) == len(checkpoints.load_weights(out)["probabilities"]) == 11


def test_a_set_is_matched_by_name() -> None:
    assert plain_labels(("b", "c"), 3, ("a", "b", "c")) == ((1,), (2,))
    assert plain_labels(("a", "a"), 2, ("a", "a")) == ((0,), (1,))
    assert plain_labels(("0", "1", "2"), 3, ("a", "b", "c")) == ((0,), (1,), (2,))
    with pytest.raises(ValueError, match="class 1 is 'x', which is none of the 3 classes"):
        plain_labels(("a", "x"), 3, ("a", "b", "c"))
    with pytest.raises(ValueError, match="the set has 2 classes and the model 3"):
        plain_labels(("0", "1"), 3, ("a", "b", "c"))


def test_a_teacher_of_other_classes_is_refused(tmp_path: Path) -> None:
    model = ModelConfig(name="conv4", classes=3, image_size=8)
    network = build_model("conv4", num_classes=3, image_size=8)
    state = {
        "hyper_parameters": plain(model=model),
        "state_dict": {f"network.{name}": t for name, t in network.state_dict().items()},
        "classes": ["a", "b", "c"],
        "global_step": 1,
    }
    checkpoints.save(tmp_path / "run" / "checkpoints" / "step-00000001.ckpt", state)
    member = MemberConfig(checkpoint=tmp_path / "run")  # a run folder stands for its newest
    config = TeacherConfig(members=(member,))
    for classes in (("a", "b", "c"), ()):
        assert build_teacher(config, num_classes=3, classes=classes).members[0].size == 8
    with pytest.raises(ValueError, match=r"run was trained on other classes: class 2 is 'c' there"):
        build_teacher(config, num_classes=3, classes=("a", "b", "z"))


def test_distillation_compares_the_teachers_classes(
    run: Path, tiny: TinyData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with np.load(tiny.train) as arrays:
        np.savez(tmp_path / "train.npz", **({**arrays} | {"classes": OTHERS}))
    teacher = asdict(MemberConfig(checkpoint=run)) | {"checkpoint": str(run)}
    (tmp_path / "kd.yaml").write_text(json.dumps({"teacher": {"members": [teacher]}}))
    data = [
        f"--data.images={tmp_path / 'train.npz'}",
        f"--data.val={renamed(tiny, tmp_path, OTHERS)}",
    ]
    words = [*FIT, *data, f"--config={tmp_path / 'kd.yaml'}", f"--run_dir={tmp_path / 'kd'}"]
    assert APP.main(["fit", *words, "--loss.mode=kd"]) == 2
    error = capsys.readouterr().err
    assert f"teacher checkpoint {run} was trained on other classes: class 0 is 'class-0'" in error

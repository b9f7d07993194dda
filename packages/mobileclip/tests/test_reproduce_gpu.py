"""The scale `gpu` of `reproduce`, run through on the CPU at a shrunken size, and its claims."""

import json
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch

from mobileclip.claims import BOTH, DR
from mobileclip.claims_gpu import NAMES, ONLINE, Storage, judge_gpu
from mobileclip.cli import APP
from mobileclip.demo_data import REINFORCED, WEB
from mobileclip.demo_scenes_shards import scene_augment
from mobileclip.demo_training import Place
from mobileclip.generate.teacher_config import TeacherConfig, TeacherEnsembleConfig
from mobileclip.generate.teachers import build_teachers
from mobileclip.gpu_clock import StepTimes
from mobileclip.gpu_teachers import TeacherShape, save_teacher
from mobileclip.models.clip import build_model
from mobileclip.reproduce_gpu import SceneRun, SceneScale, compare_on_scenes, student_loss
from mobileclip.schema import read_info
from mobileclip.tokenizer import tokenize
from mobileclip.verify import verify
from tenfold.results import save_result
from tenfold.shards import read_index

SHAPE = TeacherShape(
    width=32, layers=1, patch=8, head=16, text_width=32, text_layers=1, embed_dim=24
)
SHRUNKEN = SceneScale(
    images=40,
    teaching=24,
    test=12,
    shard=20,
    student="tiny",
    image_size=32,
    batch_size=8,
    micro_batch=4,
    steps=3,
    teacher=SHAPE,
    teacher_batch=8,
    teacher_steps=2,
    views=2,
)


def _run(folder: Path) -> dict[str, Any]:
    return compare_on_scenes(SHRUNKEN, folder, seeds=2, workers=1, place=Place(device="cpu"))


def test_the_whole_scale_runs_through_at_shrunken_size_and_goes_on(tmp_path: Path) -> None:
    results = _run(tmp_path)
    assert set(results) == {"reinforcement", "storing", "cost"}
    rows = {
        (row.arm, row.metric): row.per_seed for result in results.values() for row in result.rows
    }
    for arm in (BOTH, DR, ONLINE):
        for metric in ("top1", "image_to_text_r1", "text_to_image_r1", "busy_share"):
            assert all(0 <= value <= 1 for value in rows[arm, NAMES[metric]])
        assert all(value > 0 for value in rows[arm, NAMES["pairs_per_s"]])
    # Two teachers of 24 columns in bfloat16, two views and six captions, and a short header.
    (formula,) = set(rows["formula", "bytes/sample"])
    assert formula == (2 + 6) * 48 * 2
    (measured,) = set(rows["stored embeddings", "bytes/sample"])
    assert formula < measured < formula + 64
    assert "Teachers' top-1" in results["cost"].notes

    info = read_info(tmp_path / REINFORCED)
    assert (info.dims, info.num_views, info.num_captions) == ((24, 24), 2, 5)
    assert info.captioner == read_index(tmp_path / WEB).metadata["captioner"]
    assert verify(str(tmp_path / REINFORCED), sample=8) == 0

    marks = sorted(tmp_path.rglob("students/.jobs/students/*.json"))
    assert len(marks) == 6
    again = _run(tmp_path)
    assert {name: result.rows for name, result in again.items()} == {
        name: result.rows for name, result in results.items()
    }
    save_result(results["cost"], tmp_path / "cost_gpu.json")
    assert json.loads((tmp_path / "cost_gpu.json").read_text())["scale"] == "gpu"


def test_arms_differ_in_their_mode_alone() -> None:
    losses = [
        student_loss(SceneRun(arm=arm, seed=0, size=SHRUNKEN, folder=Path()))
        for arm in (BOTH, DR, ONLINE)
    ]
    assert [loss.mode for loss in losses] == ["clip", "dr", "online"]
    assert {loss.captions for loss in losses} == {"both"}
    assert {loss.micro_batch for loss in losses} == {4}
    assert [loss.distill_weight for loss in losses] == [0.0, 1.0, 1.0]


def test_a_saved_teacher_says_what_it_said(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = SHAPE.build(32).eval()
    save_teacher(network, SHAPE, tmp_path / "teacher")
    config = TeacherConfig(model=f"local-dir:{tmp_path / 'teacher'}")
    loaded = build_teachers(TeacherEnsembleConfig(members=(config,)))
    images = torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8)
    texts = ["one red plain star at the centre", "two rings"]
    with torch.inference_mode():
        expected = network.encode_image(images.float() / 255), network.encode_text(tokenize(texts))
    torch.testing.assert_close(loaded.encode_images(images), expected[0])
    torch.testing.assert_close(loaded.encode_texts(texts), expected[1])
    assert loaded.scales == pytest.approx((1 / 0.07,))


def test_the_networks_of_the_scale_exist() -> None:
    size = SceneScale()
    with torch.device("meta"):
        assert build_model(size.student, image_size=size.image_size).image_size == 128
        teacher = size.teacher.build(size.image_size)
    parameters = sum(weight.numel() for weight in teacher.image_tower.parameters())
    assert 21e6 < parameters < 23e6  # ViT-S/16
    assert size.batch_size % size.micro_batch == 0
    assert not scene_augment(size.image_size).rand_augment


def _values(**changes: Any) -> dict[str, dict[str, list[float]]]:
    good: dict[str, dict[str, list[float]]] = {
        "top1": {BOTH: [0.5, 0.6], DR: [0.7, 0.65], ONLINE: [0.7, 0.66]},
        "pairs_per_s": {BOTH: [1000.0, 1000.0], DR: [960.0, 980.0], ONLINE: [480.0, 490.0]},
    }
    for metric in ("image_to_text_r1", "text_to_image_r1", "busy_share", "peak_gib"):
        good[metric] = {arm: [0.5, 0.5] for arm in (BOTH, DR, ONLINE)}
    for metric, arms in changes.items():
        good[metric] = good[metric] | arms
    return good


def test_claims_hold_by_every_seed_by_a_point_and_by_speed() -> None:
    results = judge_gpu(_values(), Storage(measured=103.0, formula=96.0), notes="")
    assert all(result.holds for result in results.values())
    margins = {name: result.margin for name, result in results.items()}
    assert margins == pytest.approx({"reinforcement": 0.04, "storing": 0.005, "cost": 0.02})
    ratios = {
        row.arm: row.mean for row in results["cost"].rows if row.metric == "ratio/pairs_per_s"
    }
    assert ratios == pytest.approx({f"{DR} / {BOTH}": 0.97, f"{ONLINE} / {DR}": 0.5})
    assert "mem/peak_gib" in {row.metric for row in results["cost"].rows}


@pytest.mark.parametrize(
    ("failing", "changes"),
    [
        ("reinforcement", {"top1": {DR: [0.9, 0.59]}}),
        ("storing", {"top1": {ONLINE: [0.72, 0.68]}}),
        ("cost", {"pairs_per_s": {DR: [960.0, 930.0]}}),
    ],
)
def test_a_claim_that_fails_is_reported_so(failing: str, changes: dict[str, Any]) -> None:
    results = judge_gpu(_values(**changes), Storage(measured=1.0, formula=1.0), notes="")
    assert [name for name, result in results.items() if not result.holds] == [failing]


def test_the_clock_takes_the_median_after_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    periods = [9.0, 9.0, *[1.0] * 11, 2.0, 3.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    marks: list[float] = []
    now = 0.0
    for period in periods:
        marks += [now, now + 0.5]
        now += period
    clock, ticks = StepTimes(on_gpu=False), iter(marks)
    monkeypatch.setattr("mobileclip.gpu_clock.time.perf_counter", lambda: next(ticks))
    for _ in periods:
        clock.on_train_batch_start()
        clock.on_train_batch_end()
    counted = [*periods[2:-1], 0.5]  # the last step has no next one
    assert clock.step_seconds == median(counted)
    assert clock.busy_share == pytest.approx(0.5 * 18 / sum(counted))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scale=gpu"], "scale gpu needs an NVIDIA GPU"),
        (["--seeds=1"], "seeds must be >= 2 and workers >= 1, got 1 and 2"),
        (["--workers=0"], "seeds must be >= 2 and workers >= 1, got 5 and 0"),
    ],
)
def test_mistakes_are_told_in_one_line(
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    assert APP.main(["reproduce", *options]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert len(shown.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())

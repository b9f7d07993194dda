"""DataComp's main metrics, averages, result files and the verb `aggregate`."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mobileclip.aggregate import aggregate
from mobileclip.datacomp import (
    AVERAGED,
    NUM_CLASSES,
    SHIFTS,
    TASKS,
    main_metric,
    stated_metric,
    summarise,
    task_key,
)
from mobileclip.evaluate import evaluate
from mobileclip.result_files import read_results, store_result

FLICKR = "retrieval/flickr_1k_test_image_text_retrieval"
COCO = "retrieval/mscoco_2014_5k_test_image_text_retrieval"

# Recall at 1 in percent, text to image and image to text (paper table 7).
PUBLISHED_RECALL = {
    "s0": {FLICKR: (67.7, 85.9), COCO: (40.4, 58.7)},
    "s1": {FLICKR: (71.0, 89.2), COCO: (44.0, 62.2)},
    "s2": {FLICKR: (73.4, 90.3), COCO: (45.4, 63.4)},
    "b": {FLICKR: (77.3, 91.4), COCO: (50.6, 68.8)},
    "b_lt": {FLICKR: (76.9, 92.3), COCO: (50.0, 68.7)},
}

# Main metrics of the official S0 log, in the order of `AVERAGED`.
S0 = (
    0.928638,
    0.9318,
    0.7486,
    0.285667,
    0.225267,
    0.138341,
    0.575,
    0.501667,
    0.201569,
    0.825188,
    0.467379,
    0.67786,
    0.555228,
    0.5994,
    0.2648,
    0.5385,
    0.7864,
    0.210970,
    0.6863,
    0.558900,
    0.673387,
    0.899046,
    0.805355,
    0.665283,
    0.543657,
    0.570317,
    0.793434,
    0.9735,
    0.686025,
    0.625999,
    0.767900,
    0.495899,
    0.483172,
    0.119049,
    0.735615,
    0.092943,
    0.582944,
    0.863466,
)


def all_metrics(value: float) -> dict[str, float]:
    """Every metric that some task counts by, all of one value."""
    return {task.metric: value for task in TASKS.values() if task.metric is not None}


def test_the_averages_of_the_official_log() -> None:
    results = {
        key: {TASKS[key].metric or "": value} for key, value in zip(AVERAGED, S0, strict=True)
    }
    summary = summarise(results)
    assert summary.average.value == pytest.approx(0.5812, abs=5e-5)
    assert summary.shift.value == pytest.approx(0.551, abs=5e-4)


def test_forty_tasks_of_which_38_count() -> None:
    assert len(TASKS) == 40
    assert len(AVERAGED) == 38
    assert set(TASKS) - set(AVERAGED) == {"fairness/fairface", "fairness/utkface"}
    assert len(SHIFTS) == 6
    assert set(SHIFTS) < set(AVERAGED)


def test_tasks_that_do_not_count_by_accuracy() -> None:
    others = {task.dataset: task.metric for task in TASKS.values() if task.metric != "acc1"}
    assert others == {
        "Caltech-101": "mean_per_class_recall",
        "FGVC Aircraft": "mean_per_class_recall",
        "Oxford Flowers-102": "mean_per_class_recall",
        "Oxford-IIIT Pet": "mean_per_class_recall",
        "Flickr": "mean_recall@1",
        "MSCOCO": "mean_recall@1",
        "WinoGAViL": "jaccard_score_10-12",
        "iWildCam": "F1-macro_all",
        "FMoW": "acc_worst_region",
        "Dollar Street": "acc_top5_wg",
        "GeoDE": "acc_wg",
        "FairFace": None,
        "UTKFace": None,
    }


@pytest.mark.parametrize("key", AVERAGED)
def test_the_main_metric_is_picked_among_all(key: str) -> None:
    metrics = all_metrics(0.25)
    counted = TASKS[key].metric
    assert counted is not None
    metrics[counted] = 0.75
    assert main_metric(key, metrics) == 0.75


def test_tasks_of_ones_own_count_by_accuracy_or_recall() -> None:
    assert main_metric("my-photos", {"acc1": 0.5, "acc5": 0.75}) == 0.5
    assert main_metric("my-captions", {"mean_recall@1": 0.25}) == 0.25
    assert main_metric("fairness/fairface", {"acc_race_avg": 0.5}) is None


@pytest.mark.parametrize("model", PUBLISHED_RECALL)
def test_published_retrieval_is_the_mean_of_both_directions(model: str) -> None:
    rows = PUBLISHED_RECALL[model]
    results = {key: {"mean_recall@1": sum(directions) / 200} for key, directions in rows.items()}
    summary = summarise(results)
    assert summary.flickr == pytest.approx(sum(rows[FLICKR]) / 200)
    assert summary.coco == pytest.approx(sum(rows[COCO]) / 200)
    assert summary.average.present == 2


def test_averages_are_unweighted_and_filtered_to_known_tasks() -> None:
    results = {key: all_metrics(number / 100) for number, key in enumerate(AVERAGED)}
    results["fairness/fairface"] = {"acc_race_avg": 1.0}
    results["vqav2"] = {"acc1": 1.0}  # files of MobileCLIP2's time hold 50 tasks
    summary = summarise(results)
    assert summary.average.value == pytest.approx(sum(range(38)) / 38 / 100)
    shifted = [AVERAGED.index(key) for key in SHIFTS]
    assert summary.shift.value == pytest.approx(sum(shifted) / 6 / 100)
    assert summary.imagenet == pytest.approx(AVERAGED.index("imagenet1k") / 100)


def test_a_mean_with_a_task_missing_is_none() -> None:
    results = {key: {"main_metric": 0.5} for key in AVERAGED if key != "objectnet"}
    summary = summarise(results)
    assert summary.average.value is None
    assert summary.average.present == 37
    assert summary.average.missing == summary.shift.missing == ("objectnet",)
    assert summary.shift.value is None


@pytest.mark.parametrize(
    ("key", "metrics", "message"),
    [
        ("wilds/fmow", {"acc1": 0.1}, "counts by acc_worst_region, which is not among acc1"),
        ("mnist", {"acc1": float("nan")}, "mnist: acc1 must be a finite number, got nan"),
        ("mnist", {"main_metric": "high"}, "must be a finite number, got 'high'"),
        ("mnist", {"acc1": 0.5, "main_metric": 0.6}, "states main_metric 0.6, but its acc1 is 0.5"),
        ("mnist", {"acc1": None, "main_metric": 0.6}, "acc1 must be a finite number, got None"),
    ],
)
def test_metrics_that_do_not_add_up(key: str, metrics: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stated_metric(key, metrics)


@pytest.mark.parametrize(
    ("folder", "key"),
    [
        ("wds_vtab-caltech101_test", "vtab/caltech101"),
        ("wds_imagenet-a_test", "imagenet-a"),
        ("wds_wilds-fmow_test", "wilds/fmow"),
        ("wds_dollar_street_test", "fairness/dollar_street"),
        ("wds_winogavil", "misc/winogavil"),
        ("imagenetv2", "imagenetv2"),
        ("holiday_photos", "holiday_photos"),
    ],
)
def test_folders_name_their_task(folder: str, key: str) -> None:
    assert task_key(folder) == key


REFUSED = {"fairface": "fairness/", "utkface": "fairness/", "winogavil": "misc/"}


@pytest.mark.parametrize("task", ["wds", "imagenet-folder"])
@pytest.mark.parametrize(("bare", "group"), REFUSED.items())
def test_tasks_that_are_no_classification_are_refused(
    tmp_path: Path, bare: str, group: str, task: Any
) -> None:
    message = rf"evaluate does not measure \w+ \({group}{bare}\): it [^\n]+$"
    keys = [group + bare, bare, f"wds_{bare}", bare.upper()]
    folders = [bare, f"wds_{bare}", f"wds_{group[:-1]}-{bare}_test"]
    for key, folder in [*((key, "photos") for key in keys), *(("", name) for name in folders)]:
        with pytest.raises(ValueError, match=message):
            evaluate(Path("absent.pt"), task=task, root=tmp_path / folder, key=key)
    with pytest.raises(FileNotFoundError):  # captions of such images, or classes under another key
        evaluate(Path("absent.pt"), task="retrieval", root=tmp_path / bare)
    with pytest.raises(FileNotFoundError):
        evaluate(Path("absent.pt"), task=task, root=tmp_path / bare, key="ages")


def row(key: str, value: float, checkpoint: str = "a") -> dict[str, Any]:
    return {"key": key, "dataset": key, "metrics": {"acc1": value}, "checkpoint": checkpoint}


def test_a_result_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    for key, value in (("mnist", 0.1), ("cars", 0.2), ("mnist", 0.3)):
        store_result(path, row(key, value))
    assert read_results(path) == {"cars": {"acc1": 0.2}, "mnist": {"acc1": 0.3}}
    assert len(path.read_text().splitlines()) == 2
    with pytest.raises(ValueError, match=r"holds results of a, not of b; give each checkpoint"):
        store_result(path, row("cars", 0.5, checkpoint="b"))
    assert read_results(path)["cars"] == {"acc1": 0.2}


def test_classification_tasks_have_a_number_of_classes() -> None:
    others = {"retrieval", "misc"}
    kinds = {key for key in AVERAGED if key.partition("/")[0] not in others}
    assert set(NUM_CLASSES) == kinds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "line 1 is not JSON"),
        ('{"key": "mnist"}', "line 1 has no 'metrics' of mnist"),
        ('\n{"metrics": {}}', "line 2 has no task in 'key'"),
        ('{"key": "a", "metrics": {}}\n{"key": "a", "metrics": {}}', "line 2: a comes twice"),
    ],
)
def test_damaged_result_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_results(path)


def test_aggregate_compares_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    lines = [{"key": key, "metrics": {"main_metric": 0.5}} for key in AVERAGED]
    # DataComp's own files hold NaN where a group has no image
    lines.append({"key": "fairness/utkface", "metrics": {"acc": float("nan"), "main_metric": None}})
    whole.write_text("".join(json.dumps(line) + "\n" for line in lines))
    part.write_text(json.dumps(row("imagenet1k", 0.678)) + "\n")
    aggregate([whole, part], out=tmp_path / "summary.json")
    shown = capsys.readouterr().out
    assert "38/38" in shown
    assert "67.80" in shown
    assert "part has no result of: vtab/caltech101, cifar10" in shown
    figures = json.loads((tmp_path / "summary.json").read_text())
    assert figures["whole"]["average"] == {"value": 0.5, "present": 38, "missing": []}
    assert figures["part"]["imagenet"] == 0.678
    assert figures["part"]["average"]["value"] is None


def test_aggregate_refuses_what_it_cannot_name(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(row("mnist", 0.5)) + "\n")
    with pytest.raises(ValueError, match=r"results\.jsonl twice; give each file once"):
        aggregate([path, path])
    with pytest.raises(ValueError, match="results is empty"):
        aggregate([])
    with pytest.raises(FileNotFoundError, match="the verb evaluate writes one"):
        aggregate([tmp_path / "none.jsonl"])


def test_help_needs_no_torch() -> None:
    program = "import sys, mobileclip.aggregate, mobileclip.evaluate; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"

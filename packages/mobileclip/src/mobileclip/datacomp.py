"""DataComp's 40 tasks: which metric counts for each, the 38-task average, the shift average.

Keys and metric names are those of DataComp's evaluation (Gadre et al. 2023, arXiv:2304.14108), so
that published result files can be summarised beside one's own. MobileCLIP's appendix reports the
same averages. Not here: evaluating (see `evaluate`) and files (see `result_files`).
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

Metrics = Mapping[str, Any]


class Task(NamedTuple):
    """One task: its name in tables, and the metric that counts (None: reported, never averaged)."""

    dataset: str
    metric: str | None = "acc1"


RECALL = "mean_per_class_recall"
RETRIEVAL = "mean_recall@1"

TASKS: dict[str, Task] = {
    "vtab/caltech101": Task("Caltech-101", RECALL),
    "cifar10": Task("CIFAR-10"),
    "vtab/cifar100": Task("CIFAR-100"),
    "vtab/clevr_count_all": Task("CLEVR Counts"),
    "vtab/clevr_closest_object_distance": Task("CLEVR Distance"),
    "country211": Task("Country211"),
    "vtab/dtd": Task("Describable Textures"),
    "vtab/eurosat": Task("EuroSAT"),
    "fgvc_aircraft": Task("FGVC Aircraft", RECALL),
    "food101": Task("Food-101"),
    "gtsrb": Task("GTSRB"),
    "imagenet1k": Task("ImageNet 1k"),
    "imagenet_sketch": Task("ImageNet Sketch"),
    "imagenetv2": Task("ImageNet v2"),
    "imagenet-a": Task("ImageNet-A"),
    "imagenet-o": Task("ImageNet-O"),
    "imagenet-r": Task("ImageNet-R"),
    "vtab/kitti_closest_vehicle_distance": Task("KITTI Vehicle Distance"),
    "mnist": Task("MNIST"),
    "objectnet": Task("ObjectNet"),
    "vtab/flowers": Task("Oxford Flowers-102", RECALL),
    "vtab/pets": Task("Oxford-IIIT Pet", RECALL),
    "voc2007": Task("Pascal VOC 2007"),
    "vtab/pcam": Task("PatchCamelyon"),
    "renderedsst2": Task("Rendered SST2"),
    "vtab/resisc45": Task("RESISC45"),
    "cars": Task("Stanford Cars"),
    "stl10": Task("STL-10"),
    "sun397": Task("SUN397"),
    "vtab/svhn": Task("SVHN"),
    "retrieval/flickr_1k_test_image_text_retrieval": Task("Flickr", RETRIEVAL),
    "retrieval/mscoco_2014_5k_test_image_text_retrieval": Task("MSCOCO", RETRIEVAL),
    "misc/winogavil": Task("WinoGAViL", "jaccard_score_10-12"),
    "wilds/iwildcam": Task("iWildCam", "F1-macro_all"),
    "wilds/camelyon17": Task("Camelyon17"),
    "wilds/fmow": Task("FMoW", "acc_worst_region"),
    "fairness/dollar_street": Task("Dollar Street", "acc_top5_wg"),
    "fairness/geode": Task("GeoDE", "acc_wg"),
    "fairness/fairface": Task("FairFace", None),
    "fairness/utkface": Task("UTKFace", None),
}

NUM_CLASSES = {
    **dict.fromkeys(("imagenet1k", "imagenetv2", "imagenet_sketch"), 1000),
    **dict.fromkeys(("imagenet-a", "imagenet-o", "imagenet-r"), 200),
    **dict.fromkeys(("cifar10", "mnist", "stl10", "vtab/eurosat", "vtab/svhn"), 10),
    **dict.fromkeys(("vtab/pcam", "renderedsst2", "wilds/camelyon17"), 2),
    **dict.fromkeys(("vtab/cifar100", "fgvc_aircraft"), 100),
    **dict.fromkeys(("vtab/caltech101", "vtab/flowers"), 102),
    "vtab/clevr_count_all": 8,
    "vtab/clevr_closest_object_distance": 6,
    "country211": 211,
    "vtab/dtd": 47,
    "food101": 101,
    "gtsrb": 43,
    "vtab/kitti_closest_vehicle_distance": 4,
    "objectnet": 113,
    "vtab/pets": 37,
    "voc2007": 20,
    "vtab/resisc45": 45,
    "cars": 196,
    "sun397": 397,
    "wilds/iwildcam": 182,
    "wilds/fmow": 62,
    "fairness/dollar_street": 58,
    "fairness/geode": 40,
}
"""Classes of each classification task (`num_classes` of DataComp's tasklist.yml)."""

_OF_GROUPS = "it compares groups of people and counts in no average, so leave it out"

UNMEASURED = {
    "misc/winogavil": "it counts by the Jaccard index of chosen images, not by top-1 over classes; "
    "give `aggregate` a result file of DataComp's evaluation",
    "fairness/fairface": _OF_GROUPS,
    "fairness/utkface": _OF_GROUPS,
}
"""Tasks that are no classification, and why a top-1 accuracy of them would mean nothing."""

AVERAGED = tuple(key for key, task in TASKS.items() if task.metric is not None)
"""The 38 tasks of the average."""

SHIFTS = ("imagenetv2", "imagenet-a", "imagenet-o", "imagenet-r", "imagenet_sketch", "objectnet")
"""The six shifted test sets of ImageNet; without Sketch the published values do not come out."""


class Mean(NamedTuple):
    """An unweighted mean over tasks; `value` is None while a task is missing."""

    value: float | None
    present: int
    missing: tuple[str, ...]


class Summary(NamedTuple):
    """What the paper's tables state of one model, as fractions."""

    average: Mean
    shift: Mean
    imagenet: float | None
    flickr: float | None
    coco: float | None


def task_key(folder: str) -> str:
    """Return the task of a data folder as DataComp names it (`wds_vtab-cifar100_test`).

    Any other name is a task of one's own.
    """
    bare = folder.removeprefix("wds_").removesuffix("_test")
    for key in TASKS:
        if bare in (
            key.replace("/", "-"),
            key.removeprefix("fairness/"),
            key.removeprefix("misc/"),
        ):
            return key
    return folder


def require_classification(name: str) -> None:
    """Refuse a task whose metric is no accuracy over classes.

    Args:
        name: Key of the task, or its data folder's name.

    Raises:
        ValueError: It is FairFace, UTKFace or WinoGAViL.
    """
    key = task_key(name.lower())
    if key in UNMEASURED:
        raise ValueError(
            f"evaluate does not measure {TASKS[key].dataset} ({key}): {UNMEASURED[key]}"
        )


def main_metric(key: str, metrics: Metrics) -> float | None:
    """Return the metric that counts for a task, None for FairFace and UTKFace.

    A task that DataComp does not know counts by its `acc1`, or by the mean recall at 1.

    Raises:
        ValueError: The metric is not among `metrics`, or is no finite number.
    """
    name = TASKS[key].metric if key in TASKS else _default_metric(metrics)
    if name is None:
        return None
    if name not in metrics:
        raise ValueError(f"{key} counts by {name}, which is not among {', '.join(metrics)}")
    return _finite(key, name, metrics[name])


def stated_metric(key: str, metrics: Metrics) -> float | None:
    """Return the `main_metric` that a result states, or the one that its metrics give.

    Raises:
        ValueError: It states another value than its own metrics give, or neither is there.
    """
    stated = metrics.get("main_metric")
    known = TASKS[key].metric if key in TASKS else None
    if stated is None:
        return main_metric(key, metrics)
    stated = _finite(key, "main_metric", stated)
    if known is not None and known in metrics:
        given = _finite(key, known, metrics[known])
        if not math.isclose(stated, given, abs_tol=1e-6):
            raise ValueError(f"{key} states main_metric {stated}, but its {known} is {given}")
    return stated


def summarise(results: Mapping[str, Metrics]) -> Summary:
    """Average one model's results; tasks that DataComp does not know are left out.

    Args:
        results: Metrics by task key.
    """
    values = {key: stated_metric(key, results[key]) for key in AVERAGED if key in results}
    return Summary(
        average=_mean(values, AVERAGED),
        shift=_mean(values, SHIFTS),
        imagenet=values.get("imagenet1k"),
        flickr=values.get("retrieval/flickr_1k_test_image_text_retrieval"),
        coco=values.get("retrieval/mscoco_2014_5k_test_image_text_retrieval"),
    )


def _mean(values: Mapping[str, float | None], keys: tuple[str, ...]) -> Mean:
    found = [value for key in keys if (value := values.get(key)) is not None]
    missing = tuple(key for key in keys if values.get(key) is None)
    return Mean(None if missing else math.fsum(found) / len(keys), len(found), missing)


def _default_metric(metrics: Metrics) -> str:
    return RETRIEVAL if RETRIEVAL in metrics else "acc1"


def _finite(key: str, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{key}: {name} must be a finite number, got {value!r}")
    return float(value)

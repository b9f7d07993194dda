"""The paper's averages over tasks (section 4 of the paper's evaluation: Tables 1, 2, 5 and 16).

The regular average is the mean over 14 tasks, not over their 4 groups: groups of 3, 4, 3 and 4
tasks weigh by their size. The long average is the mean of three parts, of which multiple-document
question answering (MDQA) is itself the mean over 10, 20 and 30 documents.
"""

from collections.abc import Mapping
from statistics import fmean

REGULAR: Mapping[str, Mapping[str, int]] = {
    "CSR": {"piqa": 0, "copa": 0, "openbook_qa": 10},
    "LU": {"lambada_openai": 0, "hellaswag": 0, "winograd": 3, "winogrande": 5},
    "RC": {"squad": 3, "boolq": 0, "coqa": 0},
    "WK": {"jeopardy": 3, "arc_easy": 3, "arc_challenge": 3, "bigbench_qa_wikidata": 3},
}
"""Groups (common sense, language understanding, reading, knowledge), tasks, and their examples.

The tasks bear the names of llm-foundry's task list.
"""
MDQA = ("mdqa_10", "mdqa_20", "mdqa_30")
LONG = (*MDQA, "toefl", "quality")


def paper_shots(task: str) -> int:
    """Return how many solved examples the paper puts before a task's question, 0 for any other."""
    return next((tasks[task] for tasks in REGULAR.values() if task in tasks), 0)


def averages(scores: Mapping[str, float]) -> dict[str, float]:
    """Return each average whose tasks all have a score.

    Args:
        scores: By task name; names that belong to no average are left alone.

    Returns:
        By `CSR`, `LU`, `RC`, `WK`, `regular`, `mdqa` and `long`.
    """
    groups = {
        group: fmean(scores[task] for task in tasks)
        for group, tasks in REGULAR.items()
        if scores.keys() >= tasks.keys()
    }
    found = dict(groups)
    if len(groups) == len(REGULAR):
        found["regular"] = regular_average(groups)
    if scores.keys() >= set(MDQA):
        found["mdqa"] = fmean(scores[task] for task in MDQA)
    if scores.keys() >= set(LONG):
        found["long"] = long_average(found["mdqa"], scores["toefl"], scores["quality"])
    return found


def regular_average(groups: Mapping[str, float]) -> float:
    """Return the mean over the 14 tasks from the means of their groups."""
    sizes = {group: len(tasks) for group, tasks in REGULAR.items()}
    return sum(sizes[group] * groups[group] for group in sizes) / sum(sizes.values())


def long_average(mdqa: float, toefl: float, quality: float) -> float:
    """Return the mean of the MDQA average, TOEFL and QuALITY."""
    return fmean((mdqa, toefl, quality))

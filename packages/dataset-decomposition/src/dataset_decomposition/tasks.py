"""Tasks in local JSON Lines files, one file a task, in llm-foundry's forms.

| form | keys of a line |
|---|---|
| multiple choice | `query`, `choices`, `gold` |
| multiple choice of the context | `context_options`, `continuation`, `gold` |
| continuation | `context`, `continuation` |
| multiple-document question | `question`, `answers`, `ctxs` (each with `title` and `text`) |

Other keys are ignored, blank lines too. All lines of a file have one form. The paper's prompts are
not published. Ours: solved examples and the question are separated by one line break, and one space
stands between a context and what follows it, unless the context is empty or ends in a line break.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset_decomposition.averages import paper_shots
from dataset_decomposition.mdqa import Passage, Question


@dataclass(frozen=True)
class MultipleChoice:
    """Pairs of a context and what follows, of which one is right.

    Attributes:
        contexts: One for each choice; the same query, or options of a context.
        continuations: One for each choice.
        gold: Number of the right one.
    """

    contexts: tuple[str, ...]
    continuations: tuple[str, ...]
    gold: int

    def solved(self) -> str:
        """Return the right context with what follows."""
        return "".join(join(self.contexts[self.gold], self.continuations[self.gold]))


@dataclass(frozen=True)
class Continuation:
    """A context and the text that must follow it."""

    context: str
    continuation: str

    def solved(self) -> str:
        """Return the context with what follows."""
        return "".join(join(self.context, self.continuation))


Example = MultipleChoice | Continuation | Question


@dataclass(frozen=True)
class Task:
    """The questions of one file.

    Attributes:
        name: The file's name without `.jsonl`.
        shots: How many of the file's first lines are solved examples before each question.
        preamble: Those examples, ready to stand before a context.
        examples: The other lines, all of one type.
    """

    name: str
    shots: int
    preamble: str
    examples: tuple[Example, ...]


def join(context: str, continuation: str) -> tuple[str, str]:
    """Return context and continuation so that the space between them begins the continuation.

    That is where tokenizers put it: a context's own trailing spaces move over.
    """
    context = context.rstrip(" ")
    separator = "" if not context or context.endswith("\n") else " "
    return context, separator + continuation.lstrip(" ")


def find_tasks(folder: Path) -> list[Path]:
    """Return the `*.jsonl` files of a folder by name.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It holds none.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder of tasks at {folder}")
    if not (found := sorted(folder.glob("*.jsonl"))):
        raise ValueError(f"{folder} holds no task; expected one .jsonl file for each")
    return found


def read_task(path: Path, *, shots: int | None = None) -> Task:
    """Read one task.

    Args:
        path: A JSON Lines file.
        shots: Solved examples, taken from the file's first lines; None is the paper's number.

    Raises:
        ValueError: A line is no JSON object of a known form, its values are impossible, it has
            another form than the first, or there are too few lines; names file and line.
    """
    shots = paper_shots(path.stem) if shots is None else shots
    if shots < 0:
        raise ValueError(f"shots must not be negative, got {shots}")
    examples: list[Example] = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                examples.append(_parse(line))
                _check_form(examples)
            except ValueError as error:
                raise ValueError(f"{path}:{number}: {error}") from error
    if len(examples) <= shots:
        raise ValueError(
            f"{path} has {len(examples)} examples; it needs more than the {shots} that are shown "
            "solved: add lines or lower --shots"
        )
    preamble = "".join(f"{example.solved()}\n" for example in examples[:shots])
    return Task(path.stem, shots, preamble, tuple(examples[shots:]))


def _parse(line: bytes) -> Example:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg}") from error
    if not isinstance(record, dict):
        raise ValueError(f"expected a JSON object, got {type(record).__name__}")
    for keys, parse in _FORMS.items():
        if record.keys() >= set(keys):
            return parse(record)
    forms = "; ".join(", ".join(keys) for keys in _FORMS)
    raise ValueError(f"unknown form with keys {', '.join(record) or '(none)'}; expected {forms}")


def _check_form(examples: Sequence[Example]) -> None:
    if type(examples[-1]) is not type(examples[0]):
        raise ValueError(
            f"the form is {type(examples[-1]).__name__}, that of the first line "
            f"{type(examples[0]).__name__}; a file is one task"
        )


def _choices(record: Mapping[str, Any]) -> MultipleChoice:
    choices = _texts(record, "choices", at_least=2)
    query = _text(record, "query", may_be_empty=True)
    return MultipleChoice((query,) * len(choices), choices, _gold(record, len(choices)))


def _context_options(record: Mapping[str, Any]) -> MultipleChoice:
    contexts = _texts(record, "context_options", at_least=2)
    continuation = _text(record, "continuation")
    return MultipleChoice(contexts, (continuation,) * len(contexts), _gold(record, len(contexts)))


def _continuation(record: Mapping[str, Any]) -> Continuation:
    return Continuation(_text(record, "context", may_be_empty=True), _text(record, "continuation"))


def _question(record: Mapping[str, Any]) -> Question:
    passages = record["ctxs"]
    if not isinstance(passages, list) or not passages:
        raise ValueError(f"ctxs must be a list of documents, got {passages!r:.60}")
    for passage in passages:
        if not isinstance(passage, dict) or not passage.keys() >= {"title", "text"}:
            raise ValueError(f"a document of ctxs needs title and text, got {passage!r:.60}")
    return Question(
        _text(record, "question"),
        _texts(record, "answers", at_least=1),
        tuple(
            Passage(
                _text(passage, "title", may_be_empty=True),
                _text(passage, "text", may_be_empty=True),
            )
            for passage in passages
        ),
    )


def _gold(record: Mapping[str, Any], count: int) -> int:
    gold = record["gold"]
    if not isinstance(gold, int) or isinstance(gold, bool) or not 0 <= gold < count:
        raise ValueError(f"gold must be a whole number from 0 to {count - 1}, got {gold!r}")
    return gold


def _text(record: Mapping[str, Any], key: str, *, may_be_empty: bool = False) -> str:
    value = record[key]
    if not isinstance(value, str) or not (may_be_empty or value.strip()):
        raise ValueError(f"{key} must be a text with something in it, got {value!r:.60}")
    return value


def _texts(record: Mapping[str, Any], key: str, *, at_least: int) -> tuple[str, ...]:
    values = record[key]
    if not isinstance(values, list) or len(values) < at_least:
        raise ValueError(f"{key} must be a list of at least {at_least}, got {values!r:.60}")
    return tuple(_text({key: value}, key) for value in values)


_FORMS: Mapping[tuple[str, ...], Callable[[Mapping[str, Any]], Example]] = {
    ("query", "choices", "gold"): _choices,
    ("context_options", "continuation", "gold"): _context_options,
    ("context", "continuation"): _continuation,
    ("question", "answers", "ctxs"): _question,
}

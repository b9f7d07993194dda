"""Multiple-document question answering: prompt, answer and `subspan_em`.

The format and the score are those of "Lost in the Middle" (arXiv 2307.03172); the paper takes the
first non-empty line of what the model says for its answer (appendix B.3). The wording of the
prompt is the one that "Lost in the Middle" prints; that the paper used it unchanged is our
assumption.
"""

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

MAX_NEW_TOKENS = 100
_INSTRUCTION = (
    "Write a high-quality answer for the given question using only the provided search results "
    "(some of which might be irrelevant)."
)
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Passage(NamedTuple):
    """One document that a question comes with."""

    title: str
    text: str


@dataclass(frozen=True)
class Question:
    """A question, its documents in the order of the prompt, and the answers that count."""

    question: str
    answers: tuple[str, ...]
    passages: tuple[Passage, ...]

    @property
    def prompt(self) -> str:
        """Everything up to where the answer begins, without a space at its end."""
        documents = "\n".join(
            f"Document [{number}](Title: {passage.title}) {passage.text}"
            for number, passage in enumerate(self.passages, start=1)
        )
        return f"{_INSTRUCTION}\n\n{documents}\n\nQuestion: {self.question}\nAnswer:"

    def solved(self) -> str:
        """Return the prompt with its first answer."""
        return f"{self.prompt} {self.answers[0]}"


def first_line(text: str) -> str:
    """Return the first line that is not empty, stripped; empty when there is none."""
    return text.strip().partition("\n")[0].strip()


def has_first_line(text: str) -> bool:
    """Return whether more text cannot change `first_line` any more."""
    return "\n" in text.lstrip()


def subspan_em(prediction: str, answers: Sequence[str]) -> bool:
    """Return whether any answer stands in the prediction, both normalised.

    An answer of which nothing remains ("The") would stand in anything and counts for nothing; the
    official script lets it match.
    """
    said = normalise(prediction)
    return any(answer in said for answer in map(normalise, answers) if answer)


def normalise(text: str) -> str:
    """Lower the case, strip ASCII punctuation and the articles, and fold white space."""
    plain = text.lower().translate(_PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", plain).split())

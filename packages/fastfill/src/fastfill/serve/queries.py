"""What a query may say, as JSON or as fields of a form. Every value is checked before use."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, get_args

import numpy as np
from numpy.typing import NDArray

from fastfill.serve.errors import RequestError

Kind = Literal["vector", "text", "id", "image"]
Target = Literal["transformed", "old", "new"]

MAX_K = 1000
"""Longest list of results."""
MAX_TEXT = 10_000
"""Most characters of a text or an id."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Query:
    """What is asked.

    Args:
        kind: What `values` are.
        values: List of texts, ids or encoded images; of vectors a float32 array `[Q, d]`.
        stamp: `weights_sha256` of the model that made the vectors.
        k: Length of the lists.
        exact: No approximation.
    """

    kind: Kind
    values: Any
    stamp: str | None = None
    k: int = 10
    exact: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.k <= MAX_K:
            raise RequestError(400, f"k must lie in 1..{MAX_K}, got {self.k}")


def from_json(body: bytes, *, batch: bool, max_batch: int) -> Query:
    """Return the query of a JSON body.

    One query has `vector` with `model`, `text`, or `id`; a batch has `vectors`, `texts` or `ids`.

    Raises:
        RequestError: The body is malformed, 400; a vector has no stamp, 400; the batch is too
            long, 413.
    """
    value = _parse(body)
    end = "s" if batch else ""
    known = {"vector" + end: "vector", "text" + end: "text", "id" + end: "id"}
    for name in value.keys() - known.keys() - {"k", "exact", "model"}:
        _refuse(f"unknown entry {name!r:.40}")
    given = [name for name in known if name in value]
    if len(given) != 1:
        _refuse(f"give one of {', '.join(known)}, got {len(given)} of them")
    kind: Any = known[given[0]]
    values = value[given[0]] if batch else [value[given[0]]]
    check_count(values, max_batch=max_batch, name=given[0])
    stamp = value.get("model")
    if kind == "vector":
        if not isinstance(stamp, str) or not stamp:
            _refuse("a vector needs `model`, the weights_sha256 of the model that made it")
        values = _vectors(values)
    elif not all(isinstance(text, str) and _is_plain(text) for text in values):
        _refuse(f"{given[0]} must be text of 1..{MAX_TEXT} Unicode characters")
    k, exact = value.get("k", 10), value.get("exact", False)
    if not isinstance(k, int) or isinstance(k, bool):
        _refuse(f"k must be a whole number, got {k!r:.40}")
    if not isinstance(exact, bool):
        _refuse(f"exact must be true or false, got {exact!r:.40}")
    return Query(kind=kind, values=values, stamp=stamp, k=k, exact=exact)


def from_form(images: Sequence[bytes], fields: Mapping[str, str]) -> Query:
    """Return the query of a form with images.

    Raises:
        RequestError: `k` or `exact` are malformed.
    """
    k, exact = fields.get("k", "10"), fields.get("exact", "false")
    if not (k.isascii() and k.isdecimal() and len(k) < 10):
        _refuse(f"k must be a whole number, got {k!r:.40}")
    if exact not in ("true", "false"):
        _refuse(f"exact must be true or false, got {exact!r:.40}")
    return Query(kind="image", values=images, k=int(k), exact=exact == "true")


def target_from_json(body: bytes) -> Target:
    """Return where a roll-back goes, from the JSON body `{"to": "transformed"}`.

    Raises:
        RequestError: The body is malformed.
    """
    value = _parse(body)
    if value.keys() != {"to"} or value["to"] not in get_args(Target):
        _refuse(f"give `to` alone, one of {', '.join(get_args(Target))}")
    return value["to"]


def check_count(values: object, *, max_batch: int, name: str) -> None:
    """Refuse what is no list, empty, or too long.

    Raises:
        RequestError: 400, or 413 for too long.
    """
    if not isinstance(values, list) or not values:
        _refuse(f"{name} must be a list that is not empty")
    if len(values) > max_batch:
        raise RequestError(413, f"a batch has at most {max_batch} queries, got {len(values)}")


def _parse(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:  # bytes that are no UTF-8, too
        _refuse(f"the body is no JSON: {error}")
    if not isinstance(value, dict):
        _refuse(f"the body must be a JSON object, got {type(value).__name__}")
    return value


def _is_plain(text: str) -> bool:
    # Half a surrogate pair passes JSON, but no encoder and no answer.
    return 0 < len(text) <= MAX_TEXT and not any("\ud800" <= c <= "\udfff" for c in text)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _vectors(rows: list[Any]) -> NDArray[np.float32]:
    widths = {len(row) if isinstance(row, list) else -1 for row in rows}
    if len(widths) != 1 or min(widths) < 1:
        _refuse("a vector must be a list of numbers, and all of one width")
    for row in rows:
        if not all(isinstance(x, float | int) and not isinstance(x, bool) for x in row):
            _refuse("a vector must hold numbers only")
    try:
        vectors = np.array(rows, dtype=np.float64)
    except OverflowError:
        vectors = np.full((1, 1), math.inf)
    if not (np.abs(vectors) <= np.finfo(np.float32).max).all():
        _refuse("a vector holds a number beyond float32")
    return vectors.astype(np.float32)


def _refuse(message: str) -> NoReturn:
    raise RequestError(400, message)

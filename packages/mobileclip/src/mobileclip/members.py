"""What the text members of a sample say, in each form in which it is published. Free of torch."""

import json
import re
from collections.abc import Mapping
from typing import Any

SYNTHETIC_KEYS = r"^syn_text.*$"
"""Which keys of `syn.json` hold captions; `syn_text_<tag>` belongs to the new layout."""


def uid_of(key: str, about: Any) -> str:
    """Return the uid of a sample: that of its `json` member where it has one, else its key."""
    uid = about.get("uid") if isinstance(about, Mapping) else None
    return str(uid) if uid else key


def real_captions(text: Any) -> tuple[str, ...]:
    """Return the real captions of `txt`, a string or a list of them.

    Raises:
        ValueError: It is neither.
    """
    texts = [text] if isinstance(text, str) else text
    if not isinstance(texts, list) or not all(isinstance(entry, str) for entry in texts):
        raise ValueError(f"txt must be a string or a list of strings, got {text!r}")
    return tuple(texts)


def synthetic_captions(
    content: Any, *, pattern: str = SYNTHETIC_KEYS
) -> dict[str, tuple[str, ...]]:
    """Return the captions of `syn.json` under each key that `pattern` matches.

    Raises:
        ValueError: No key matches, or a value is no list of strings.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"syn.json must be an object, got {type(content).__name__}")
    found = {key: value for key, value in content.items() if re.match(pattern, key)}
    if not found:
        raise ValueError(f"syn.json has no key like {pattern}, only {sorted(content)}")
    for key, texts in found.items():
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{key} of syn.json must be a list of strings, got {texts!r}")
    return {key: tuple(found[key]) for key in sorted(found)}


def stored_views(content: Any) -> list[list[Any]]:
    """Return the parameters of the views in `paug.json`, in the official list form.

    `param_aug` is a list in the trainer and a JSON string of that list in the public release.

    Raises:
        ValueError: It is neither, or empty.
    """
    values = content.get("param_aug") if isinstance(content, Mapping) else None
    if isinstance(values, str):
        try:
            values = json.loads(values)
        except ValueError as error:
            raise ValueError(f"param_aug of paug.json is a string but no JSON: {error}") from error
    if not isinstance(values, list) or not values:
        raise ValueError(f"param_aug of paug.json must be a list of views, got {values!r}")
    if not all(isinstance(view, list) for view in values):
        raise ValueError("each view in param_aug of paug.json must be a list of its steps")
    return values

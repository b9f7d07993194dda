"""The nearest option for one that does not exist: a mistyped word should cost one look, not two."""

import difflib
import inspect
import re
import sys
from collections.abc import Iterable

from jsonargparse import ArgumentParser

# jsonargparse's own words, of which the tests of the command line hold a sample each.
_UNKNOWN = re.compile(
    r"Group '(?P<group>[^']+)' does not accept option '(?P<member>[^']+)'"
    r"|Option '(?P<key>[^']+)' is not accepted"
    r"|unrecognized arguments: (?P<words>.+)"
)
_INNER_CLASS = re.compile(r"Problem with given class_path '([^']+)'")


def with_suggestions(message: str, parser: ArgumentParser) -> str:
    """Return the message of a parser's error with the nearest option after each unknown one."""

    def completed(found: re.Match[str]) -> str:
        # The innermost class whose arguments were being read; none at the parser's own level.
        classes = _INNER_CLASS.findall(message, 0, found.start())
        near = _nearest_options(found, classes[-1] if classes else None, parser)
        return found[0] + (f"; did you mean {', '.join(near)}?" if near else "")

    return _UNKNOWN.sub(completed, message)


def _nearest_options(found: re.Match[str], inner: str | None, parser: ArgumentParser) -> list[str]:
    if found["words"]:
        words = [word for word in found["words"].split() if word.startswith("--")]
        names, known = [w[2:].partition("=")[0] for w in words], _option_names(parser)
        return [f"--{near}" for name in names for near in _nearest(name, known)]
    if inner is not None:
        return _nearest(found["key"], _argument_names(inner)) if found["key"] else []
    if found["key"]:
        return _nearest(found["key"], _option_names(parser))
    group = found["group"] + "."
    members = [n.removeprefix(group) for n in _option_names(parser) if n.startswith(group)]
    return _nearest(found["member"], members)


def _nearest(name: str, known: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(name, list(known), n=1)


def _option_names(parser: ArgumentParser) -> list[str]:
    names = {name for action in parser._actions for name in action.option_strings}
    long = (name.removeprefix("--") for name in names if name.startswith("--"))
    return sorted(name for name in long if not name.endswith(("+", ".help")))


def _argument_names(class_path: str) -> list[str]:
    """Return the arguments of a class that jsonargparse has imported."""
    module, _, name = class_path.rpartition(".")
    found = getattr(sys.modules.get(module), name, None)
    return list(inspect.signature(found).parameters) if inspect.isclass(found) else []

"""A paper's verb: a plain typed function whose arguments become options.

jsonargparse reads types and help from signature and docstring. What a shell user expects on top is
added here: leading words fill the required arguments, a list takes several words, and a boolean
needs no value.
"""

import inspect
import json
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser

from tenfold.cli.suggestions import with_suggestions


def function_parser(function: Callable[..., Any], *, prog: str) -> ArgumentParser:
    """Return the parser of a verb; it raises `ArgumentError` and never exits by itself."""
    summary = (inspect.getdoc(function) or "").partition("\n")[0]
    leading = " ".join(name.upper() for name in _required_arguments(function))
    usage = " ".join(part for part in (prog, leading, "[options]") if part)
    parser = ArgumentParser(prog=prog, usage=usage, description=summary, exit_on_error=False)
    parser.add_argument("--config", action="config", help="Options from a YAML file.")
    parser.add_function_arguments(function, as_group=False)
    return parser


def run_function(function: Callable[..., Any], argv: Sequence[str], *, prog: str) -> int:
    """Parse `argv`, call `function` and return its exit code (its return value when an `int`).

    Raises:
        ValueError: The words are not the function's; names the nearest option to an unknown one.
    """
    parser = function_parser(function, prog=prog)
    words = shell_words(function, argv)
    try:
        options = parser.parse_args(words)
    except ArgumentError as error:
        raise ValueError(with_suggestions(str(error), parser)) from error
    options.pop("config", None)
    result = function(**parser.instantiate(options))
    return result if isinstance(result, int) else 0


def shell_words(function: Callable[..., Any], argv: Sequence[str]) -> list[str]:
    """Rewrite shell-style words into the `--name=value` words that jsonargparse takes.

    Raises:
        ValueError: More bare words than required arguments, or a path is empty.
    """
    hints = get_type_hints(function)
    required = _required_arguments(function)
    words: list[str] = []
    rest = list(argv)
    while rest:
        word = rest[0]
        name = word.removeprefix("--")
        if not word.startswith("-") or word == "-":
            if not required:
                raise ValueError(f"unexpected word '{word}': options start with --")
            name = required.pop(0)
            words.append(
                _as_option(name, _take_values(rest, hints[name], keep=len(required)), hints[name])
            )
        elif name in hints:
            rest.pop(0)
            required = [other for other in required if other != name]
            words.append(_as_option(name, _take_values(rest, hints[name]), hints[name]))
        elif (stated := name.partition("="))[0] in hints and stated[1]:
            rest.pop(0)
            required = [other for other in required if other != stated[0]]
            words.append(_as_option(stated[0], [stated[2]], hints[stated[0]]))
        else:  # `--help`, `--name+=value`, or an unknown option: jsonargparse answers
            words.append(rest.pop(0))
            while rest and "=" not in word and not rest[0].startswith("-"):
                words.append(rest.pop(0))
    return words


def _required_arguments(function: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(function).parameters.items()
    return [name for name, value in parameters if value.default is inspect.Parameter.empty]


def _take_values(rest: list[str], hint: Any, keep: int = 0) -> list[str]:
    """Remove an option's values from the front of `rest`; leave `keep` words for others."""
    bare = next((n for n, word in enumerate(rest) if word.startswith("--")), len(rest))
    limit = max(bare - keep, 1) if _is_list(hint) else 1
    if hint is bool and (not bare or rest[0].lower() not in ("true", "false")):
        limit = 0
    values = rest[: min(limit, bare)]
    del rest[: len(values)]
    return values


def _as_option(name: str, values: list[str], hint: Any) -> str:
    if hint is bool:
        return f"--{name}={values[0] if values else 'true'}"
    if not values:
        return f"--{name}"
    if _is_path(hint) and "" in values:
        # Path("") is the current folder: an unset variable of a script would name it in silence.
        raise ValueError(f"{name} is an empty path; write . for the current folder")
    if _is_list(hint) and not values[0].startswith(_brackets(hint)):
        numbers = {int, float} & set(get_args(_list_of(hint)))
        return f"--{name}=[{','.join(values if numbers else map(json.dumps, values))}]"
    return f"--{name}={values[0]}"


def _is_list(hint: Any) -> bool:
    return _list_of(hint) is not None


def _brackets(hint: Any) -> tuple[str, ...]:
    """Return how a value in YAML begins: a list, or a mapping where the option takes one too."""
    mapping = any(get_origin(part) is dict for part in get_args(hint))
    return ("[", "{") if mapping else ("[",)


def _is_path(hint: Any) -> bool:
    return Path in (hint, *get_args(hint), *get_args(_list_of(hint)))


def _list_of(hint: Any) -> Any | None:
    """Return `list[...]` itself or from a union such as `list[...] | None`."""
    parts = (hint, *get_args(hint))
    return next((part for part in parts if get_origin(part) is list), None)

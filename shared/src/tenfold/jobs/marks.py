"""The completion mark of one job, and the canonical JSON by which tasks and settings compare."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import PurePath, PurePosixPath
from typing import Any, cast

SCHEMA = 1


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes and SHA-256 of one written file."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Mark:
    """What a finished job wrote and returned: file names are POSIX paths relative to `out`."""

    key: str
    task: str
    settings: dict[str, Any]
    files: dict[str, FileRecord]
    result: Any

    def to_json(self) -> dict[str, Any]:
        """Return the mark as JSON; it holds no time or host, so equal jobs leave equal bytes."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_json(cls, value: Any) -> "Mark":
        """Rebuild a mark.

        Raises:
            ValueError: Another schema version, a missing field, or a file name outside `out`.
        """
        try:
            schema, key, task = value["schema"], str(value["key"]), str(value["task"])
            settings, result = dict(value["settings"]), value["result"]
            files = {name: FileRecord(**record) for name, record in value["files"].items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"a field is missing or malformed ({error!r})") from error
        if schema != SCHEMA:
            raise ValueError(f"it has schema version {schema!r}, expected {SCHEMA}")
        for name in files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts:
                raise ValueError(f"file name {name!r} leaves the output folder")
        return cls(key, task, settings, files, result)


def fingerprint(task: object, name: str) -> str:
    """Return the SHA-256 of the canonical JSON of `task`; `name` stands in errors.

    Raises:
        ValueError: A field of `task` has no canonical JSON form.
    """
    text = json.dumps(canonical(task, name), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def canonical(value: object, name: str) -> Any:
    """Return `value` as plain JSON: dataclasses become objects, paths strings, tuples lists.

    Raises:
        ValueError: A part is neither of these nor a JSON value; it is named, starting at `name`.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, PurePath):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: canonical(getattr(value, field.name), f"{name}.{field.name}")
            for field in fields(value)
        }
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        return {_text_key(key, name): canonical(item, f"{name}.{key}") for key, item in items}
    if isinstance(value, (list, tuple)):
        sequence = cast("list[object] | tuple[object, ...]", value)
        return [canonical(item, f"{name}[{index}]") for index, item in enumerate(sequence)]
    raise ValueError(
        f"{name} is {value!r} ({type(value).__name__}), expected None, bool, int, finite float, "
        "str, Path, list, tuple, mapping or dataclass: convert it first"
    )


def json_result(value: object) -> Any:
    """Return `value` after a round trip through JSON, so that first run and rerun agree.

    Raises:
        ValueError: The value is not JSON or changes on the way (a tuple, a NaN, an integer key).
    """
    try:
        back = json.loads(json.dumps(value, sort_keys=True, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"the result is not JSON ({error}): return plain values") from error
    if back != value:
        raise ValueError(
            f"the result changes in a JSON round trip (a tuple or a key that is no str?): {value!r}"
        )
    return back


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return one `key: old -> new` per setting that differs; nested settings by dotted key."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    return [
        f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def _leaves(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _leaves(cast("dict[str, Any]", value), f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value, sort_keys=True)


def _text_key(key: object, name: str) -> str:
    if not isinstance(key, str):
        raise ValueError(f"{name} has the key {key!r} ({type(key).__name__}), expected a str")
    return key

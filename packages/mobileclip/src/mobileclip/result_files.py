"""DataComp-format result files: one JSON object a line, `{"key", "dataset", "metrics"}`."""

import json
import os
from pathlib import Path
from typing import Any

from tenfold import atomic


def read_results(path: Path) -> dict[str, dict[str, Any]]:
    """Return the metrics of a result file by task key.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line is no result, or a task comes twice; names the line.
    """
    return {row["key"]: row["metrics"] for row in _read_rows(path)}


def store_result(path: Path, row: dict[str, Any]) -> None:
    """Add a result to a file, in the place of an older one of the same task, atomically.

    Raises:
        ValueError: The file holds results of another checkpoint: an average over both is of none.
    """
    rows = _rows_of(path, row["checkpoint"])
    kept = [other for other in rows if other["key"] != row["key"]]
    lines = [json.dumps(each, allow_nan=True) + "\n" for each in (*kept, row)]
    atomic.write_text(path, "".join(lines))


def require_storable(path: Path, checkpoint: str) -> None:
    """Refuse a file that `store_result` could not write, before the work of measuring.

    Raises:
        ValueError: It is a folder, cannot be written, or holds results of another checkpoint.
    """
    target = path
    while not target.exists():  # missing folders are made
        target = target.parent
    fits = target.is_file() if target == path else target.is_dir()
    # The file is replaced, so it is its folder that must be writable.
    if not fits or not os.access(target.parent if target == path else target, os.W_OK):
        raise ValueError(f"out {path} cannot be written because of {target}: name another file")
    _rows_of(path, checkpoint)


def _rows_of(path: Path, checkpoint: str) -> list[dict[str, Any]]:
    rows = _read_rows(path) if path.exists() else []
    for other in rows:
        if other.get("checkpoint", checkpoint) != checkpoint:
            raise ValueError(
                f"{path} holds results of {other['checkpoint']}, not of {checkpoint}; "
                "give each checkpoint its own file"
            )
    return rows


def _read_rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no result file {path}; the verb evaluate writes one")
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        row = _parse(line, f"{path} line {number}")
        if row["key"] in seen:
            raise ValueError(f"{path} line {number}: {row['key']} comes twice; remove one")
        seen.add(row["key"])
        rows.append(row)
    return rows


def _parse(line: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place} is not JSON: {error}") from None
    if not isinstance(row, dict) or not isinstance(row.get("key"), str):
        raise ValueError(f"{place} has no task in 'key'")
    if not isinstance(row.get("metrics"), dict):
        raise ValueError(f"{place} has no 'metrics' of {row['key']}")
    return row

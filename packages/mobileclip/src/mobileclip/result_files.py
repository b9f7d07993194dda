"""DataComp-format result files: one JSON object a line, `{"key", "dataset", "metrics"}`."""

import json
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
    rows = _read_rows(path) if path.exists() else []
    for other in rows:
        if other.get("checkpoint", row["checkpoint"]) != row["checkpoint"]:
            raise ValueError(
                f"{path} holds results of {other['checkpoint']}, not of {row['checkpoint']}; "
                "give each checkpoint its own file"
            )
    kept = [other for other in rows if other["key"] != row["key"]]
    lines = [json.dumps(each, allow_nan=True) + "\n" for each in (*kept, row)]
    atomic.write_text(path, "".join(lines))


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

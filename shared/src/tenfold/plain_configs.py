"""Dataclasses as JSON values; standard library only."""

import json
from dataclasses import asdict
from typing import Any


def plain(**configs: Any) -> dict[str, Any]:
    """Return dataclasses as JSON values: checkpoints are read without unpickling."""
    return {name: json.loads(json.dumps(asdict(c), default=str)) for name, c in configs.items()}

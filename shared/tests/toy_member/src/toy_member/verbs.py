"""The toy's own verb."""

import json
import sys
from pathlib import Path


def greet(
    names: list[str],
    out: Path,
    *,
    loud: bool = False,
    times: int = 1,
    extra: list[str] | None = None,
    sizes: list[int] | None = None,
) -> int:
    """Write a greeting.

    Args:
        names: Who is greeted.
        out: File to write.
        loud: Whether to shout.
        times: How often.
        extra: More names.
        sizes: Numbers, added up and shown.
    """
    if times < 1:
        raise ValueError(f"times must be >= 1, got {times}")
    out.write_text(json.dumps([names, loud, times, extra]))
    sys.stdout.write(f"hello {sum(sizes or [])}\n")
    return 0

"""The list of originals that could not be embedded, as JSON lines. Free of torch."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from tenfold import atomic

logger = logging.getLogger(__name__)


def note_failures(path: Path, failed: Mapping[str, str]) -> None:
    """Write id and reason of what failed and log the count; without any, remove an older list."""
    if not failed:
        path.unlink(missing_ok=True)
        return
    rows = [json.dumps({"id": id, "reason": reason}) for id, reason in failed.items()]
    atomic.write_text(path, "".join(f"{row}\n" for row in rows))
    logger.warning("%d originals failed, the first %s; see %s", len(failed), rows[0], path)

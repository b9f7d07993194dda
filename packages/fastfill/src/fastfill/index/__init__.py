"""Vector indexes under a gallery: one protocol, exact top lists, overwriting in place, snapshots.

An index is a cache of the gallery's columns and can be rebuilt from them at any time.
"""

from fastfill.index.base import (
    BACKENDS,
    Hits,
    Snapshot,
    VectorIndex,
    check_backend,
    open_index,
    rebuild,
)

__all__ = [
    "BACKENDS",
    "Hits",
    "Snapshot",
    "VectorIndex",
    "check_backend",
    "open_index",
    "rebuild",
]

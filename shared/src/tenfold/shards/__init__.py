"""Shards: webdataset tars with an index, explicit decoders, quarantine and exact resume.

Writing, indexing, random access and checking need neither torch nor webdataset; `ShardStream` and
`ShardLoader` load torch when they are first named.
"""

import importlib
from typing import TYPE_CHECKING, Any

from tenfold.shards.decoding import DecodeLimits, Decoder, default_decoders
from tenfold.shards.folders import ShardReport, index_folder, verify
from tenfold.shards.index import ShardEntry, ShardIndex, read_index, write_index
from tenfold.shards.members import TarMembers
from tenfold.shards.names import ShardError
from tenfold.shards.samples import SampleSchema
from tenfold.shards.sources import LocalSource, RemoteSource
from tenfold.shards.writing import write_shard

if TYPE_CHECKING:
    from tenfold.shards.stream import ShardLoader, ShardStream

__all__ = [
    "DecodeLimits",
    "Decoder",
    "LocalSource",
    "RemoteSource",
    "SampleSchema",
    "ShardEntry",
    "ShardError",
    "ShardIndex",
    "ShardLoader",
    "ShardReport",
    "ShardStream",
    "TarMembers",
    "default_decoders",
    "index_folder",
    "read_index",
    "verify",
    "write_index",
    "write_shard",
]


def __getattr__(name: str) -> Any:
    if name in ("ShardLoader", "ShardStream"):
        return getattr(importlib.import_module("tenfold.shards.stream"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

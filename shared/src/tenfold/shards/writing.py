"""Write one shard: an uncompressed ustar whose bytes depend on nothing but the samples.

`tarfile` rather than webdataset's `TarWriter`: the latter costs an import of torch, and its default
encoders pickle.
"""

import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from tenfold.atomic import open_atomic, sha256_file
from tenfold.shards.encoding import encode
from tenfold.shards.index import ShardEntry
from tenfold.shards.names import ShardError, member_name


def write_shard(path: Path | str, samples: Iterable[Mapping[str, Any]]) -> ShardEntry:
    """Write samples to a tar that appears under its name only when it is whole.

    Each sample maps `"__key__"` to its key and extensions to values (see `encoding`); other names
    with two leading underscores are left out, as webdataset does. Members are sorted by extension.

    Raises:
        ShardError: A key repeats or cannot be stored, a sample has no members, a value does not
            fit its extension, or there are no samples.
    """
    path = Path(path)
    keys: set[str] = set()
    with open_atomic(path) as file:
        try:
            _write_tar(file, samples, keys)
        except ShardError as error:
            raise ShardError(f"{path.name}: {error}") from error
    return ShardEntry(
        name=path.name,
        num_samples=len(keys),
        num_bytes=path.stat().st_size,
        sha256=sha256_file(path),
    )


def _write_tar(file: IO[bytes], samples: Iterable[Mapping[str, Any]], keys: set[str]) -> None:
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in samples:
            key = sample.get("__key__")
            if not isinstance(key, str):
                raise ShardError(f"a sample's '__key__' must be a str, got {key!r}")
            if key in keys:
                raise ShardError(f"key {key!r} appears twice; keys must be unique in a shard")
            _write_sample(tar, key, sample)
            keys.add(key)
    if not keys:
        raise ShardError("no samples; a shard holds at least one")


def _write_sample(tar: tarfile.TarFile, key: str, sample: Mapping[str, Any]) -> None:
    extensions = sorted(name for name in sample if not name.startswith("__"))
    if not extensions:
        raise ShardError(f"sample {key!r} has no members; give at least one extension")
    for extension in extensions:
        name = member_name(key, extension)
        try:
            data = encode(extension, sample[extension])
        except ShardError as error:
            raise ShardError(f"sample {key!r}: {error}") from error
        # A bare TarInfo has time, user and group 0 and mode 0644.
        member = tarfile.TarInfo(name)
        member.size = len(data)
        try:
            tar.addfile(member, io.BytesIO(data))
        except ValueError as error:
            raise ShardError(f"member {name!r} does not fit the ustar format: {error}") from error

"""Values to bytes by an explicit table: no pickle, and equal values give equal bytes."""

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from tenfold.shards.names import ShardError

ARRAY_KINDS = "biufcSU"
"""`numpy.dtype.kind` of arrays that may be stored: numbers, booleans and fixed-length strings."""


def encode(extension: str, value: Any) -> bytes:
    """Encode one member; bytes stay as they are.

    Raises:
        ShardError: No encoder stands for this extension, or the value does not fit it.
    """
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    encoder = ENCODERS.get(extension.rsplit(".", 1)[-1])
    if encoder is None:
        raise ShardError(
            f"no encoder for {type(value).__name__} under {extension!r}; pass bytes, "
            f"or use one of {', '.join(sorted(ENCODERS))}"
        )
    try:
        return encoder(value)
    except (TypeError, ValueError) as error:
        raise ShardError(
            f"cannot encode {type(value).__name__} as {extension!r}: {error}"
        ) from None


def _text(value: Any) -> bytes:
    if not isinstance(value, str):
        raise TypeError("expected str")
    return value.encode()


def _json(value: Any) -> bytes:
    return json.dumps(
        value, allow_nan=False, ensure_ascii=False, separators=(",", ":"), sort_keys=True
    ).encode()


def _integer(value: Any) -> bytes:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError("expected int")
    return str(int(value)).encode()


def _npy(value: Any) -> bytes:
    if not isinstance(value, np.ndarray):
        raise TypeError("expected numpy.ndarray")
    if value.dtype.kind not in ARRAY_KINDS:
        raise TypeError(f"dtype {value.dtype} is not a number, boolean or fixed-length string")
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, value, allow_pickle=False)
    return buffer.getvalue()


def _npz(value: Any) -> bytes:
    if not isinstance(value, Mapping) or not value:
        raise TypeError("expected a mapping from name to numpy.ndarray")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(value):
            # numpy.savez takes names as keyword arguments, which bars "file"; a bare ZipInfo has
            # a fixed date, so that equal arrays give equal bytes.
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), _npy(value[name]))
    return buffer.getvalue()


ENCODERS: Mapping[str, Callable[[Any], bytes]] = MappingProxyType(
    {"cls": _integer, "int": _integer, "json": _json, "npy": _npy, "npz": _npz, "txt": _text}
)
"""Extension (its part after the last dot) to encoder."""

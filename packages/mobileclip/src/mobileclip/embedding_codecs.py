"""Embeddings to bytes and back: `emb.bin`, `npz` and `pth.gz`. Nothing is ever unpickled.

`emb.bin` is ours (little-endian): a header of 16 bytes, the rows in bfloat16 (views, real captions,
synthetic captions by key), and a JSON object of the keys with their numbers of captions. A row is
found by its number, so reading one costs nothing for the others.
"""

import gzip
import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from mobileclip.embeddings import Embeddings, from_arrays
from tenfold.shards.decoding import decode_npz
from tenfold.shards.encoding import encode as encode_member
from tenfold.shards.names import ShardError

Format = Literal["emb.bin", "npz", "pth.gz"]
FORMATS: tuple[Format, ...] = get_args(Format)
"""Member names, in the order in which a reader prefers them."""

MAX_BYTES = 2**26
"""Largest size of the embeddings of one sample after expansion (published: 220 kB)."""

_HEADER = struct.Struct("<4sHHHHI")  # magic, version, width, views, real captions, bytes of keys
_MAGIC, _VERSION = b"DREB", 1
_ZIP = b"PK"  # what torch.save writes since torch 1.6; older files are plain pickle

Stored = Embeddings | Mapping[str, Tensor]
"""What a member holds: arrays of a published layout need the number of real captions."""


def encode(embeddings: Embeddings, format: Format) -> bytes:
    """Return the bytes of one member; equal embeddings give equal bytes.

    `emb.bin` and `pth.gz` are bfloat16, `npz`, which has no such type, is float32. Arrays are those
    of the new layout.

    Raises:
        ValueError: No such format.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    return _ENCODERS[format](embeddings)


def decode(data: bytes, format: Format, *, num_real: int = 1) -> Embeddings:
    """Return the embeddings of one member.

    Args:
        data: Its bytes.
        format: Its name.
        num_real: Real captions of the sample; see `embeddings.from_arrays`.

    Raises:
        ValueError: The bytes are damaged, too large, or hold anything but tensors.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    return resolve(DECODERS[format](data), num_real=num_real)


def resolve(stored: Stored, *, num_real: int) -> Embeddings:
    """Return embeddings of what a decoder gave."""
    if isinstance(stored, Embeddings):
        return stored
    return from_arrays(stored, num_real=num_real)


def encode_emb_bin(embeddings: Embeddings) -> bytes:
    """Return the bytes of `emb.bin`."""
    counts = {key: len(rows) for key, rows in sorted(embeddings.synthetic.items())}
    keys = json.dumps(counts, separators=(",", ":")).encode()
    sizes = embeddings.width, len(embeddings.image), len(embeddings.text)
    if max(sizes) > 0xFFFF:
        raise ValueError(f"width and rows must be below 65,536 for emb.bin, got {sizes}")
    rows = torch.cat([table.to(torch.bfloat16) for _, table in embeddings.tables()])
    header = _HEADER.pack(_MAGIC, _VERSION, *sizes, len(keys))
    return header + rows.contiguous().view(torch.int16).numpy().tobytes() + keys


def decode_emb_bin(data: bytes | bytearray) -> Embeddings:
    """Return embeddings whose arrays are windows on one buffer.

    Raises:
        ValueError: The bytes are no `emb.bin`, or are cut short.
    """
    if len(data) < _HEADER.size:
        raise ValueError(f"emb.bin has {len(data)} bytes, its header alone has {_HEADER.size}")
    magic, version, width, views, real, key_bytes = _HEADER.unpack_from(data)
    if (magic, version) != (_MAGIC, _VERSION):
        raise ValueError(f"no emb.bin of version {_VERSION}: it begins with {bytes(data[:6])!r}")
    row_bytes = len(data) - _HEADER.size - key_bytes
    counts = _counts(data[len(data) - key_bytes :]) if row_bytes >= 0 else {}
    sizes = [views, real, *counts.values()]
    if row_bytes != 2 * width * sum(sizes) or not width:
        raise ValueError(
            f"emb.bin says {sum(sizes)} rows of {width} bfloat16, {row_bytes} bytes are there: "
            "it is damaged"
        )
    # torch wants memory that may be written to: bytes are copied once, which costs microseconds.
    buffer = data if isinstance(data, bytearray) else bytearray(data)
    flat = torch.frombuffer(
        buffer, dtype=torch.bfloat16, offset=_HEADER.size, count=width * sum(sizes)
    )
    image, text, *rest = flat.view(-1, width).split(sizes)
    return Embeddings(image=image, text=text, synthetic=dict(zip(counts, rest, strict=True)))


def encode_npz(embeddings: Embeddings) -> bytes:
    """Return an uncompressed archive of float32 arrays."""
    arrays = {name: table.to(torch.float32).numpy() for name, table in embeddings.tables()}
    return encode_member("npz", arrays)


def decode_arrays_npz(data: bytes) -> dict[str, Tensor]:
    """Return the arrays of an archive; object arrays are refused.

    Raises:
        ValueError: The bytes are damaged or too large when expanded.
    """
    try:
        arrays = decode_npz(data, max_bytes=MAX_BYTES)
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, NotImplementedError) as error:
        raise ValueError(f"npz is damaged: {error}") from error
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def encode_pth_gz(embeddings: Embeddings) -> bytes:
    """Return a gzipped `torch.save` of bfloat16 tensors."""
    # Cloned, or the whole storage behind each window would be saved with it.
    arrays = {name: table.to(torch.bfloat16).clone() for name, table in embeddings.tables()}
    buffer = io.BytesIO()
    torch.save(arrays, buffer)
    return gzip.compress(buffer.getvalue(), mtime=0)


def decode_arrays_pth_gz(data: bytes) -> dict[str, Tensor]:
    """Return the tensors of a gzipped `torch.save`, loaded with `weights_only`.

    Raises:
        ValueError: The bytes are damaged, too large when expanded, or hold anything but tensors.
    """
    expander = zlib.decompressobj(wbits=31)
    try:
        raw = expander.decompress(data, MAX_BYTES)
        if not expander.eof:
            reason = f"more than {MAX_BYTES} bytes" if len(raw) == MAX_BYTES else "cut short"
            raise ValueError(f"pth.gz is {reason}")
        if not raw.startswith(_ZIP):
            raise ValueError("pth.gz holds no archive of torch.save")
        content = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    except (zlib.error, pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        reason = " ".join(str(error).split()).partition(". ")[0]
        raise ValueError(f"pth.gz holds no plain tensors: {reason}") from error
    if not isinstance(content, dict) or not all(isinstance(t, Tensor) for t in content.values()):
        raise ValueError("pth.gz must hold a dict of tensors")
    return content


_ENCODERS: dict[Format, Callable[[Embeddings], bytes]] = {
    "emb.bin": encode_emb_bin,
    "npz": encode_npz,
    "pth.gz": encode_pth_gz,
}
DECODERS: dict[Format, Callable[[bytes], Stored]] = {
    "emb.bin": decode_emb_bin,
    "npz": decode_arrays_npz,
    "pth.gz": decode_arrays_pth_gz,
}
"""Member names to decoders, for `tenfold.shards.SampleSchema`."""


def _counts(data: bytes | bytearray) -> dict[str, int]:
    try:
        counts: Any = json.loads(bytes(data))
    except ValueError as error:
        raise ShardError(f"emb.bin ends without its keys: {error}") from error
    if not isinstance(counts, dict) or not all(
        isinstance(count, int) and count >= 0 for count in counts.values()
    ):
        raise ShardError(f"emb.bin must end with keys and counts, got {counts}")
    return counts

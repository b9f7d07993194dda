"""Bytes to values by an explicit table; sizes are checked before anything is expanded.

Nothing is unpickled or executed, whatever a member is called. webdataset's own decoders are never
used: they unpickle `pkl`, `pickle`, `pyd` and load `pth` as code.
"""

import io
import json
import math
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from tenfold.shards.encoding import ARRAY_KINDS
from tenfold.shards.names import PICKLE_EXTENSIONS, ShardError

Decoder = Callable[[bytes], Any]


@dataclass(frozen=True)
class DecodeLimits:
    """Upper bounds against decompression bombs and runaway members.

    Attributes:
        max_pixels: Width times height of an image, read from its header.
        max_text_bytes: Size of a `txt` or `json` member.
        max_bytes: Size of any member, and of all arrays of one `npz` after expansion.
    """

    max_pixels: int = 2**26
    max_text_bytes: int = 2**24
    max_bytes: int = 2**28

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")


def default_decoders(limits: DecodeLimits | None = None) -> dict[str, Decoder]:
    """Return the table from extension to decoder; extend it by adding to the dict.

    Images become RGB `uint8` arrays `[height, width, 3]`, `txt` a str, `json` plain values,
    `npy` an array, `npz` a dict of arrays, `cls` and `int` an int.
    """
    limits = limits or DecodeLimits()
    image = partial(decode_image, max_pixels=limits.max_pixels)
    return {
        **dict.fromkeys(("jpeg", "jpg", "png", "webp"), image),
        "cls": decode_integer,
        "int": decode_integer,
        "json": partial(decode_json, max_bytes=limits.max_text_bytes),
        "npy": partial(decode_npy, max_bytes=limits.max_bytes),
        "npz": partial(decode_npz, max_bytes=limits.max_bytes),
        "txt": partial(decode_text, max_bytes=limits.max_text_bytes),
    }


def find_decoder(extension: str, decoders: Mapping[str, Decoder]) -> Decoder:
    """Look up `seg.png`, then `png`.

    Raises:
        ShardError: The table has neither.
    """
    last = extension.rsplit(".", 1)[-1]
    decoder = decoders.get(extension) or decoders.get(last)
    if decoder is not None:
        return decoder
    if last in PICKLE_EXTENSIONS:
        why = "pickled data can run code and is never read"
    elif last.lower() in decoders:
        why = f"extensions are lower case: {last.lower()!r}"
    else:
        why = f"known are {', '.join(sorted(decoders))}"
    raise ShardError(f"extension {extension!r} is not in the decoder table; {why}")


def decode(extension: str, data: bytes, decoders: Mapping[str, Decoder]) -> Any:
    """Decode one member.

    Raises:
        ShardError: No decoder stands for the extension, or the data is bad or too large.
    """
    decoder = find_decoder(extension, decoders)
    try:
        return decoder(data)
    except ShardError:
        raise
    except Exception as error:  # Codecs raise whatever they like on bad data, SyntaxError included.
        reason = " ".join(str(error).split()) or "no reason given"
        raise ShardError(f"cannot decode: {type(error).__name__}: {reason}") from error


def decode_image(data: bytes, *, max_pixels: int) -> np.ndarray:
    """Decode JPEG, PNG or WebP to RGB `uint8` `[height, width, 3]`."""
    with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP")) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise ShardError(f"image of {width} x {height} has more than {max_pixels} pixels")
        if image.mode.startswith(("I", "F")):
            # PIL clips these to 255 when converting, which turns the image white in silence.
            raise ShardError(f"image mode {image.mode} has more than 8 bits a channel")
        if image.mode == "P" and "transparency" in image.info:
            return np.array(image.convert("RGBA").convert("RGB"))
        return np.array(image.convert("RGB"))


def decode_text(data: bytes, *, max_bytes: int) -> str:
    """Decode UTF-8 text."""
    _check_size("text", len(data), max_bytes)
    return data.decode()


def decode_json(data: bytes, *, max_bytes: int) -> Any:
    """Decode UTF-8 JSON to plain values."""
    _check_size("json", len(data), max_bytes)
    return json.loads(data.decode())


def decode_integer(data: bytes) -> int:
    """Decode a decimal integer of at most 20 characters."""
    _check_size("integer", len(data), 20)
    return int(data.decode("ascii"))


def decode_npy(data: bytes, *, max_bytes: int) -> np.ndarray:
    """Decode one array after checking that its header agrees with the size of the data."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ShardError(f"npy version {version} is not 1.0 or 2.0")
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    shape, _, dtype = read(stream)
    if dtype.kind not in ARRAY_KINDS or dtype.itemsize == 0:
        raise ShardError(f"npy dtype {dtype} is refused; allowed kinds are {ARRAY_KINDS!r}")
    expected = math.prod(shape) * dtype.itemsize
    _check_size("array", expected, max_bytes)
    if min(shape, default=0) < 0 or expected != len(data) - stream.tell():
        raise ShardError(
            f"npy header says {expected} bytes {shape}, {len(data) - stream.tell()} follow"
        )
    stream.seek(0)
    return np.load(stream, allow_pickle=False)


def decode_npz(data: bytes, *, max_bytes: int) -> dict[str, np.ndarray]:
    """Decode the arrays of an `npz`; their expanded sizes are checked in the directory first."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        _check_size("npz", sum(member.file_size for member in members), max_bytes)
        names = [member.filename for member in members]
        if len(set(names)) != len(names) or not all(name.endswith(".npy") for name in names):
            raise ShardError(f"npz members must be distinct .npy files, got {names[:5]}")
        return {
            member.filename.removesuffix(".npy"): decode_npy(
                archive.read(member), max_bytes=max_bytes
            )
            for member in members
        }


def _check_size(what: str, size: int, limit: int) -> None:
    if size > limit:
        raise ShardError(f"{what} of {size} bytes is over the limit of {limit}")

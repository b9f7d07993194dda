"""Read the samples of a shard for generation; each bad one is told apart and shifts no other."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

from mobileclip.images import IMAGE_EXTENSIONS, ImageError, decode_image
from mobileclip.members import real_captions, uid_of
from tenfold.shards import TarMembers

S = TypeVar("S")


class BadPairError(ValueError):
    """A sample that nothing can be generated for; the message says why."""


class Skipped(NamedTuple):
    """A sample that is left out, and why."""

    key: str
    reason: str


@dataclass(frozen=True, eq=False, kw_only=True)
class Pair:
    """One image with its captions, without its pixels.

    Attributes:
        key: In the tar.
        uid: Keys all draws.
        members: Extension to bytes, as read.
        about: Content of the `json` member, empty without one.
        image_sha256: Hex digest of the encoded image.
        captions: Real captions, at least one with text.
    """

    key: str
    uid: str
    members: dict[str, bytes]
    about: dict[str, Any]
    image_sha256: str
    captions: tuple[str, ...]


def read_pair(tar: TarMembers, key: str) -> tuple[Pair, Tensor]:
    """Read one sample, and the pixels of its image, uint8 `[3, H, W]`.

    Raises:
        BadPairError: Image or caption is missing or damaged, or no real caption has text.
    """
    members = {extension: tar.read(key, extension) for extension in tar.extensions(key)}
    found = next((name for name in IMAGE_EXTENSIONS if name in members), None)
    if found is None or "txt" not in members:
        lacks = "no image" if found is None else "no txt"
        raise BadPairError(f"{lacks} among its members {', '.join(sorted(members))}")
    about = read_json(members, "json") if "json" in members else {}
    try:
        captions = real_captions(members["txt"].decode())
        image = decode_image(members[found])
    except UnicodeDecodeError as error:
        raise BadPairError(f"txt is not UTF-8: {error}") from error
    except ImageError as error:
        raise BadPairError(f"{found}: {error}") from error
    if not any(caption.strip() for caption in captions):
        raise BadPairError("captions: the real caption is empty")
    pair = Pair(
        key=key,
        uid=uid_of(key, about),
        members=members,
        about=about,
        image_sha256=hashlib.sha256(members[found]).hexdigest(),
        captions=captions,
    )
    return pair, image


def read_json(members: dict[str, bytes], extension: str) -> dict[str, Any]:
    """Return a member that is a JSON object.

    Raises:
        BadPairError: It is something else.
    """
    try:
        value = json.loads(members[extension])
    except ValueError as error:
        raise BadPairError(f"{extension} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadPairError(f"{extension} must be a JSON object, got {type(value).__name__}")
    return value


def usable(
    keys: Iterable[str], read: Callable[[str], S], skipped: list[Skipped], *, threads: int
) -> Iterator[S]:
    """Yield what `read` makes of the keys, in order, without those that raise `BadPairError`.

    Args:
        keys: Samples of a shard.
        read: Runs in a thread of its own, some samples ahead, where there are several threads.
        skipped: Gets what was left out.
        threads: Number of threads.
    """

    def attempt(key: str) -> S | Skipped:
        try:
            return read(key)
        except BadPairError as error:
            return Skipped(key, str(error))

    for result in _in_order(attempt, keys, threads):
        if isinstance(result, Skipped):
            skipped.append(result)
        else:
            yield result


def _in_order(function: Callable[[str], S], keys: Iterable[str], threads: int) -> Iterator[S]:
    if threads == 1:
        yield from map(function, keys)
        return
    with ThreadPoolExecutor(threads) as pool:
        running: list[Future[S]] = []
        try:
            for key in keys:
                running.append(pool.submit(function, key))
                if len(running) > 2 * threads:
                    yield running.pop(0).result()
            while running:
                yield running.pop(0).result()
        finally:
            pool.shutdown(cancel_futures=True)

"""Member names: how `key.extension` splits, and which names no shard may hold.

The split is webdataset's: the key ends at the first dot after the last slash, so `a/b.seg.png` is
the member `seg.png` of the sample `a/b`. A key is only ever a name; no path is built from it.
"""

import re

_SAFE = re.compile(r"[A-Za-z0-9._/-]+")
_KEY_AND_EXTENSION = re.compile(r"((?:.*/|)[^./]+)[.]([^/]+)")
_METADATA = re.compile(r"__[^/]*__($|/)")

PICKLE_EXTENSIONS = frozenset({"ckpt", "dill", "joblib", "pickle", "pkl", "pt", "pth", "pyd"})
"""Extensions whose usual readers execute code; never written, never decoded."""


class ShardError(ValueError):
    """A shard, an index or a sample breaks the rules; the message is one line that names it."""


def unsafe_name(name: str) -> str | None:
    """Say what is wrong with a relative POSIX name, or return None."""
    if not _SAFE.fullmatch(name):
        return "has characters outside [A-Za-z0-9._/-]"
    if name.startswith("/"):
        return "is an absolute path"
    if ".." in name.split("/"):
        return "climbs out of its folder with '..'"
    return None


def is_metadata(name: str) -> bool:
    """Tell whether webdataset readers skip this member (`__name__`, `__folder__/...`)."""
    return _METADATA.match(name) is not None


def split_name(name: str) -> tuple[str, str]:
    """Split a member's name into sample key and extension.

    Raises:
        ShardError: The name is unsafe or has no key or no extension.
    """
    reason = unsafe_name(name)
    match = _KEY_AND_EXTENSION.fullmatch(name)
    if reason is None and match is None:
        reason = "is not of the form key.extension"
    if reason is not None or match is None:
        raise ShardError(f"member {name!r} {reason}")
    return match.group(1), match.group(2)


def member_name(key: str, extension: str) -> str:
    """Join a sample key and an extension, making sure that readers will split them again.

    Raises:
        ShardError: The key or the extension cannot stand in a shard.
    """
    name = f"{key}.{extension}"
    if split_name(name) != (key, extension):
        raise ShardError(f"key {key!r} has a dot in its last part; readers would cut it there")
    if is_metadata(name):
        raise ShardError(f"key {key!r} is skipped by readers: '__...__' names are metadata")
    if extension != extension.lower():
        raise ShardError(f"extension {extension!r} must be lower case")
    if extension.split(".")[-1] in PICKLE_EXTENSIONS:
        raise ShardError(f"extension {extension!r} means pickle; store npy, npz or json instead")
    return name

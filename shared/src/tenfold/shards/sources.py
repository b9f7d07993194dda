"""Where the files of an index are: in its own folder, or remote and fetched into a cache.

Only the schemes named here are opened. `pipe:` runs a shell command and needs `allow_pipe=True`.
"""

import fcntl
import logging
import shutil
from pathlib import Path
from urllib.parse import urlsplit

from tenfold.atomic import open_atomic, sha256_file
from tenfold.shards.index import ShardEntry, ShardIndex
from tenfold.shards.names import ShardError

logger = logging.getLogger(__name__)

REMOTE_SCHEMES = ("gs", "hf", "http", "https")


class LocalSource:
    """Shards that lie beside their index."""

    def __init__(self, index: ShardIndex) -> None:
        """Check that the files are there.

        Raises:
            FileNotFoundError: Some are not.
        """
        self.index = index
        absent = [entry.name for entry in index.entries if not self.path(entry).is_file()]
        if absent:
            raise FileNotFoundError(
                f"{index.folder}: {len(absent)} of {len(index.entries)} shards of the index are "
                f"missing, first {absent[0]}; restore them or index the folder anew"
            )

    def path(self, entry: ShardEntry) -> Path:
        """Return where a shard lies."""
        return self.index.folder / entry.name


class RemoteSource:
    """Shards that are fetched whole, checked against the index and kept in a cache folder.

    Nothing is evicted: the cache grows to the size of the data that is read.
    """

    def __init__(
        self, index: ShardIndex, *, root: str, cache: Path | str, allow_pipe: bool = False
    ) -> None:
        """Read the shards of `index` from `root`, an address that contains `{name}`.

        `https://host/data/{name}`, `gs://bucket/{name}`, `hf://datasets/owner/data/{name}`, or with
        `allow_pipe` a command such as `pipe:aws s3 cp s3://bucket/{name} -`.

        Raises:
            ValueError: The scheme is not allowed, or `{name}` is missing.
        """
        scheme = urlsplit(root).scheme
        if scheme == "pipe" and not allow_pipe:
            raise ValueError(f"{root!r} runs a shell command; pass allow_pipe=True if you trust it")
        if scheme not in (*REMOTE_SCHEMES, "pipe"):
            raise ValueError(
                f"scheme {scheme!r} of {root!r} is not one of {', '.join(REMOTE_SCHEMES)}; for a "
                "local folder pass the folder itself"
            )
        if "{name}" not in root:
            raise ValueError(f"root must contain '{{name}}' where the shard's name goes: {root!r}")
        self.index = index
        self.root = root
        self.cache = Path(cache)

    def path(self, entry: ShardEntry) -> Path:
        """Return the cached file of a shard, fetching it first where needed.

        Raises:
            ShardError: The fetched file differs from the index.
        """
        path = self.cache / entry.sha256[:2] / f"{entry.sha256}.tar"
        if path.is_file():
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_suffix(".lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.is_file():
                self._fetch(entry, path)
        return path

    def _fetch(self, entry: ShardEntry, path: Path) -> None:
        from webdataset.gopen import gopen_schemes  # Costs an import of torch.

        url = self.root.replace("{name}", entry.name)
        logger.info("fetching %s", url)
        with open_atomic(path) as file:
            # The handler itself rather than gopen(), which lets an environment variable rewrite
            # an allowed address into a `pipe:` one.
            with gopen_schemes[urlsplit(self.root).scheme](url, "rb") as stream:
                shutil.copyfileobj(stream, file, 2**20)
            file.flush()
            size, digest = file.tell(), sha256_file(file.name)
            if (size, digest) != (entry.num_bytes, entry.sha256):
                raise ShardError(
                    f"{url}: got {size} bytes with sha256 {digest[:12]}, the index says "
                    f"{entry.num_bytes} bytes with {entry.sha256[:12]}"
                )

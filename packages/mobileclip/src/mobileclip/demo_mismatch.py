"""A copy of reinforced shards in which pixels and stored embeddings are of different views."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mobileclip.members import stored_views
from mobileclip.schema import read_info, write_info
from tenfold.shards import TarMembers, read_index, write_index, write_shard


def shuffle_views(shards: Path, out: Path) -> None:
    """Write the shards with each sample's view parameters moved on by one view.

    What a reader replays then is never the view whose embedding stands beside it.
    """
    if (out / "index.json").exists():
        return
    out.mkdir(parents=True, exist_ok=True)
    index = read_index(shards)
    entries = [
        write_shard(out / entry.name, _moved(TarMembers(shards / entry.name)))
        for entry in index.entries
    ]
    write_info(out, read_info(shards))
    write_index(out, entries, **index.metadata)


def _moved(tar: TarMembers) -> Iterator[dict[str, Any]]:
    for key in tar.keys:
        sample: dict[str, Any] = {
            extension: tar.read(key, extension) for extension in tar.extensions(key)
        }
        views = stored_views(json.loads(sample["paug.json"]))
        yield {"__key__": key, **sample, "paug.json": {"param_aug": [*views[1:], views[0]]}}

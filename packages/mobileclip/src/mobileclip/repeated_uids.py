"""Which samples have the uid of another one? Their views are drawn alike.

Keeps eight bytes a sample. Free of torch.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobileclip.uid_table import UidTable, hash_uids, sample_uid
from tenfold.shards import TarMembers


class RepeatedUids:
    """Collects the uids of tars."""

    def __init__(self) -> None:
        self._tars: list[Path] = []
        self._hashes: list[NDArray[np.uint64]] = []

    def add(self, members: TarMembers) -> None:
        """Read the uids of one tar."""
        self._tars.append(members.path)
        self._hashes.append(hash_uids([_uid(members, key) for key in members.keys]))

    def lines(self) -> Iterator[str]:
        """Yield a warning that counts samples and names one uid with its tars, if there are any."""
        table = UidTable.build(self._hashes)
        places = table.first_repeated()
        if places is None:
            return
        (first, sample), (second, _) = places
        members = TarMembers(self._tars[first])
        uid = _uid(members, members.keys[sample])
        members.close()
        yield (
            f"warning: samples with the uid of another one: {table.num_repeated:,}, such as {uid} "
            f"in {self._tars[first]} and {self._tars[second]}; their views are drawn alike"
        )


def _uid(members: TarMembers, key: str) -> str:
    try:
        return sample_uid(members, key)
    except ValueError:  # a damaged `json`, of which `verify` tells; what is counted here is uids
        return key

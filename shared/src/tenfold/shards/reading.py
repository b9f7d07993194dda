"""Read any sample of an index; a bad one is quarantined and replaced by another of its shard."""

from collections import OrderedDict
from typing import Any

from tenfold.shards.index import ShardEntry
from tenfold.shards.members import TarMembers
from tenfold.shards.names import ShardError
from tenfold.shards.order import GlobalOrder, Place
from tenfold.shards.quarantine import Quarantine
from tenfold.shards.samples import BadSampleError, SampleSchema, UnwantedSampleError
from tenfold.shards.sources import LocalSource, RemoteSource


class ShardReader:
    """Samples by place, with a bounded number of open shards."""

    def __init__(
        self,
        source: LocalSource | RemoteSource,
        schema: SampleSchema,
        order: GlobalOrder,
        quarantine: Quarantine,
    ) -> None:
        """Read the samples of `source` as `schema` says."""
        self._source = source
        self._schema = schema
        self._order = order
        self._quarantine = quarantine
        # Two blocks of the order, for a batch that lies on the border of both.
        self._capacity = 2 * order.mix_shards
        self._open: OrderedDict[int, TarMembers] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_open": OrderedDict()}

    def read(self, place: Place) -> dict[str, Any]:
        """Return the sample at a place, or the substitute that stands there in every process.

        `__key__` and `__shard__` tell where the sample is from.

        Raises:
            ShardError: The shard has no good sample, is not the one that was indexed, or holds a
                hostile member; or too many samples are bad.
        """
        try:
            return self._read(place.shard, place.sample)
        except BadSampleError as error:
            if not isinstance(error, UnwantedSampleError):
                self._record(place, error)
            return self._substitute(place, error)

    def _substitute(self, place: Place, first: BadSampleError) -> dict[str, Any]:
        for sample in self._order.substitutes(place):
            try:
                return self._read(place.shard, sample)
            except BadSampleError:
                continue  # It is recorded when its own turn comes.
        raise ShardError(f"{self._entry(place.shard).name}: no good sample at all; {first}")

    def _read(self, shard: int, sample: int) -> dict[str, Any]:
        members = self._members(shard)
        if sample >= len(members):
            count = f"the index says {self._entry(shard).num_samples} samples"
            raise BadSampleError(
                f"missing: {count}, the shard holds {len(members)}"
                + (f"; {members.damage}" if members.damage else "")
            )
        read = self._schema.read(members, members.keys[sample])
        return {**read, "__shard__": self._entry(shard).name}

    def _record(self, place: Place, error: BadSampleError) -> None:
        keys = self._members(place.shard).keys
        self._quarantine.record(
            shard=self._entry(place.shard).name,
            sample=place.sample,
            key=keys[place.sample] if place.sample < len(keys) else None,
            member=error.member,
            reason=error.reason,
        )

    def _members(self, shard: int) -> TarMembers:
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        while len(self._open) >= self._capacity:
            self._open.popitem(last=False)
        members = self._open[shard] = self._open_shard(self._entry(shard))
        return members

    def _open_shard(self, entry: ShardEntry) -> TarMembers:
        members = TarMembers(self._source.path(entry), strict=False)
        changed = members.damage is None and members.num_bytes != entry.num_bytes
        if changed or len(members) > entry.num_samples:
            raise ShardError(
                f"{members.path}: {members.num_bytes} bytes and {len(members)} samples, the index "
                f"says {entry.num_bytes} and {entry.num_samples}: the shard was written again "
                "since; index the folder anew"
            )
        return members

    def _entry(self, shard: int) -> ShardEntry:
        return self._source.index.entries[shard]

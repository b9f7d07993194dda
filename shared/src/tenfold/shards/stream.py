"""The training reader: equal batches for every rank, any number of workers, exact resume.

Step t of rank r takes positions `t * W * B + r * B ... + B` of the global sequence (`order`), for W
ranks of B samples; worker w of n makes the steps t = w, w + n, ... of its rank, which is the order
in which a DataLoader asks its workers. What a run sees therefore depends on neither the number of
workers nor on where it was interrupted, and a run that goes on with other ranks goes on at the same
position.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from tenfold.shards.index import ShardIndex, read_index
from tenfold.shards.names import ShardError
from tenfold.shards.order import GlobalOrder
from tenfold.shards.quarantine import Quarantine
from tenfold.shards.reading import ShardReader
from tenfold.shards.samples import SampleSchema
from tenfold.shards.sources import LocalSource, RemoteSource

logger = logging.getLogger(__name__)

_STATE_VERSION = 1
Batch = list[dict[str, Any]]


class ShardStream(IterableDataset[Batch]):
    """Batches of decoded samples, each batch a list of dicts; give it to a `ShardLoader`.

    Beside its fields a sample has `__key__`, `__shard__` and `__position__`, the absolute position
    in the sequence: with the seed a unique key for augmentation that survives resume.

    With `repeat` the sequence is endless and batches run across the borders of epochs; one
    iteration yields `len(self)` batches and the next goes on from there. Without, one iteration is
    the rest of one epoch: its last batch may be smaller, and of what then remains fewer samples
    than there are ranks are left out, so that ranks always get equal numbers.
    """

    def __init__(
        self,
        source: Path | str | ShardIndex | LocalSource | RemoteSource,
        schema: SampleSchema,
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        mix_shards: int = 8,
        repeat: bool = True,
        num_batches: int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        max_bad_fraction: float = 0.01,
        quarantine: Path | str | None = None,
    ) -> None:
        """Open the shards of a folder with an index, of an index, or of a source.

        `batch_size` is per rank. `mix_shards` shards are shuffled together. `num_batches` is the
        length of one iteration on each rank with `repeat`; by default about one epoch. Rank and
        world size default to those of the process group. `quarantine` defaults to
        `quarantine.jsonl` beside the index.

        Raises:
            FileNotFoundError: The index or shards of it are missing.
            ValueError: An argument is out of range.
        """
        self.source = _open_source(source)
        index = self.source.index
        self.rank, self.world_size = _resolve_ranks(rank, world_size)
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if num_batches is not None and (num_batches < 1 or not repeat):
            raise ValueError(f"num_batches must be at least 1 and needs repeat, got {num_batches}")
        if not repeat and index.num_samples < self.world_size:
            raise ValueError(f"{index.num_samples} samples are too few for {world_size} ranks")
        self.batch_size, self.repeat = batch_size, repeat
        self.order = GlobalOrder(
            [entry.num_samples for entry in index.entries],
            seed=seed,
            shuffle=shuffle,
            mix_shards=mix_shards,
        )
        self.quarantine = Quarantine(
            quarantine or index.folder / "quarantine.jsonl",
            data=index.sha256,
            num_samples=index.num_samples,
            max_bad_fraction=max_bad_fraction,
        )
        self.reader = ShardReader(self.source, schema, self.order, self.quarantine)
        self.position = 0
        self.has_loader = False
        self._num_batches = num_batches or max(1, index.num_samples // self._global_batch)

    @property
    def _global_batch(self) -> int:
        return self.batch_size * self.world_size

    def __len__(self) -> int:
        """Return the batches of one iteration on this rank, from the start of an epoch."""
        return self._num_batches if self.repeat else self._num_steps(0)

    def __iter__(self) -> Iterator[Batch]:
        """Yield this rank's batches from the current position on; the position moves along."""
        worker = get_worker_info()
        if worker is not None and not self.has_loader:
            raise RuntimeError(
                "with workers use ShardLoader, not DataLoader: it keeps the position"
            )
        first, stride = (0, 1) if worker is None else (worker.id, worker.num_workers)
        start = self.start()
        for step in range(first, self._num_steps(start), stride):
            if worker is None:
                self.position = self.position_after(start, step)
            begin, count = self._slice(start, step)
            yield [self._sample(position) for position in range(begin, begin + count)]

    def _sample(self, position: int) -> dict[str, Any]:
        sample = self.reader.read(self.order.locate(position))
        return {**sample, "__position__": position}

    def _epoch_end(self, start: int) -> int:
        return (start // self.order.num_samples + 1) * self.order.num_samples

    def _num_steps(self, start: int) -> int:
        if self.repeat:
            return self._num_batches
        full, tail = divmod(self._epoch_end(start) - start, self._global_batch)
        return full + (tail >= self.world_size)

    def _slice(self, start: int, step: int) -> tuple[int, int]:
        """Return the first position and the number of samples of one step on this rank."""
        begin, count = start + step * self._global_batch, self.batch_size
        if not self.repeat:
            count = min(count, (self._epoch_end(start) - begin) // self.world_size)
        return begin + self.rank * count, count

    def start(self) -> int:
        """Return where an iteration begins: here, or at the next epoch if too little is left."""
        return self.position if self._num_steps(self.position) else self._epoch_end(self.position)

    def position_after(self, start: int, step: int) -> int:
        """Return the position after step `step` of an iteration that began at `start`."""
        if not self.repeat and step + 1 >= self._num_steps(start):
            return self._epoch_end(start)
        return start + (step + 1) * self._global_batch

    def fingerprint(self) -> dict[str, Any]:
        """Return everything that determines the global sequence."""
        return {
            "shards": len(self.source.index.entries),
            "samples": self.order.num_samples,
            "sha256": self.source.index.sha256,
            "seed": self.order.seed,
            "shuffle": self.order.shuffle,
            "mix_shards": self.order.mix_shards,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the position after the latest batch taken; the same on every rank."""
        epoch, position = divmod(self.position, self.order.num_samples)
        return {
            "version": _STATE_VERSION,
            "epoch": epoch,
            "position": position,
            "fingerprint": self.fingerprint(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on at a saved position from the next iteration on; rank and worker counts may differ.

        Raises:
            ValueError: The state is of another version, or of another sequence.
        """
        if state.get("version") != _STATE_VERSION:
            raise ValueError(
                f"stream state has version {state.get('version')}, expected {_STATE_VERSION}"
            )
        saved, own = state["fingerprint"], self.fingerprint()
        differences = [
            f"{name}: {saved.get(name)} -> {own.get(name)}"
            for name in own
            if saved.get(name) != own[name]
        ]
        if differences:
            raise ValueError(
                "cannot resume: the saved stream read other data or another order "
                f"(saved -> now): {', '.join(differences)}"
            )
        self.position = int(state["epoch"]) * self.order.num_samples + int(state["position"])


class ShardLoader(DataLoader[Batch]):
    """A DataLoader for one `ShardStream` whose state is that of the batches handed out so far.

    Workers run ahead; their batches that nobody took are made again after a resume. `collate_fn`
    gets the list of samples of a batch.
    """

    def __init__(self, dataset: ShardStream, **options: Any) -> None:
        """Take DataLoader's options, except those that choose or order samples.

        Raises:
            ValueError: `batch_size` is given here, or `persistent_workers`: workers that stay
                would not hear of the position at which an iteration starts.
        """
        if options.pop("batch_size", None) is not None:
            raise ValueError("batch_size belongs to the ShardStream, leave it out of ShardLoader")
        if options.get("persistent_workers"):
            raise ValueError(
                "persistent_workers=True is not supported; raise num_batches of the ShardStream to "
                "start workers less often"
            )
        super().__init__(dataset, batch_size=None, **options)
        self.stream = dataset
        dataset.has_loader = True

    def __iter__(self) -> Iterator[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Yield collated batches and keep the stream's position.

        Raises:
            ShardError: As in `ShardReader.read`, on one line also when a worker raised it.
            ValueError: The process group has another rank or size than the stream.
        """
        _check_ranks(self.stream)
        start = self.stream.start()
        try:
            for step, batch in enumerate(super().__iter__()):
                self.stream.position = self.stream.position_after(start, step)
                yield batch
        except ShardError as error:
            # A worker's error comes with its traceback in the message.
            line = str(error).strip().splitlines()[-1]
            # Its traceback is in a cycle with torch's iterator, which would end its workers late.
            error.__traceback__ = None
            name = f"{ShardError.__module__}.{ShardError.__qualname__}: "
            raise ShardError(line.removeprefix(name)) from None

    def state_dict(self) -> dict[str, Any]:
        """Return the stream's state after the latest batch taken from this loader."""
        return self.stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on at a saved position; see `ShardStream.load_state_dict`."""
        self.stream.load_state_dict(state)


def _open_source(
    source: Path | str | ShardIndex | LocalSource | RemoteSource,
) -> LocalSource | RemoteSource:
    if isinstance(source, (LocalSource, RemoteSource)):
        return source
    index = source if isinstance(source, ShardIndex) else read_index(source)
    return LocalSource(index)


def _resolve_ranks(rank: int | None, world_size: int | None) -> tuple[int, int]:
    if (rank is None) != (world_size is None):
        raise ValueError(f"give both rank and world_size or neither, got {rank} and {world_size}")
    if rank is None or world_size is None:
        grouped = dist.is_available() and dist.is_initialized()
        rank, world_size = (dist.get_rank(), dist.get_world_size()) if grouped else (0, 1)
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be in [0, {world_size}), got {rank}")
    return rank, world_size


def _check_ranks(stream: ShardStream) -> None:
    """Catch a stream made before the process group: every rank would read the same samples."""
    if not (dist.is_available() and dist.is_initialized()):
        return
    actual = (dist.get_rank(), dist.get_world_size())
    if actual != (stream.rank, stream.world_size):
        raise ValueError(
            f"the stream was made for rank {stream.rank} of {stream.world_size}, the process group "
            f"has rank {actual[0]} of {actual[1]}; make the stream after init_process_group"
        )

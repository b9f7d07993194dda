"""Training batches of stored pairs: which view and captions, their pixels, tokens and teacher rows.

What is drawn for a sample depends on seed, epoch and uid alone, so neither on workers or ranks nor
on where a run was interrupted.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mobileclip.pairs import Pair, pair_schema
from mobileclip.reader_config import ReaderConfig
from mobileclip.replay import Replay
from mobileclip.schema import ReinforcementInfo
from mobileclip.size_filter import SizeFilter
from mobileclip.tokenizer import tokenize
from tenfold import keyed
from tenfold.shards import ShardIndex, ShardLoader, ShardStream

PairBatch = dict[str, Any]
"""A batch as the training module takes it:

- `image` uint8 `[N, 3, S, S]`, `keys` list of str.
- `tokens` int64 `[N, L]` of real captions (mixed ones in `mix`), absent with `synthetic`;
  `synthetic_tokens` with `synthetic` and `both`.
- mode `dr`: `teacher_image`, `teacher_text`, `teacher_synthetic` float32 `[N, W]`.
- mode `online`: `teacher_view` uint8 `[N, 3, T, T]`, and the captions as `text`, `synthetic_text`.
"""


class Choice(NamedTuple):
    """What an epoch takes of a pair.

    Attributes:
        view: Number of the stored view.
        real: Number of the real caption.
        key: Key of the synthetic captions; empty where none is read.
        synthetic: Number of the caption under this key.
        mixed: Whether `mix` takes the synthetic caption.
    """

    view: int
    real: int
    key: str
    synthetic: int
    mixed: bool


def choose(pair: Pair, config: ReaderConfig, epoch: int) -> Choice:
    """Draw view and captions of one pair in one epoch; blank captions are never taken."""
    rng = keyed.generator("pair", config.seed, epoch, pair.uid)
    keys = list(pair.synthetic)
    # Always as many draws in the same order: what one choice is does not shift the next.
    draws = rng.random(5)

    def pick(items: Sequence[Any], draw: float) -> Any:
        number = epoch % len(items) if config.sampling == "sequential" else int(draw * len(items))
        return items[number]

    # Drawn in `sequential` too, as in the official code: in turn with the captions of a key, some
    # captions of several keys would never come.
    key = keys[int(draws[2] * len(keys))] if keys else ""
    real = _written(pair.captions) or [0]
    return Choice(
        view=pick(range(len(pair.views)), draws[0]) if pair.views else 0,
        real=pick(real, draws[1]),
        key=key,
        synthetic=pick(_written(pair.synthetic[key]), draws[3]) if key else 0,
        mixed=config.captions == "mix" and bool(draws[4] < config.mix_ratio),
    )


class PairBatches:
    """Makes a batch of the samples of a `ShardStream`; travels to loader workers.

    Args:
        config: How examples are made.
        info: What the shards hold; None for plain pairs.
        num_samples: Samples of an epoch.
    """

    def __init__(
        self, config: ReaderConfig, info: ReinforcementInfo | None, *, num_samples: int
    ) -> None:
        self.config = config
        self.replay = Replay(config, info)
        self.num_samples = num_samples

    def __call__(self, samples: list[dict[str, Any]]) -> PairBatch:
        """Return one batch, see `PairBatch`."""
        examples = [self.example(s["pair"], s["__position__"]) for s in samples]
        batch: PairBatch = {name: [one[name] for one in examples] for name in examples[0]}
        for name, values in batch.items():
            if isinstance(values[0], Tensor):
                batch[name] = torch.stack(values)
        for texts, tokens in (("text", "tokens"), ("synthetic_text", "synthetic_tokens")):
            if texts in batch:
                length = self.config.context_length
                batch[tokens] = tokenize(batch[texts], context_length=length)
                if self.config.mode != "online":
                    del batch[texts]
        return batch

    def example(self, pair: Pair, position: int) -> dict[str, Any]:
        """Return what one sample adds to a batch.

        Args:
            pair: The sample.
            position: Its place in the endless sequence; gives the epoch.
        """
        epoch = position // self.num_samples
        choice = choose(pair, self.config, epoch)
        params = self.replay.params(pair, choice.view, epoch)
        example = {"image": self.replay.student_view(pair, params), "keys": pair.key}
        if self.config.mode == "online":
            example["teacher_view"] = self.replay.teacher_view(pair, params)
        if self.config.mode == "dr":
            assert pair.embeddings is not None
            example["teacher_image"] = pair.embeddings.image[choice.view].to(torch.float32)
        return {**example, **self._captions(pair, choice)}

    def _captions(self, pair: Pair, choice: Choice) -> dict[str, Any]:
        real, synthetic = self.config.needs_real, self.config.needs_synthetic
        if self.config.captions == "mix":
            real, synthetic = not choice.mixed, choice.mixed
        found: dict[str, Any] = {}
        if real:
            found["text"] = pair.captions[choice.real]
            if pair.embeddings is not None:
                found["teacher_text"] = pair.embeddings.text[choice.real].to(torch.float32)
        if synthetic:
            # In `mix` there is one caption and one loss, whatever its origin.
            text, rows = ("text", "teacher_text")
            if self.config.captions != "mix":
                text, rows = ("synthetic_text", "teacher_synthetic")
            found[text] = pair.synthetic[choice.key][choice.synthetic]
            if pair.embeddings is not None:
                row = pair.embeddings.synthetic[choice.key][choice.synthetic]
                found[rows] = row.to(torch.float32)
        return found


class PairLoader(ShardLoader):
    """A loader that is made anew from the trainer's step when a run resumes.

    Attributes:
        size_filter: What passes over small images and counts them; None where all are taken.
    """

    size_filter: SizeFilter | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the checkpoint's step says it all."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing: the stream was made from the restored step."""


def pair_loader(
    index: ShardIndex,
    config: ReaderConfig,
    info: ReinforcementInfo | None = None,
    *,
    batch_size: int,
    num_batches: int,
    start: int = 0,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    max_bad_fraction: float = 0.2,
    quarantine: Path | None = None,
    pin_memory: bool = False,
) -> PairLoader:
    """Return a rank's batches from a place of the endless order on.

    Args:
        index: The shards.
        config: How examples are made.
        info: What the shards hold.
        batch_size: Pairs of a batch on one rank.
        num_batches: Batches until the end.
        start: Pairs that all ranks have had before.
        rank: This rank, from 0.
        world_size: Number of ranks.
        workers: Loader processes.
        max_bad_fraction: Share of rejected samples above which reading fails.
        quarantine: Where rejected samples are noted; None for beside the index.
        pin_memory: Whether batches go to the device faster.

    Raises:
        FileNotFoundError: Shards of the index are missing.
        ValueError: Mode `dr` without `info`.
    """
    schema = pair_schema(config, info, max_bad_fraction=max_bad_fraction, workers=workers)
    stream = ShardStream(
        index,
        schema,
        batch_size=batch_size,
        seed=config.seed,
        num_batches=num_batches,
        rank=rank,
        world_size=world_size,
        max_bad_fraction=max_bad_fraction,
        quarantine=quarantine,
    )
    stream.position = start
    loader = PairLoader(
        stream,
        num_workers=workers,
        pin_memory=pin_memory,
        collate_fn=PairBatches(config, info, num_samples=index.num_samples),
    )
    loader.size_filter = schema.size_filter
    return loader


def _written(texts: Sequence[str]) -> list[int]:
    """Return the numbers of the captions that say something."""
    return [number for number, text in enumerate(texts) if text.strip()]

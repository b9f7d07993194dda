"""The data of a run: a stream of pairs with what is stored about them, and pairs to measure on.

The position in the stream is the trainer's step, and a step's pairs depend on the seed alone, so
that a run resumes exactly, also with other numbers of ranks, micro-batches or workers.
"""

import logging
from pathlib import Path
from typing import Any

import lightning
import torch
from torch.utils.data import DataLoader

from mobileclip.config import Captions, Mode
from mobileclip.evaluation_pairs import EvaluationPairs, has_synthetic
from mobileclip.members import SYNTHETIC_KEYS
from mobileclip.models.towers import VARIANTS
from mobileclip.reader import PairBatch, PairLoader, pair_loader
from mobileclip.reader_config import ReaderConfig, Sampling
from mobileclip.rejections import count_rejections
from mobileclip.schema import ReinforcementInfo
from mobileclip.shard_sources import open_shards, read_reinforcement
from mobileclip.size_filter import SizeFilter
from tenfold.augment.config import AugmentConfig
from tenfold.loader_workers import usable_workers
from tenfold.plain_configs import plain
from tenfold.shards import ShardIndex

logger = logging.getLogger(__name__)

_LEAST = {"batch_size": 1, "eval_batch_size": 1, "total_steps": 1, "seed": 0, "workers": 0}


class ReinforcedData(lightning.LightningDataModule):
    """Image-text pairs, with or without what captioner and teachers said about them.

    Args:
        shards: A folder of webdataset tars with an index, or a brace or glob pattern of tars.
        val: Pairs to measure on during a run, likewise.
        test: Pairs of the verb `test`; those of `val` when empty.
        release: Published data set that the shards are of, when they do not say it themselves:
            `datacompdr-12m`, `datacompdr-1b` or `dfndr-2b`.
        model: Follows `model.name`; gives image size and length of the texts.
        image_size: Follows `model.image_size`; 0 for the model's own.
        mode: Follows `loss.mode`.
        captions: Follows `loss.captions`.
        mix_ratio: Follows `loss.mix_ratio`.
        batch_size: Pairs of one optimiser step over all ranks and micro-batches.
        total_steps: Length of the run; follows `trainer.max_steps`.
        sampling: `random` draws view and captions of a pair anew each epoch, `sequential` takes
            them in turn.
        synthetic_keys: Regular expression of the keys of `syn.json` that are used.
        teacher_dims: Widths of the teachers that the data must have; none for any.
        augment: Views that are not stored; none for a light crop in mode `clip` and for the
            published strong augmentation in mode `online`.
        scale_translate: Whether stored translations grow with the student's image; the official
            code replays their pixels.
        rescale_boxes: Accept images that were only resized since their views were drawn.
        min_image_size: Pixels that the shorter side of an image must have to be trained on; 0 for
            any. Smaller ones are passed over and counted, but not as rejected.
        max_bad_fraction: Share of rejected pairs above which the run fails.
        quarantine: File that lists rejected pairs; none for beside the index.
        eval_batch_size: Pairs of a batch to measure on, on one rank.
        seed: Key of the order and of all draws.
        workers: Loader processes.
        prepare: Options of the verb `demo-data`, which makes `shards` and `val` when they are not
            there.
    """

    def __init__(
        self,
        shards: str | Path,
        *,
        val: str | Path,
        test: str | Path = "",
        release: str = "",
        model: str = "s0",
        image_size: int = 0,
        mode: Mode = "dr",
        captions: Captions = "both",
        mix_ratio: float = 0.5,
        batch_size: int = 8192,
        total_steps: int = 1,
        sampling: Sampling = "random",
        synthetic_keys: str = SYNTHETIC_KEYS,
        teacher_dims: tuple[int, ...] = (),
        augment: AugmentConfig | None = None,
        scale_translate: bool = False,
        rescale_boxes: bool = False,
        min_image_size: int = 0,
        max_bad_fraction: float = 0.2,
        quarantine: Path | None = None,
        eval_batch_size: int = 256,
        seed: int = 0,
        workers: int = 1,
        prepare: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        given = locals()
        for name, least in _LEAST.items():
            if given[name] < least:
                raise ValueError(f"data.{name} must be >= {least}, got {given[name]}")
        if not 0 <= max_bad_fraction < 1:
            raise ValueError(f"data.max_bad_fraction must be in [0, 1), got {max_bad_fraction}")
        if model not in VARIANTS:
            raise ValueError(f"data.model must be one of {', '.join(VARIANTS)}, got {model!r}")
        self.config = ReaderConfig(
            mode=mode,
            captions=captions,
            mix_ratio=mix_ratio,
            image_size=image_size or VARIANTS[model].image_size,
            context_length=VARIANTS[model].context_length,
            sampling=sampling,
            synthetic_keys=synthetic_keys,
            scale_translate=scale_translate,
            rescale_boxes=rescale_boxes,
            min_image_size=min_image_size,
            augment=augment,
            seed=seed,
        )
        self.shards_spec, self.val_spec, self.test_spec = shards, val, test or val
        self.release, self.teacher_dims = release, tuple(teacher_dims)
        self.batch_size, self.total_steps = batch_size, total_steps
        self.max_bad_fraction, self.quarantine = max_bad_fraction, quarantine
        self.eval_batch_size, self.workers = eval_batch_size, usable_workers(workers)
        self.prepare_options = prepare
        self.training: ShardIndex | None = None
        self.held_out: ShardIndex | None = None
        self.info: ReinforcementInfo | None = None
        self._restored: dict[str, Any] | None = None
        self._size_filter: SizeFilter | None = None

    def prepare_data(self) -> None:
        """Make the demo's data if `prepare` says how, and index tars; one process does it."""
        if self.prepare_options is not None:
            from mobileclip.demo_data import demo_data  # renders, which other data do not need

            demo_data(**self.prepare_options)
        fitting = self.trainer is None or self.trainer.state.fn == "fit"
        for spec in (self.val_spec, self.shards_spec) if fitting else (self.test_spec,):
            open_shards(spec)

    def setup(self, stage: str) -> None:
        """Open what the stage needs, and compare the data with what the run expects of them.

        Raises:
            FileNotFoundError: Shards are not there.
            ValueError: The data have other teachers than `teacher_dims`, are not reinforced in mode
                `dr`, lack the synthetic captions that are asked for, or a run was interrupted with
                other data.
        """
        during_fit = stage in ("fit", "validate")
        self.held_out = open_shards(self.val_spec if during_fit else self.test_spec)
        if stage == "fit" and self.training is None:
            self.training = open_shards(self.shards_spec)
            self.info = read_reinforcement(self.training, release=self.release)
            self._check_info()
            self._check_restored()

    def train_dataloader(self) -> PairLoader:
        """Return this rank's micro-batches from the trainer's step on.

        Raises:
            ValueError: A step does not split over ranks and micro-batches, or the run is longer
                than `total_steps`.
        """
        trainer = self._trainer()
        if trainer.max_steps > self.total_steps:
            raise ValueError(
                f"data.total_steps is {self.total_steps}, the run has {trainer.max_steps} steps; "
                "give both the same number"
            )
        parts = trainer.world_size * trainer.accumulate_grad_batches
        if self.batch_size % parts:
            raise ValueError(
                f"data.batch_size must be a multiple of {parts} (ranks times micro-batches), got "
                f"{self.batch_size}"
            )
        assert self.training is not None
        remaining = self.total_steps - trainer.global_step
        loader = pair_loader(
            self.training,
            self.config,
            self.info,
            batch_size=self.batch_size // parts,
            num_batches=max(remaining * trainer.accumulate_grad_batches, 1),
            start=trainer.global_step * self.batch_size,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            workers=self.workers,
            max_bad_fraction=self.max_bad_fraction,
            quarantine=self.quarantine,
            pin_memory=torch.cuda.is_available(),
        )
        self._size_filter = loader.size_filter
        return loader

    def val_dataloader(self) -> DataLoader[PairBatch]:
        """Return this rank's share of the pairs to measure on."""
        return self._held_out_loader()

    def test_dataloader(self) -> DataLoader[PairBatch]:
        """Return this rank's share of the test pairs."""
        return self._held_out_loader()

    def predict_dataloader(self) -> DataLoader[PairBatch]:
        """Return what `test_dataloader` returns."""
        return self._held_out_loader()

    def teardown(self, stage: str) -> None:
        """Log how many pairs were rejected, by kind, and how many had too small an image."""
        if stage == "fit" and self.training is not None:
            default = self.training.folder / "quarantine.jsonl"
            rejected = count_rejections(self.quarantine or default, self.training.sha256)
            for kind, count in rejected.most_common():
                logger.warning("%d of %d pairs rejected: %s", count, self.num_pairs, kind)
        if stage == "fit" and self._size_filter is not None:
            passed, least = self._size_filter.passed(), self._size_filter.least
            text = "%d of %d pairs read passed over: shorter side below data.min_image_size=%d"
            logger.info(text, passed.small, passed.read, least)

    @property
    def num_pairs(self) -> int:
        """Pairs of the training shards, rejected ones included."""
        assert self.training is not None
        return self.training.num_samples

    def state_dict(self) -> dict[str, Any]:
        """Return what must be the same when the run is continued."""
        assert self.training is not None
        uses_info = self.info is not None and self.config.mode != "clip"
        return {
            "batch_size": self.batch_size,
            "pairs": self.training.sha256,
            "reinforcement": plain(info=self.info)["info"] if uses_info else None,
            **plain(reader=self.config)["reader"],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare the data with those of the interrupted run, now or when they are opened."""
        self._restored = state_dict
        self._check_restored()

    def _check_info(self) -> None:
        if self.config.mode == "dr" and self.info is None:
            raise ValueError(
                f"{self.shards_spec} has no reinforcement.json, which mode dr needs; make it with "
                "generate-embeddings, or name the published data set in data.release"
            )
        if self.info is not None and self.config.needs_synthetic and not self.info.num_captions:
            raise ValueError(
                f"{self.shards_spec} has no synthetic captions by its reinforcement.json, which "
                f"loss.captions={self.config.captions} needs; give loss.captions=real, or make "
                "them with generate-captions first"
            )
        dims = () if self.info is None else self.info.dims
        if self.teacher_dims and dims and self.teacher_dims != dims:
            raise ValueError(
                f"data.teacher_dims is {list(self.teacher_dims)}, the teachers of "
                f"{self.shards_spec} have {list(dims)}: they are other teachers"
            )

    def _check_restored(self) -> None:
        if self._restored is None or self.training is None:
            return
        now = self.state_dict()
        for name, was in self._restored.items():
            if now.get(name) != was:
                raise ValueError(
                    f"the interrupted run had data.{name} {was}, now it is {now.get(name)}; go on "
                    "with the data and settings of that run"
                )

    def _held_out_loader(self) -> DataLoader[PairBatch]:
        assert self.held_out is not None
        trainer = self._trainer()
        pairs = EvaluationPairs(
            self.held_out,
            self.config,
            synthetic=has_synthetic(self.held_out),
            batch_size=self.eval_batch_size,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )
        return DataLoader(pairs, batch_size=None, num_workers=self.workers)

    def _trainer(self) -> lightning.Trainer:
        assert self.trainer is not None
        return self.trainer

"""The data of a run: images and their store as a stream of batches, and images to measure on.

The position in the stream is the trainer's step, and a step's images depend on the seed alone, so
that a run resumes exactly, also with other numbers of ranks, micro-batches or workers.
"""

import logging
from pathlib import Path
from typing import Any

import lightning
import torch
from torch.utils.data import DataLoader

from dataset_reinforcement.config import CurriculumConfig, Mode, ResolutionConfig
from dataset_reinforcement.dataset import ReinforcedImages, ReinforcedStream
from dataset_reinforcement.evaluation_images import EvaluationImages
from dataset_reinforcement.image_decoding import decode_policy
from dataset_reinforcement.images import ImageSource, check_same_classes, open_images
from dataset_reinforcement.replay import ImageBatch, ReplayConfig
from dataset_reinforcement.resolution import FixedPlan, StepPlan, VariablePlan, check_batch
from dataset_reinforcement.resume import check_same_run, deciding_values
from dataset_reinforcement.store.info import StoreInfo
from dataset_reinforcement.store.reading import Store
from dataset_reinforcement.store.versions import check_decode, check_versions
from dataset_reinforcement.streaming import PackedImages, PackedLoader
from tenfold.augment.config import AugmentConfig
from tenfold.loader import StepLoader
from tenfold.loader_workers import usable_workers

logger = logging.getLogger(__name__)

LEAST = {"batch_size": 1, "eval_batch_size": 1, "total_steps": 1, "seed": 0, "workers": 0}
LEAST |= {"views": 0, "top_k": 0, "eval_resize": 0}


class ReinforcementData(lightning.LightningDataModule):
    """Labelled images, with or without their reinforcements.

    Args:
        val: Images to measure on during a run, in any form that `open_images` takes.
        test: Images of the verb `test`; those of `val` when empty.
        images: Images to train on.
        store: Reinforcements of `images`, a folder of `generate`; needed for `dr`. With it `kd`
            has its teacher look at the store's views, without it at views of its own.
        packed: Folder of `pack`, which is streamed, in place of `images` and `store`.
        allow_partial: Train on a store that `generate` has not finished; images that it lacks are
            augmented as usual.
        allow_other_versions: Train on a store that other versions of libraries made; its views may
            then differ a little from what the teacher saw.
        mode: Follows `loss.mode`.
        augment: Augmentation of images that are not reinforced; its size is that of all training.
        batch_size: Images of one optimiser step over all ranks and micro-batches.
        total_steps: Length of the run; follows `trainer.max_steps`.
        share: Probability of taking a reinforcement in `dr` (p of the paper).
        views: Views of an image to use, the first of the store; 0 for all. Without a store, how
            many `kd` draws for an image; 0 for another each epoch.
        top_k: Classes of a stored label to use, the most probable; 0 for all.
        curriculum: Order of the views by difficulty.
        resolution: Another image size at each step; none for one size.
        eval_resize: Side to which the shorter edge of images to measure on is scaled before the
            centre is cut out; 0 scales the image as a whole.
        eval_batch_size: Images of a batch to measure on, on one rank.
        seed: Key of the order and of all draws.
        workers: Loader processes, at most the processors that are there.
        max_bad_fraction: Largest share of damaged images of `packed`; they are replaced by others
            and listed in the run folder's `quarantine.jsonl`, more of them end the run.
        prepare: Options of the verb `demo-store`, which makes `store` when it is not there.
    """

    def __init__(
        self,
        val: str,
        *,
        test: str = "",
        images: str = "",
        store: Path | None = None,
        packed: Path | None = None,
        allow_partial: bool = False,
        allow_other_versions: bool = False,
        mode: Mode = "dr",
        augment: AugmentConfig = AugmentConfig(rand_augment=1.0, erase=0.25),
        batch_size: int = 1024,
        total_steps: int = 1,
        share: float = 0.99,
        views: int = 0,
        top_k: int = 0,
        curriculum: CurriculumConfig = CurriculumConfig(),
        resolution: ResolutionConfig | None = None,
        eval_resize: int = 256,
        eval_batch_size: int = 256,
        seed: int = 0,
        workers: int = 1,
        max_bad_fraction: float = 0.01,
        prepare: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        given = locals()
        for name, least in LEAST.items():
            if given[name] < least:
                raise ValueError(f"data.{name} must be >= {least}, got {given[name]}")
        if not 0 <= max_bad_fraction < 1:
            raise ValueError(f"data.max_bad_fraction must be in [0, 1), got {max_bad_fraction}")
        if packed is not None and (images or store is not None or resolution is not None):
            raise ValueError("data.packed takes the place of images and store, at one resolution")
        self.val_spec, self.test_spec, self.images_spec = val, test or val, images
        self.store_path, self.packed_path = store, packed
        self.allow_partial, self.allow_other_versions = allow_partial, allow_other_versions
        self.mode: Mode = mode
        self.augment, self.share = augment, share
        self.batch_size, self.total_steps = batch_size, total_steps
        self.views, self.top_k = views, top_k
        self.curriculum, self.resolution = curriculum, resolution
        self.eval_resize, self.eval_batch_size = eval_resize, eval_batch_size
        self.seed, self.workers = seed, workers
        self.max_bad_fraction = max_bad_fraction
        if prepare is not None and store is None:
            raise ValueError("data.prepare makes data.store: name the folder")
        self.prepare_options = prepare
        self.training: ReinforcedImages | PackedImages | None = None
        self.held_out: ImageSource | None = None
        self._restored: dict[str, Any] | None = None

    @property
    def num_classes(self) -> int:
        """Number of classes; the module compares it with its head."""
        return len(self.class_names)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes by label; checkpoints keep them."""
        return self._held_out().classes

    def prepare_data(self) -> None:
        """Make the demo's store if `prepare` says how; one process does it."""
        if self.prepare_options is not None and self.store_path is not None:
            from dataset_reinforcement.demo_store import demo_store  # it trains with this class

            demo_store(self.store_path, **self.prepare_options)

    def setup(self, stage: str) -> None:
        """Open what the stage needs, and compare images, store and held-out images.

        Raises:
            FileNotFoundError: Something is not there.
            ValueError: The store is of other images or classes, or a run was interrupted with
                other data.
        """
        spec = self.val_spec if stage in ("fit", "validate") else self.test_spec
        self.held_out = open_images(spec)
        if stage == "fit" and self.training is None:
            self.training = self._open_packed() if self.packed_path else self._open_images()
            self._check_restored()

    def train_dataloader(self) -> StepLoader[ImageBatch] | PackedLoader:
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
        if isinstance(self.training, PackedImages):
            return self._packed_loader(self.training)
        assert self.training is not None
        stream = ReinforcedStream(
            self.training,
            self._step_plan(),
            start=trainer.global_step,
            total=self.total_steps,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            accum=trainer.accumulate_grad_batches,
        )
        return StepLoader(
            stream,
            batch_size=None,
            num_workers=usable_workers(self.workers),
            pin_memory=torch.cuda.is_available(),
        )

    def val_dataloader(self) -> DataLoader[ImageBatch]:
        """Return this rank's share of the images to measure on."""
        return self._held_out_loader(self.val_spec)

    def test_dataloader(self) -> DataLoader[ImageBatch]:
        """Return this rank's share of the test images."""
        return self._held_out_loader(self.test_spec)

    def predict_dataloader(self) -> DataLoader[ImageBatch]:
        """Return what `test_dataloader` returns."""
        return self._held_out_loader(self.test_spec)

    def state_dict(self) -> dict[str, Any]:
        """Return what must be the same when the run is continued."""
        assert self.training is not None
        if isinstance(self.training, PackedImages):
            config = self._replay_config(self.training.info)
        else:
            config = self.training.config
        return deciding_values(
            self.training,
            config,
            batch_size=self.batch_size,
            resolution=self.resolution,
            total_steps=self.total_steps,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare the data with those of the interrupted run, now or when they are opened."""
        self._restored = state_dict
        self._check_restored()

    def _open_images(self) -> ReinforcedImages:
        if not self.images_spec:
            raise ValueError("data.images must name the images to train on, or give data.packed")
        images = open_images(self.images_spec)
        check_same_classes(images.classes, self._held_out().classes)
        if self.store_path is None or self.mode == "erm":
            return ReinforcedImages(images, self._replay_config(None))
        store = Store.open(self.store_path, allow_partial=self.allow_partial)
        store.check_source(images, allow_other_versions=self.allow_other_versions)
        self._note_size(store.info.augment.size)
        store = store.select(views=self.views or None, top_k=self.top_k or None)
        return ReinforcedImages(images, self._replay_config(store.info), store=store)

    def _open_packed(self) -> PackedImages:
        assert self.packed_path is not None
        packed = PackedImages(self.packed_path)
        check_same_classes(packed.info.classes, self._held_out().classes)
        check_versions(packed.info.versions, allow_other_versions=self.allow_other_versions)
        if "jpeg" in packed.info.decode:  # other images were packed as PNG, which all decode alike
            check_decode(
                packed.info.decode,
                decode_policy(),
                allow_other_versions=self.allow_other_versions,
            )
        for name, most in (("views", packed.num_views), ("top_k", packed.info.top_k)):
            if getattr(self, name) > most:
                raise ValueError(
                    f"data.{name} is {getattr(self, name)}, {self.packed_path} has {most}"
                )
        self._note_size(packed.info.augment.size)
        return packed

    def _note_size(self, stored: int) -> None:
        if self.resolution is None and stored != self.augment.size:
            logger.warning(
                "data.augment.size is %d, the stored views have %d pixels: they are replayed at %d",
                *(self.augment.size, stored, self.augment.size),
            )

    def _replay_config(self, info: StoreInfo | None) -> ReplayConfig:
        return ReplayConfig(
            mode=self.mode,
            augment=self.augment,
            stored=info.augment if info and self.mode != "erm" else None,
            seed=self.seed,
            share=self.share,
            num_views=self.views,
            num_classes=self.num_classes,
            top_k=self.top_k or (info.top_k if info else 1),
            curriculum=self.curriculum,
        )

    def _packed_loader(self, packed: PackedImages) -> PackedLoader:
        trainer = self._trainer()
        accum = trainer.accumulate_grad_batches
        check_batch(self.batch_size, trainer.world_size * accum)
        return packed.loader(
            self._replay_config(packed.info),
            batch_size=self.batch_size // (trainer.world_size * accum),
            num_batches=max((self.total_steps - trainer.global_step) * accum, 1),
            start=trainer.global_step * self.batch_size,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            workers=usable_workers(self.workers),
            quarantine=Path(trainer.default_root_dir) / "quarantine.jsonl",
            max_bad_fraction=self.max_bad_fraction,
            pin_memory=torch.cuda.is_available(),
        )

    def _step_plan(self) -> StepPlan:
        divisor = self._trainer().world_size * self._trainer().accumulate_grad_batches
        if self.resolution is None:
            return FixedPlan(self.batch_size, self.augment.size, divisor=divisor)
        return VariablePlan(
            self.resolution,
            base=self.augment.size,
            batch_size=self.batch_size,
            total_steps=self.total_steps,
            seed=self.seed,
            divisor=divisor,
        )

    def _held_out_loader(self, spec: str) -> DataLoader[ImageBatch]:
        images = EvaluationImages(
            self._held_out(),
            name=spec,
            size=self.augment.size,
            resize=self.eval_resize or None,
            batch_size=self.eval_batch_size,
            rank=self._trainer().global_rank,
            world_size=self._trainer().world_size,
        )
        return DataLoader(images, batch_size=None, num_workers=usable_workers(self.workers))

    def _held_out(self) -> ImageSource:
        assert self.held_out is not None
        return self.held_out

    def _trainer(self) -> lightning.Trainer:
        assert self.trainer is not None
        return self.trainer

    def _check_restored(self) -> None:
        if self._restored is not None and self.training is not None:
            check_same_run(self._restored, self.state_dict())

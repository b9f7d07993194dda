"""Batches of one bucket at a time from a prepared data set, and its held-out documents.

Which bucket a step uses and which rows each rank takes is `tenfold.bucketing`'s plan, made from the
data set's counts and the run's length; the position in it is the trainer's step, so a run resumes
in mid-cycle with other numbers of ranks, micro-batches or workers. `run_plan` leaves steps out, and
makes a new plan where the options have changed.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import lightning
from torch.utils.data import DataLoader

from dataset_decomposition.checksums import check_sha256
from dataset_decomposition.heldout_batches import HeldoutBatches
from dataset_decomposition.mixture import Mixture
from dataset_decomposition.module import DocumentBatch, TrainBatch
from dataset_decomposition.plan import build_plan
from dataset_decomposition.plan_loader import PlanLoader
from dataset_decomposition.records import BucketReader, open_dataset
from dataset_decomposition.run_plan import RunPlan, begin_run, go_on, hash_shards, parse_ranges
from dataset_decomposition.token_reader import TokenReader
from dataset_decomposition.trained_length import warn_of_untrained
from tenfold.bucketing import BucketPlan, BucketStream, Curriculum, PassPosition, assert_lockstep
from tenfold.callbacks import NonFiniteError

logger = logging.getLogger(__name__)


class DecompositionData(lightning.LightningDataModule):
    """A prepared data set as a stream of batches.

    Args:
        path: Folder that `prepare` wrote.
        tokens_per_step: Trained tokens of one optimiser step over all ranks and micro-batches.
        total_steps: Length of the run; follows `trainer.max_steps`.
        curriculum: `uniform`, `natural`, `grow_linear`, `grow_p<base>`, `shrink_p<base>` or
            `sequential`; the paper recommends `grow_p2` with 8 cycles.
        cycles: Equal portions of the data that the curriculum goes through.
        odds_mode: `per_batch` takes the odds as they are (paper), `times_size` multiplies them by
            the bucket's size (official code).
        mixture: Tokens from each bucket: `natural`, `equal` (the paper's curricula), or shares by
            bucket such as `{D_8: 1, D_9: 2}`.
        repeat: What to do when the run wants more than a bucket has: an error, or further passes
            in another order.
        seed: Key of schedule and row order.
        skip_steps: Steps of the plan to leave out, in quotes: `"120:140"` is 120 to 139, `"7"` one
            step. The others keep their batches and move up, so the run ends that much earlier; its
            learning rate stays that of the whole. A resumed run may leave out what lies ahead.
        new_plan_from_step: On resume from the checkpoint of this step, plan the rest of the run
            anew by the present options, over the rows that are not used yet. Keep it from then on;
            steps are numbered from it.
        workers: Loader processes.
        heldout_tokens: Longest part of a held-out document that is scored; 0 is the longest bucket.
        check: What is compared with the data set's records before anything is trained or scored:
            sizes and counts, or the SHA-256 of every file as well, which reads all data once (the
            first rank of each node does it, while the others wait).
        prepare: Options of `prepare` by name; the data set is made when it is not there.
    """

    def __init__(
        self,
        path: Path,
        tokens_per_step: int = 524_288,
        total_steps: int = 1,
        curriculum: str = "grow_p2",
        cycles: int = 8,
        odds_mode: Literal["per_batch", "times_size"] = "per_batch",
        mixture: Mixture = "equal",
        repeat: Literal["error", "reshuffle"] = "error",
        seed: int = 42,
        skip_steps: Sequence[str] = (),
        new_plan_from_step: int | None = None,
        workers: int = 1,
        heldout_tokens: int = 0,
        check: Literal["sizes", "sha256"] = "sizes",
        prepare: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if tokens_per_step < 1:
            raise ValueError(f"data.tokens_per_step must be >= 1, got {tokens_per_step}")
        if workers < 0:
            raise ValueError(f"data.workers must be >= 0, got {workers}")
        if new_plan_from_step is not None and new_plan_from_step < 1:
            raise ValueError(
                f"data.new_plan_from_step must be >= 1, got {new_plan_from_step}; leave it out "
                "for a plan of the whole run"
            )
        self.path = path
        self.tokens_per_step = tokens_per_step
        self.total_steps = total_steps
        self.curriculum = Curriculum.named(curriculum, cycles=cycles, mode=odds_mode)
        self.mixture: Mixture = mixture
        self.repeat: Literal["error", "reshuffle"] = repeat
        self.seed = seed
        self.skips = parse_ranges(skip_steps)
        self.new_plan_from_step = new_plan_from_step
        self.workers = workers
        self.heldout_tokens = heldout_tokens
        self.check = check
        self.prepare_options = prepare
        self.run_plan: RunPlan | None = None
        self._restored: dict[str, Any] | None = None

    def prepare_data(self) -> None:
        """Make the data set if it is not there and `prepare` says how, and hash it if asked.

        One process of a node does it.

        Raises:
            ValueError: A file is not what was prepared.
        """
        if self.prepare_options is not None:
            from dataset_decomposition.prepare import prepare

            prepare(out=self.path, **self.prepare_options)
        if self.check == "sha256":
            check_sha256(self.path)

    def setup(self, stage: str) -> None:
        """Open the data set and, to train, plan the whole run on every rank alike.

        A new plan waits for the checkpoint that it follows.

        Raises:
            FileNotFoundError: The data set is not there.
            ValueError: The buckets cannot give what is asked, or ranks differ.
        """
        self.dataset = open_dataset(self.path)
        self.vocab_size: int = self.dataset.info["vocab_size"]
        self.data_hash = hash_shards({key: r.shards for key, r in self._readers().items()})
        if stage == "fit" and self.run_plan is None and self.new_plan_from_step is None:
            self.run_plan = begin_run(self._build, self.skips)
            assert_lockstep(self.run_plan.plan)

    @property
    def plan(self) -> BucketPlan | None:
        """Return what is trained of the current plan, once there is one."""
        return self.run_plan.plan if self.run_plan else None

    def train_dataloader(self) -> PlanLoader:
        """Return this rank's micro-batches from the trainer's step on."""
        assert self.trainer is not None
        run = self._planned()
        if run.plan.skipped:
            self._end_at(run.end)
        stream: BucketStream[TrainBatch] = BucketStream(
            run.plan,
            {
                key: TokenReader(
                    key,
                    reader,
                    vocab_size=self.vocab_size,
                    target_share=self._target_share(reader),
                )
                for key, reader in self._readers().items()
            },
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            accum=self.trainer.accumulate_grad_batches,
        )
        if self._restored is not None:
            stream.advance(self._restored["step"] - run.start)
        return PlanLoader(self, stream)

    def val_dataloader(self) -> DataLoader[DocumentBatch]:
        """Return this rank's share of the held-out documents, batches of similar length."""
        return self._heldout_loader()

    def test_dataloader(self) -> DataLoader[DocumentBatch]:
        """Return what `val_dataloader` returns."""
        return self._heldout_loader()

    def predict_dataloader(self) -> DataLoader[DocumentBatch]:
        """Return what `val_dataloader` returns."""
        return self._heldout_loader()

    def state_dict(self) -> dict[str, Any]:
        """Return the trainer's step, the plan, what it was made from and what it has used."""
        assert self.run_plan is not None
        assert self.trainer is not None
        return self.run_plan.state(self.trainer.global_step, self.data_hash)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved position when the loader is made."""
        self._restored = state_dict

    def on_exception(self, exception: BaseException) -> None:
        """Say how to go on without the step whose loss was not finite."""
        if not isinstance(exception, NonFiniteError) or exception.step is None or not self.run_plan:
            return
        step = self.run_plan.planned_step(exception.step)
        logger.error(
            "optimiser step %d trained step %d of the plan, bucket %s; go on without it with "
            "--resume auto --data.skip_steps+=%d:%d",
            *(exception.step, step, self.run_plan.bucket(exception.step)),
            *(step, step + 1),
        )

    def _planned(self) -> RunPlan:
        """Return the plan of the run; a resumed one must fit its checkpoint."""
        if self._restored is not None:
            self.run_plan = go_on(
                self._restored,
                self._build,
                skips=self.skips,
                new_plan_from_step=self.new_plan_from_step,
                data_hash=self.data_hash,
            )
            assert_lockstep(self.run_plan.plan)
        if self.run_plan is None:
            raise ValueError(
                f"data.new_plan_from_step={self.new_plan_from_step} follows the checkpoint of that "
                "step; resume from it, or leave the option out"
            )
        return self.run_plan

    def _end_at(self, end: int) -> None:
        """Let the trainer stop and validate when the plan does; it would begin it again.

        Raises:
            ValueError: The run is there already.
        """
        assert self.trainer is not None
        if self._restored is not None and self._restored["step"] >= end:
            raise ValueError(
                f"nothing left to train: without the steps of data.skip_steps the plan ends at "
                f"step {end}, where the checkpoint stands"
            )
        logger.info("%d steps are left out: the run ends at %d", self.total_steps - end, end)
        loop = self.trainer.fit_loop.epoch_loop
        loop.max_steps = min(loop.max_steps, end)  # a dry run has fewer
        if type(every := self.trainer.val_check_interval) is int:
            # Lightning refuses an interval that is longer than the data.
            most = end * self.trainer.accumulate_grad_batches
            self.trainer.val_check_interval = min(every, most)

    def _build(self, start: int, continued: Mapping[str, PassPosition]) -> BucketPlan:
        assert self.trainer is not None
        if not start and self.run_plan is not None:
            return self.run_plan.whole  # made in `setup`
        if start >= self.total_steps:
            raise ValueError(f"there is no step left of trainer.max_steps={self.total_steps}")
        return build_plan(
            {key: (reader.seq_len, reader.num_rows) for key, reader in self._readers().items()},
            total_steps=self.total_steps - start,
            tokens_per_step=self.tokens_per_step,
            curriculum=self.curriculum,
            mixture=self.mixture,
            seed=self.seed,
            divisor=self.trainer.world_size * self.trainer.accumulate_grad_batches,
            repeat=self.repeat,
            continued=continued,
        )

    def _readers(self) -> dict[str, BucketReader]:
        return {f"D_{exponent}": reader for exponent, reader in self.dataset.buckets.items()}

    def _target_share(self, reader: BucketReader) -> float:
        """Return which part of a bucket's predicted positions are targets that count."""
        stated = self.dataset.info["buckets"][str(reader.bucket)]
        return stated.get("targets", stated["tokens"]) / max(stated["tokens"], 1)

    def _heldout_loader(self) -> DataLoader[DocumentBatch]:
        assert self.trainer is not None
        longest = max(reader.seq_len for reader in self._readers().values())
        max_targets = self.heldout_tokens or longest
        if self.trainer.global_rank == 0:
            warn_of_untrained(max_targets, self.plan, self._restored)
        batches = HeldoutBatches(
            *self.dataset.heldout(),
            at_least=self.trainer.world_size,
            max_targets=max_targets,
            # As much as a micro-batch of training: what fits there fits here.
            tokens_per_batch=max(
                self.tokens_per_step
                // (self.trainer.world_size * self.trainer.accumulate_grad_batches),
                longest,
            ),
        )
        mine = range(self.trainer.global_rank, len(batches), self.trainer.world_size)
        return DataLoader(batches, batch_size=None, sampler=mine, num_workers=0)

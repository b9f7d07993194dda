"""The training of h: what is frozen, when statistics stop, which objective, two ranks, files."""

import os
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from training_files import CLASSES, make_features

from fastfill.config import BackboneConfig, ObjectiveConfig, TransformConfig
from fastfill.demo_data import cache_demo
from fastfill.evaluation.metrics import retrieval
from fastfill.feature_cache import read_cache
from fastfill.models import build_backbone, frozen
from fastfill.objective import class_means, fastfill_loss
from fastfill.pair_data import PairData
from fastfill.sources import open_source
from fastfill.transform import transform_all
from fastfill.transform_module import TransformModule, frozen_head
from fastfill.weights import save_transformation
from tenfold.bare_trainer import bare_trainer
from tenfold.optim import OptimConfig
from tenfold.testing import run_ranks

STEPS = 6


def module_of(
    loss: ObjectiveConfig | None = None, *, steps: int = STEPS, **model: Any
) -> TransformModule:
    torch.manual_seed(0)
    return TransformModule(
        TransformConfig(**{"inner": 8, **model}),
        loss or ObjectiveConfig(),
        OptimConfig(lr=0.01, total_steps=steps, name="adam"),
    )


def train(
    folder: Path, loss: ObjectiveConfig | None = None, *, steps: int = STEPS, **model: Any
) -> TransformModule:
    module = module_of(loss, steps=steps, **model)
    bare_trainer(steps).fit(module, datamodule=PairData(folder, batch_size=8))
    return module


def statistics(h: nn.Module) -> dict[str, Tensor]:
    """Return copies of all running means, variances and counts."""
    return {name: value.clone() for name, value in h.named_buffers()}


class Watch(lightning.Callback):
    """Note the statistics after every step and the mode during it."""

    def __init__(self) -> None:
        self.after: dict[int, dict[str, Tensor]] = {}
        self.trains: dict[int, bool] = {}

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        self.trains[trainer.global_step] = pl_module.h.training

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.after[trainer.global_step] = statistics(pl_module.h)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def test_statistics_are_constant_from_half_of_the_run_on_also_after_a_validation(
    tmp_path: Path,
) -> None:
    make_features(tmp_path / "cache")
    watch, module = Watch(), module_of()
    trainer = bare_trainer(
        STEPS,
        callbacks=[watch],
        limit_val_batches=1.0,
        val_check_interval=1,
        check_val_every_n_epoch=None,
    )
    trainer.fit(module, datamodule=PairData(tmp_path / "cache", batch_size=8))
    assert watch.trains == {step: step < 3 for step in range(6)}
    assert not same(watch.after[2], watch.after[3])
    assert all(same(watch.after[3], watch.after[step]) for step in (4, 5, 6))


def test_statistics_stay_constant_after_a_resume_and_weights_go_on(tmp_path: Path) -> None:
    make_features(tmp_path / "cache")
    first = module_of()
    trainer = bare_trainer(4)
    trainer.fit(first, datamodule=PairData(tmp_path / "cache", batch_size=8))
    trainer.save_checkpoint(tmp_path / "at-4.ckpt")
    kept, weights = statistics(first.h), [p.detach().clone() for p in first.h.parameters()]
    watch, second = Watch(), module_of()
    bare_trainer(STEPS, callbacks=[watch]).fit(
        second,
        datamodule=PairData(tmp_path / "cache", batch_size=8),
        ckpt_path=tmp_path / "at-4.ckpt",
        weights_only=True,
    )
    assert watch.trains == {4: False, 5: False}
    assert same(kept, watch.after[5])
    assert same(kept, watch.after[6])
    assert any(not torch.equal(p, q) for p, q in zip(weights, second.h.parameters(), strict=True))


@pytest.mark.parametrize(("eval_from", "first"), [(1.0, 6), (0.0, 0), (0.34, 3)])
def test_the_switch_is_where_the_option_says(tmp_path: Path, eval_from: float, first: int) -> None:
    make_features(tmp_path / "cache")
    watch, module = Watch(), module_of(eval_from=eval_from)
    data = PairData(tmp_path / "cache", batch_size=8)
    bare_trainer(STEPS, callbacks=[watch]).fit(module, datamodule=data)
    assert [step for step in range(6) if watch.trains[step]] == list(range(first))


def test_old_and_new_model_and_the_head_stay_as_they_are(tmp_path: Path) -> None:
    """Oracle 7c (7): features of two networks, then h; neither moves, nor what is stored."""
    torch.manual_seed(0)
    source = open_source("digits:test:0-2")
    both = [
        frozen(build_backbone(BackboneConfig(arch="tiny_mlp", dim=dim, num_classes=10)))
        for dim in (5, 6)
    ]
    states = [{n: v.clone() for n, v in b.state_dict().items()} for b in both]
    cache = cache_demo(tmp_path / "cache", *both, source, views=2, seed=0)
    assert cache.head is not None
    head, new = cache.head.copy(), cache.new().copy()
    trained = train(tmp_path / "cache")
    for backbone, state in zip(both, states, strict=True):
        assert same(state, dict(backbone.state_dict()))
        assert all(p.grad is None for p in backbone.parameters())
    assert trained.head is not None
    assert not trained.head.requires_grad
    assert np.array_equal(trained.head.cpu().numpy(), head)
    again = read_cache(tmp_path / "cache")
    assert again.head is not None
    assert np.array_equal(again.head, head)
    assert np.array_equal(again.new(), new)
    assert "head" not in trained.state_dict()


@pytest.mark.parametrize("labels", ["given", "pseudo", "means"])
def test_the_head_that_z_must_satisfy(tmp_path: Path, labels: Any) -> None:
    cache = make_features(tmp_path / "cache")
    head = frozen_head(cache, ObjectiveConfig(labels=labels))
    means = class_means(torch.from_numpy(cache.new()), torch.from_numpy(cache.labels), CLASSES)
    assert cache.head is not None
    assert torch.equal(head, means if labels == "means" else torch.from_numpy(cache.head))


def test_a_head_or_labels_that_are_missing_are_named(tmp_path: Path) -> None:
    make_features(tmp_path / "headless", head=False)
    make_features(tmp_path / "unlabelled", labelled=False)
    with pytest.raises(ValueError, match=r"new has no classifier; set loss\.mu_disc to 0 or loss"):
        train(tmp_path / "headless", steps=1)
    with pytest.raises(ValueError, match="labels must be rows of the new head"):
        train(tmp_path / "unlabelled", steps=1)
    train(tmp_path / "headless", ObjectiveConfig(labels="means"), steps=1)
    train(tmp_path / "headless", ObjectiveConfig(mu_disc=0), steps=1)
    train(tmp_path / "unlabelled", ObjectiveConfig(labels="pseudo"), steps=1)


def test_without_uncertainty_every_item_has_s_zero(tmp_path: Path) -> None:
    cache = make_features(tmp_path / "cache")
    fct = train(tmp_path / "cache", ObjectiveConfig(mu_disc=0, uncertainty=False))
    assert (transform_all(fct.h, cache.old())[1] == 0).all()
    assert transform_all(train(tmp_path / "cache").h, cache.old())[1].std() > 0


def test_validation_measures_new_queries_against_transformed_items(tmp_path: Path) -> None:
    cache = make_features(tmp_path / "cache")
    config = ObjectiveConfig(similarity="l1", mu_disc=0.5)
    module, data = module_of(config), PairData(tmp_path / "cache", batch_size=10)
    trainer = bare_trainer(STEPS, limit_val_batches=1.0)
    trainer.fit(module, datamodule=data)
    (measured,) = trainer.validate(module, datamodule=data, verbose=False)
    z, s = transform_all(module.h, cache.old())
    labels, numbers = cache.labels, np.arange(len(cache))
    assert cache.head is not None
    tensors = (torch.from_numpy(x) for x in (z, s, cache.new(), labels, cache.head))
    terms = fastfill_loss(*tensors, config)
    expected = {
        "val/map": retrieval(cache.new(), z, labels, labels, self_rows=numbers).map,
        "val/loss": float(terms.total),
        "val/spearman": spearmanr(s, terms.per_item.numpy()).statistic,
    }
    assert measured == pytest.approx(expected, abs=1e-5)


def test_a_partial_validation_measures_what_it_saw(tmp_path: Path) -> None:
    make_features(tmp_path / "cache")
    trainer = bare_trainer(1, limit_val_batches=1)
    module, data = module_of(steps=1), PairData(tmp_path / "cache", batch_size=10)
    trainer.fit(module, datamodule=data)
    (measured,) = trainer.validate(module, datamodule=data, verbose=False)
    assert 0 < measured["val/map"] <= 1


def test_a_new_run_starts_from_weights_that_fit(tmp_path: Path) -> None:
    make_features(tmp_path / "cache")
    trained = train(tmp_path / "cache")
    assert trained.card is not None
    save_transformation(tmp_path / "h.safetensors", trained.h, trained.card)
    tuned = module_of(init_from=tmp_path / "h.safetensors")
    trainer = bare_trainer(0)
    trainer.fit(tuned, datamodule=PairData(tmp_path / "cache", batch_size=8))
    assert same(dict(trained.h.state_dict()), dict(tuned.h.state_dict()))
    with pytest.raises(ValueError, match=r"init_from .*h\.safetensors does not fit .*expected"):
        train(tmp_path / "cache", inner=9, init_from=tmp_path / "h.safetensors")


class Keys(lightning.Callback):
    """Note what this rank trains on."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        self.batches.append(batch["keys"])


def learn(folder: Path, loss: ObjectiveConfig, **options: Any) -> dict[str, Any]:
    """Train with frozen statistics, which two ranks would each take of half a batch."""
    module, keys, data = module_of(loss, eval_from=0.0), Keys(), PairData(folder, batch_size=8)
    trainer = bare_trainer(STEPS, callbacks=[keys], **options)
    trainer.fit(module, datamodule=data)
    (measured,) = trainer.test(module, datamodule=data, verbose=False)
    weights = {n: v.cpu() for n, v in module.h.state_dict().items()}
    return {"measured": measured, "weights": weights, "keys": keys.batches}


LOSSES = (ObjectiveConfig(), ObjectiveConfig(mu_disc=0, uncertainty=False))


def learn_on_a_rank(rank: int, world_size: int, folder: Path) -> list[dict[str, Any]]:
    os.environ |= {"TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    return [learn(folder, loss, strategy="ddp", devices=world_size) for loss in LOSSES]


def test_two_ranks_learn_from_disjoint_rows_what_one_does_from_all(tmp_path: Path) -> None:
    make_features(tmp_path / "cache", items=26)  # the last held-out batch is smaller
    ranks = run_ranks(learn_on_a_rank, 2, tmp_path / "cache", timeout_s=250)
    for loss, one, other in zip(LOSSES, *ranks, strict=True):
        alone = learn(tmp_path / "cache", loss)
        for whole, first, second in zip(alone["keys"], one["keys"], other["keys"], strict=True):
            assert len(first) == len(second) == 4
            assert set(first).isdisjoint(second)
            assert set(first) | set(second) == set(whole)
        assert alone["measured"] == pytest.approx(one["measured"], rel=1e-4, abs=1e-5)
        for name, expected in alone["weights"].items():
            assert torch.equal(one["weights"][name], other["weights"][name]), name
            torch.testing.assert_close(one["weights"][name], expected, rtol=1e-4, atol=1e-5)

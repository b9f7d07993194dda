"""The training step against its definitions, and DR against what it must equal."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import torch.nn.functional as F
from tiny_reinforcement import AUGMENT, CLASSES, SEED, SIZE, TinyData
from torch import Tensor

from dataset_reinforcement.config import LossConfig, ModelConfig
from dataset_reinforcement.data import ReinforcementData
from dataset_reinforcement.losses import mix_batch
from dataset_reinforcement.model import build_model
from dataset_reinforcement.module import ReinforcementModule
from dataset_reinforcement.teacher_config import TeacherConfig
from tenfold import checkpoints
from tenfold.bare_trainer import bare_trainer
from tenfold.cli.quiet import silence_adverts
from tenfold.ema import moving_average
from tenfold.ema_config import EmaConfig
from tenfold.optim import OptimConfig

STEPS = 3
EPOCH = {"batch_size": 23, "total_steps": STEPS, "workers": 0, "eval_resize": 0, "seed": SEED}


@pytest.fixture(autouse=True)
def _no_adverts() -> None:
    silence_adverts()


def module(
    loss: LossConfig, *, teacher: TeacherConfig | None = None, **changes: Any
) -> ReinforcementModule:
    torch.manual_seed(1)
    model = ModelConfig(**({"name": "conv4", "classes": CLASSES, "image_size": SIZE} | changes))
    optim = OptimConfig(lr=0.1, total_steps=STEPS, name="sgd", weight_decay=1e-4)
    return ReinforcementModule(model, loss, optim, EmaConfig(momentum=0.1), teacher)


def fit(trained: ReinforcementModule, data: ReinforcementData, **options: Any) -> dict[str, Tensor]:
    """Train `STEPS` steps and return the weights."""
    trainer = bare_trainer(STEPS, **options)
    trainer.fit(trained, datamodule=data)
    return {name: tensor.clone() for name, tensor in trained.state_dict().items()}


def data(tiny: TinyData, **options: Any) -> ReinforcementData:
    return ReinforcementData(tiny.val, images=tiny.train, augment=AUGMENT, **(EPOCH | options))


def differences(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


@pytest.mark.parametrize("mixing", [0.0, 0.5], ids=["plain", "mixing"])
def test_dr_of_whole_labels_is_on_the_fly_kd_bit_for_bit(tiny: TinyData, mixing: float) -> None:
    """The central oracle (spec 7c.4): three whole epochs, K = C, N views, one stream of draws."""
    augment = replace(AUGMENT, mixup=mixing, cutmix=mixing)
    store = tiny.store(augment=augment, top_k=CLASSES, prob_dtype="float32")
    stored = data(tiny, store=store, share=1.0)
    beside = ReinforcementData(
        tiny.val, images=tiny.train, augment=augment, mode="kd", views=3, **EPOCH
    )
    dr = fit(module(LossConfig(form="dense")), stored)
    kd = fit(module(LossConfig(mode="kd"), teacher=tiny.teacher), beside)
    assert differences(dr, kd) == []
    sparse = fit(module(LossConfig(form="sparse")), stored)
    for name, tensor in kd.items():
        torch.testing.assert_close(sparse[name], tensor, rtol=1e-3, atol=1e-3)
    untrained = module(LossConfig()).state_dict()
    assert not torch.allclose(kd["network.head.weight"], untrained["network.head.weight"])


def test_without_reinforcements_dr_is_erm(tiny: TinyData) -> None:
    dr = fit(module(LossConfig()), data(tiny, store=tiny.store(), share=0.0))
    erm = fit(module(LossConfig(mode="erm", label_smoothing=0.0)), data(tiny, mode="erm"))
    for name, tensor in erm.items():
        torch.testing.assert_close(dr[name], tensor, rtol=1e-5, atol=1e-6)
    smoothed = fit(module(LossConfig(mode="erm", label_smoothing=0.1)), data(tiny, mode="erm"))
    assert (smoothed["network.head.bias"] - erm["network.head.bias"]).abs().max() > 1e-4


def test_another_number_of_classes_ends_before_the_first_step(tiny: TinyData) -> None:
    wrong = module(LossConfig(), classes=CLASSES + 1)
    message = r"model\.classes is 6, the data has 5 classes; set model\.classes to 5"
    with pytest.raises(ValueError, match=message):
        fit(wrong, data(tiny, store=tiny.store()))


def test_the_moving_average_follows_every_step_and_is_measured(tiny: TinyData) -> None:
    trained, seen = module(LossConfig()), []
    expected = {name: tensor.clone() for name, tensor in trained.network.state_dict().items()}

    class Watch(lightning.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            if trainer.global_step == len(seen):
                return
            for name, tensor in pl_module.network.state_dict().items():
                if tensor.is_floating_point():
                    expected[name] = 0.9 * expected[name] + 0.1 * tensor
                else:
                    expected[name] = tensor.clone()
            seen.append({n: float(v) for n, v in trainer.callback_metrics.items()})

    final: dict[str, float] = {}

    class Measure(lightning.Callback):
        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            final.update({n: float(v) for n, v in trainer.callback_metrics.items()})

    options = {"accumulate_grad_batches": 2, "limit_val_batches": 1.0, "num_sanity_val_steps": 0}
    options |= {"val_check_interval": 2 * STEPS, "callbacks": [Watch(), Measure()]}
    fit(trained, data(tiny, store=tiny.store(), batch_size=22, eval_batch_size=4), **options)
    assert len(seen) == STEPS
    for name, tensor in trained.ema.module.state_dict().items():
        torch.testing.assert_close(tensor, expected[name])
    assert {f"val/{name}" for name in ("loss", "top1", "top5", "ece", "top1_ema")} <= set(final)
    assert final["val/top5"] == 1.0  # of five classes
    check_measures(trained, data(tiny), final)


def check_measures(
    trained: ReinforcementModule, measured: ReinforcementData, final: dict[str, float]
) -> None:
    """Compare the logged measures with those of all images in one batch."""
    measured.trainer = trained.trainer
    measured.setup("validate")
    (batch,) = measured.val_dataloader()
    trained.eval()
    with torch.inference_mode():
        logits = trained(batch["image"])
        averaged = trained.ema(trained._normalise(batch["image"].float() / 255))
    for name, answers in (("top1", logits), ("top1_ema", averaged)):
        correct = (answers.argmax(-1) == batch["label"]).sum() / 11
        assert final[f"val/{name}"] == pytest.approx(float(correct))
    loss = F.cross_entropy(logits, batch["label"])
    assert final["val/loss"] == pytest.approx(float(loss), rel=1e-5)
    bins = torch.zeros(15, 3)
    for row, label in zip(logits.softmax(-1), batch["label"], strict=True):
        confidence, chosen = row.max(0)
        values = torch.tensor([1.0, float(confidence), float(chosen == label)])
        bins[int(confidence * 15)] += values
    ece = (bins[:, 2] - bins[:, 1]).abs().sum() / 11
    assert final["val/ece"] == pytest.approx(float(ece), abs=1e-5)


def test_the_average_holds_batch_norms_statistics_and_needs_no_gradient() -> None:
    network = build_model("conv4", num_classes=3, image_size=8)
    average = moving_average(network, momentum=0.25)
    assert not any(parameter.requires_grad for parameter in average.parameters())
    before = network.stem[1].running_mean.clone()
    network(torch.rand(4, 3, 8, 8))
    average.update(network)
    expected = 0.75 * before + 0.25 * network.stem[1].running_mean
    torch.testing.assert_close(average.module.stem[1].running_mean, expected)
    assert average.module.stem[1].num_batches_tracked == 1


def batch(dtype: torch.dtype = torch.uint8) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(256, (6, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    p = torch.rand(6, CLASSES, generator=generator).softmax(-1).sort(descending=True)
    return {
        "image": image if dtype == torch.uint8 else image.float() / 255,
        "label": torch.arange(6) % CLASSES,
        "classes": p.indices[:, :3],
        "probabilities": p.values[:, :3],
        "keys": list("abcdef"),
    }


def loss_of(trained: ReinforcementModule, given: dict[str, Any]) -> Tensor:
    trained.train()
    return trained.training_step(given, 0)


def test_sparse_and_dense_targets_have_one_value_and_gradient() -> None:
    results = []
    for form in ("sparse", "dense"):
        for rest in ("uniform", "renormalise"):
            trained = module(LossConfig(form=form, rest=rest))
            trained.log = lambda *args, **kwargs: None
            loss = loss_of(trained, batch())
            loss.backward()
            results.append((loss.item(), trained.network.head.weight.grad))
    for one, other in ((0, 2), (1, 3)):
        assert results[one][0] == pytest.approx(results[other][0], rel=1e-5)
        torch.testing.assert_close(results[one][1], results[other][1], rtol=1e-4, atol=1e-6)
    assert results[0][0] != pytest.approx(results[1][0], rel=1e-3)


def test_the_loss_is_the_divergence_from_the_completed_label() -> None:
    trained, given = module(LossConfig()), batch()
    trained.log = lambda *args, **kwargs: None
    loss = loss_of(trained, given)
    normalised = (given["image"].float() / 255 - trained.mean) / trained.std
    log_p = trained.network(normalised).log_softmax(-1).detach()
    expected = 0.0
    for row in range(6):
        q = torch.full((CLASSES,), float(1 - given["probabilities"][row].sum()) / (CLASSES - 3))
        q[given["classes"][row]] = given["probabilities"][row]
        expected += float((q * (q.log() - log_p[row])).sum()) / 6
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    same = loss_of(trained, batch(torch.float32))
    assert same.item() == loss.item()


def test_kd_has_temperature_and_hard_labels(tiny: TinyData) -> None:
    config = LossConfig(
        mode="kd", temperature=2.0, kd_weight=0.7, ce_weight=0.3, label_smoothing=0.0
    )
    trained, given = module(config, teacher=tiny.teacher), batch()
    logged: dict[str, float] = {}
    trained.log = lambda name, value, **options: logged.update({name: float(value.detach())})
    trained.on_fit_start()
    loss = loss_of(trained, given)
    p = trained._teacher[0].probabilities(given["image"])
    logits = trained(given["image"]).detach()
    target, student = (p.log() / 2).softmax(-1), (logits / 2).log_softmax(-1)
    kd = 4 * F.kl_div(student, target, reduction="batchmean")
    ce = F.cross_entropy(logits, given["label"])
    assert loss.item() == pytest.approx(float(0.7 * kd + 0.3 * ce), rel=1e-4)
    assert logged["train/loss_kd"] == pytest.approx(float(kd), rel=1e-4)
    assert logged["train/loss_ce"] == pytest.approx(float(ce), rel=1e-4)


def test_the_teacher_is_frozen_and_in_no_checkpoint(tiny: TinyData) -> None:
    trained = module(LossConfig(mode="kd"), teacher=tiny.teacher)
    names = set(trained.state_dict())
    trained.on_fit_start()
    assert set(trained.state_dict()) == names
    trained.train()
    networks = [member.network for member in trained._teacher[0].members]
    assert not any(n.training or any(p.requires_grad for p in n.parameters()) for n in networks)
    with pytest.raises(ValueError, match=r"teacher\.members must name .* for loss\.mode kd"):
        module(LossConfig(mode="kd"))
    with pytest.raises(ValueError, match=r"teacher is of loss\.mode kd only, .* loss\.mode dr"):
        module(LossConfig(), teacher=tiny.teacher)


def test_erm_mixes_whole_batches_when_asked(tiny: TinyData) -> None:
    trained = module(LossConfig(mode="erm", mixup_alpha=0.2, cutmix_alpha=1.0, label_smoothing=0.1))
    trained.log = lambda *args, **kwargs: None
    given = batch()
    torch.manual_seed(5)
    loss = loss_of(trained, given)
    torch.manual_seed(5)
    image, label = mix_batch(
        given["image"].float() / 255,
        given["label"],
        num_classes=CLASSES,
        mixup_alpha=0.2,
        cutmix_alpha=1.0,
    )
    smooth = 0.9 * label + 0.1 / CLASSES
    expected = -(smooth * trained(image).log_softmax(-1)).sum(-1).mean().detach()
    assert loss.item() == pytest.approx(float(expected), rel=1e-5)


def test_a_run_starts_from_a_body_with_a_new_head(tiny: TinyData, tmp_path: Path) -> None:
    saved = build_model("conv4", num_classes=9, image_size=SIZE)
    checkpoints.save_weights(tmp_path / "w.safetensors", saved.state_dict(), {})
    tuned = module(LossConfig(), init_from=tmp_path / "w.safetensors")
    head = tuned.network.head.weight.clone()
    prepared = data(tiny, store=tiny.store())
    prepared.setup("fit")
    tuned.trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    tuned.setup("fit")
    for network in (tuned.network, tuned.ema.module):
        assert torch.equal(network.stages[0].first[0].weight, saved.stages[0].first[0].weight)
        assert torch.equal(network.head.weight, head)
    assert tuned.hparams["model"]["init_from"] == str(tmp_path / "w.safetensors")

"""The training step against its definition, and stored knowledge against live teachers."""

from dataclasses import replace
from typing import Any

import lightning
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mobileclip.config import LossConfig, ModelConfig, RangeAugmentConfig
from mobileclip.generate.teacher_config import TeacherConfig, TeacherEnsembleConfig
from mobileclip.generate.teachers import Teacher, Teachers
from mobileclip.module import MobileCLIPModule
from mobileclip.reinforced_loss import TeacherEmbeddings, reinforced_loss
from mobileclip.teacher_columns import TeacherColumns, split_columns
from mobileclip.tokenizer import tokenize
from tenfold.bare_trainer import bare_trainer
from tenfold.cli.quiet import silence_adverts
from tenfold.ema_config import EmaConfig
from tenfold.optim import OptimConfig
from tenfold.zero_shot import recall_at_k

PAIRS, DIMS, SCALES = 6, (5, 3), (30.0, 10.0)
LENGTH = 16
CLIP_BOTH = LossConfig(mode="clip")
REAL = ["a red square", "two cats", "click here", "a tall tree", "a cup", "snow on a hill"]
SYNTHETIC = ["a shape", "animals", "a sign", "a plant", "a thing to drink from", "a mountain"]
ONLINE = TeacherEnsembleConfig(members=(TeacherConfig(model="local-dir:unused"),))


@pytest.fixture(autouse=True)
def _no_adverts() -> None:
    silence_adverts()


class TinyTeacher(nn.Module):
    """Projects mean colours and token counts."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(dim)
        self.image = nn.Parameter(torch.randn(3 * 16, dim, generator=generator))
        self.text = nn.Parameter(torch.randn(49408, dim, generator=generator))

    def encode_image(self, image: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(image, 4).flatten(1) @ self.image

    def encode_text(self, tokens: Tensor) -> Tensor:
        return self.text[tokens].sum(1)


def teachers() -> Teachers:
    return Teachers(
        [
            Teacher(
                name=f"teacher {dim}",
                network=TinyTeacher(dim),
                tokenize=tokenize,
                logit_scale=scale,
                size=24,
            )
            for dim, scale in zip(DIMS, SCALES, strict=True)
        ]
    )


def online_batch() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(256, (PAIRS, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return {
        "image": image,
        "teacher_view": image.repeat_interleave(2, 2).repeat_interleave(2, 3),
        "text": REAL,
        "synthetic_text": SYNTHETIC,
        "tokens": tokenize(REAL, context_length=LENGTH),
        "synthetic_tokens": tokenize(SYNTHETIC, context_length=LENGTH),
        "keys": [f"pair {n}" for n in range(PAIRS)],
    }


def stored_batch() -> dict[str, Any]:
    batch, live = online_batch(), teachers()
    stored = {
        "teacher_image": live.encode_images(batch.pop("teacher_view")),
        "teacher_text": live.encode_texts(batch.pop("text")),
        "teacher_synthetic": live.encode_texts(batch.pop("synthetic_text")),
    }
    return batch | stored


def module(loss: LossConfig = LossConfig(), **options: Any) -> MobileCLIPModule:
    torch.manual_seed(1)
    model = ModelConfig(name="tiny", grad_checkpointing=options.pop("grad_checkpointing", False))
    optim = OptimConfig(lr=1e-2, total_steps=4, weight_decay=0.2)
    built = MobileCLIPModule(model, loss, optim, **options)
    if loss.mode == "dr":
        built.columns = TeacherColumns(DIMS, SCALES)
    if loss.mode == "online":
        live = teachers()
        built._teachers, built.columns = [live], TeacherColumns(live.dims, live.scales)
    with torch.no_grad():  # a tower that starts near the identity would hide its blocks
        for name, parameter in built.network.named_parameters():
            if "layer_scale" in name or "gamma" in name:
                parameter.fill_(0.5)
    return built.train()


def step(trained: MobileCLIPModule, batch: dict[str, Any]) -> tuple[dict[str, float], Tensor]:
    """Return what one step logs, and its loss."""
    logged: dict[str, float] = {}
    trained.log = lambda name, value, **options: logged.update({name: float(value)})
    return logged, trained.training_step(batch, 0)


def gradients(trained: MobileCLIPModule, loss: Tensor) -> dict[str, Tensor]:
    trained.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in trained.network.named_parameters()}


@pytest.mark.parametrize("captions", ["real", "synthetic", "mix", "both"])
def test_the_loss_is_that_of_its_embeddings(captions: Any) -> None:
    config = LossConfig(captions=captions, distill_weight=0.75)
    batch, trained, other = stored_batch(), module(config), module(config).network
    names = {"real": ["text"], "mix": ["text"], "synthetic": ["synthetic"]}
    used = names.get(captions, ["text", "synthetic"])
    keys = {"text": "tokens", "synthetic": "synthetic_tokens"}
    image = other.encode_image(batch["image"].float() / 255)
    text = other.encode_text(torch.cat([batch[keys[name]] for name in used]))
    found = dict(zip(used, text.chunk(len(used)), strict=True))
    targets = [
        TeacherEmbeddings(
            **{n: batch[f"teacher_{n}"].split(DIMS, dim=1)[k] for n in ("image", *used)}
        )
        for k in range(2)
    ]
    terms = reinforced_loss(
        image,
        found.get("text"),
        found.get("synthetic"),
        targets,
        logit_scale=1 / 0.07,
        teacher_scales=SCALES,
        distill_weight=0.75,
    )
    for absent in {"text", "synthetic"} - {*used}:
        del batch[keys[absent]], batch[f"teacher_{absent}"]
    logged, loss = step(trained, batch)
    assert loss.item() == pytest.approx(terms.total.item(), rel=1e-5)
    expected = {"loss": terms.total, "loss_clip": terms.clip}
    expected |= {"loss_distill_ce": terms.distill_ce, "loss_distill_kl": terms.distill_kl}
    assert logged.pop("train/logit_scale") == pytest.approx(1 / 0.07)
    assert logged == {f"train/{n}": pytest.approx(v.item(), rel=1e-5) for n, v in expected.items()}


def test_stored_equals_online() -> None:
    """One loss for both: the paper's claim that nothing is lost by storing."""
    stored, live = module(), module(LossConfig(mode="online"), teachers=ONLINE)
    stored_log, stored_loss = step(stored, stored_batch())
    live_log, live_loss = step(live, online_batch())
    assert live_log == pytest.approx(stored_log, rel=1e-5)
    expected = gradients(stored, stored_loss)
    for name, gradient in gradients(live, live_loss).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-6)
    assert live_log["train/loss_distill_kl"] > 0.1


def test_scales_of_the_options_go_before_those_of_the_data() -> None:
    batch = stored_batch()
    by_data, _ = step(module(), batch)
    same, _ = step(module(LossConfig(teacher_scales=SCALES)), batch)
    one, _ = step(module(LossConfig(teacher_scales=(10.0,))), batch)
    two, _ = step(module(LossConfig(teacher_scales=(10.0, 10.0))), batch)
    assert by_data == same
    assert one == two
    assert one["train/loss_distill_ce"] != pytest.approx(by_data["train/loss_distill_ce"], rel=1e-3)
    with pytest.raises(ValueError, match=r"one a teacher \(2\), got 3"):
        step(module(LossConfig(teacher_scales=(1.0, 2.0, 3.0))), batch)


def test_without_teachers_it_is_the_contrastive_loss_of_both_captions() -> None:
    batch = stored_batch()
    logged, loss = step(module(CLIP_BOTH), batch)
    terms, _ = step(module(LossConfig(distill_weight=0.0)), batch)
    assert loss.item() == logged["train/loss_clip"] == pytest.approx(terms["train/loss"], rel=1e-6)
    assert set(logged) == {"train/loss", "train/loss_clip", "train/logit_scale"}


@pytest.mark.parametrize(
    "config", [LossConfig(micro_batch=2), LossConfig(micro_batch=4, column_chunk=4)]
)
@pytest.mark.parametrize("grad_checkpointing", [False, True])
def test_micro_batches_and_chunks_change_nothing(config: LossConfig, grad_checkpointing) -> None:
    plain = module()
    saving = module(config, grad_checkpointing=grad_checkpointing)
    for trained in (plain, saving):  # batch norm would see other batches
        for part in trained.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.eval()
    (expected_log, loss), (log, saving_loss) = (step(m, stored_batch()) for m in (plain, saving))
    assert log == pytest.approx(expected_log, rel=1e-5)
    expected = gradients(plain, loss)
    for name, gradient in gradients(saving, saving_loss).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "without", "message"),
    [
        (LossConfig(), "synthetic_tokens", "captions both got a batch without synthetic_tokens"),
        (LossConfig(captions="real"), "tokens", "captions real got a batch without tokens"),
        (LossConfig(), "teacher_synthetic", "dr got a batch without teacher_synthetic"),
        (LossConfig(mode="online"), "teacher_view", "online got a batch without teacher_view"),
        (LossConfig(mode="online"), "text", "online got a batch without text"),
    ],
)
def test_a_batch_of_other_data_is_refused(config: LossConfig, without: str, message: str) -> None:
    online = config.mode == "online"
    batch = online_batch() if online else stored_batch()
    del batch[without]
    with pytest.raises(ValueError, match=message):
        step(module(config, teachers=ONLINE if online else None), batch)


def test_teachers_of_other_widths_are_refused() -> None:
    """Defect 2 of the official patch: a default width that drops a column unseen."""
    with pytest.raises(
        ValueError, match=r"teacher_image has 8 columns, the teachers have \[5, 2\]"
    ):
        split_columns({"teacher_image": torch.zeros(2, 8)}, (5, 2))
    trained = module()
    trained.columns = None
    with pytest.raises(ValueError, match="needs data that name their teachers"):
        step(trained, stored_batch())


@pytest.mark.parametrize("mode", ["clip", "dr"])
def test_teachers_are_for_online_alone(mode: Any) -> None:
    with pytest.raises(ValueError, match=f"mode online alone, mode is {mode}"):
        module(LossConfig(mode=mode), teachers=ONLINE)
    with pytest.raises(ValueError, match="mode online alone, mode is online"):
        MobileCLIPModule(ModelConfig(name="tiny"), LossConfig(mode="online"))
    live = module(LossConfig(mode="online"), teachers=ONLINE)
    assert live.state_dict().keys() == module(CLIP_BOTH).state_dict().keys()


class Pairs(lightning.LightningDataModule):
    """Equal training batches, and two held-out batches of 4 and 2 pairs."""

    info = None

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.batches = [stored_batch()] * steps

    def train_dataloader(self) -> Any:
        return DataLoader(self.batches, batch_size=None)

    def val_dataloader(self) -> Any:
        whole = stored_batch()
        halves = [{n: whole[n][part] for n in whole} for part in (slice(0, 4), slice(4, 6))]
        return DataLoader(halves, batch_size=None)


def fit(trained: MobileCLIPModule, steps: int = 2, **options: Any) -> lightning.Trainer:
    trainer = bare_trainer(steps, **options)
    trainer.fit(trained, datamodule=Pairs(steps))
    return trainer


def test_the_scale_is_clamped_and_the_average_follows() -> None:
    trained = module(ema=EmaConfig(momentum=0.25))
    before = {n: t.clone() for n, t in trained.network.state_dict().items()}
    with torch.no_grad():
        trained.network.logit_scale.fill_(9.0)
    trained.ema.set(trained.network)
    fit(trained, steps=1)
    assert trained.network.scale().item() == pytest.approx(100)
    averaged = trained.ema.module.state_dict()
    name = "text_tower.token_embedding.weight"
    expected = 0.75 * before[name] + 0.25 * trained.network.state_dict()[name]
    torch.testing.assert_close(averaged[name], expected)
    assert averaged["logit_scale"].item() == pytest.approx(0.75 * 9 + 0.25 * 4.60517, rel=1e-5)


def test_held_out_pairs_are_measured_with_the_average_beside() -> None:
    trained = module(ema=EmaConfig(momentum=0.25))
    trainer = fit(trained, limit_val_batches=1.0, num_sanity_val_steps=0)
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    trained.eval()
    for network, ending in ((trained.network, ""), (trained.ema.module, "_ema")):
        losses, images, texts = [], [], []
        with torch.inference_mode():
            for batch in Pairs(1).val_dataloader():
                image, text = network(batch["image"] / 255, batch["tokens"])
                terms = reinforced_loss(
                    image, text, None, logit_scale=network.scale(), distill_weight=0.0
                )
                losses.append(terms.clip.item() * len(image) / PAIRS)
                images.append(image)
                texts.append(text)
            recall = recall_at_k(torch.cat(images), torch.cat(texts), torch.arange(PAIRS), ks=(1,))
        assert found[f"val/loss{ending}"] == pytest.approx(sum(losses), rel=1e-4)
        assert found[f"val/image_to_text_r1{ending}"] == pytest.approx(recall.image_to_text[1])
        assert found[f"val/text_to_image_r1{ending}"] == pytest.approx(recall.text_to_image[1])
    assert found["val/loss"] != found["val/loss_ema"]
    predicted = trained.predict_step(stored_batch(), 0)
    assert torch.equal(predicted["image"], trained.ema.module(*inputs())[0])


def inputs() -> tuple[Tensor, Tensor]:
    batch = stored_batch()
    return batch["image"].float() / 255, batch["tokens"]


def test_vectors_norms_and_the_scale_are_not_decayed() -> None:
    trained = module(range_augment=RangeAugmentConfig())
    groups = trained.configure_optimizers()["optimizer"].param_groups
    names = {id(p): n for n, p in trained.named_parameters()}
    decayed, free = ({names[id(p)] for p in group["params"]} for group in groups)
    assert [group["weight_decay"] for group in groups] == [0.2, 0.0]
    assert {"network.logit_scale", "range_augment.brightness.raw_ends"} <= free
    assert "network.text_tower.token_embedding.weight" in decayed
    assert not any("bias" in name or ".bn." in name for name in decayed)


def test_images_are_augmented_in_training_only_and_strength_is_learnt() -> None:
    trained = module(range_augment=RangeAugmentConfig(), ema=EmaConfig(momentum=0.5))
    before = trained.range_augment.brightness.raw_ends.clone()
    trainer = fit(trained, limit_val_batches=1.0, num_sanity_val_steps=0)
    assert float(trainer.callback_metrics["train/loss_range_augment"]) > 0
    assert not torch.equal(trained.range_augment.brightness.raw_ends, before)
    trained.eval()
    with torch.inference_mode():
        once, again = (trained(*inputs())[0] for _ in range(2))
    assert torch.equal(once, again)
    plain = replace(LossConfig(), micro_batch=2)
    micro = module(plain, range_augment=RangeAugmentConfig())
    fit(micro, steps=1)


def test_grey_levels_are_scaled_to_one() -> None:
    trained = module(CLIP_BOTH).eval()
    image, tokens = inputs()
    assert torch.equal(trained((image * 255).to(torch.uint8), tokens)[0], trained(image, tokens)[0])

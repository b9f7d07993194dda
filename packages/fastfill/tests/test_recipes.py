"""Every shipped recipe parses, fits together, builds, and has the published settings."""

from functools import cache
from typing import Any

import pytest
import torch
import yaml

from fastfill.backbone_module import BackboneModule
from fastfill.cli import APP
from fastfill.image_data import ImageData
from fastfill.models import build_backbone
from fastfill.pair_data import PairData
from fastfill.transform import Transformation
from fastfill.transform_module import TransformModule
from tenfold.cli.training import TrainingCLI

RECIPES = {
    path.relative_to(APP.recipes_dir()).with_suffix("").as_posix(): path
    for path in sorted(APP.recipes_dir().rglob("*.yaml"))
}
IMAGES = {"imagenet": 1_281_167, "cifar100": 50_000, "places365": 1_803_460, "vggface2": 3_141_890}
CLASSES = {"imagenet": 1000, "cifar100": 100, "places365": 365, "vggface2": 8631}
KINDS = ("old", "new", "bct", "ract", "fct", "fastfill", "fastfill_side")
SETS = [name for name in RECIPES if "/" in name]
BACKBONES = [name for name in SETS if name.endswith(("/old", "/new", "/bct", "/ract"))]
MAPS = [name for name in RECIPES if name not in BACKBONES]
PUBLISHED_MAPS = [name for name in SETS if name not in BACKBONES]


def verb_of(name: str) -> str:
    """Return the verb that a recipe is for, which its first line says unless it is `fit`."""
    first = RECIPES[name].read_text(encoding="utf-8").partition("\n")[0]
    verb, colon, _ = first.removeprefix("# ").partition(": ")
    return verb if colon and verb in APP.trainings else "fit"


@cache
def parsed(name: str) -> TrainingCLI:
    return TrainingCLI(APP, verb_of(name), ["--config", str(RECIPES[name])])


@cache
def built(name: str) -> Any:
    """Make options and data of a recipe; the data class checks its own."""
    return parsed(name).parser.instantiate(parsed(name).config)


def epoch_of(name: str) -> int:
    """Return the steps of an epoch of the whole data set, the rest left out."""
    return IMAGES[name.partition("/")[0]] // 1024


def test_every_row_has_its_recipe() -> None:
    assert set(SETS) == {f"{data}/{kind}" for data in IMAGES for kind in KINDS}
    assert {"tiny_cpu", "h200", "sequence_3step", "bias"} == set(RECIPES) - set(SETS)
    assert {verb_of(name) for name in BACKBONES} == {"fit-backbone"}
    assert {verb_of(name) for name in MAPS} == {"fit"}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_parses_and_fits_together(name: str) -> None:
    config, options = parsed(name).config, built(name)
    assert isinstance(options.data, PairData if name in MAPS else ImageData)
    trainer = config.trainer
    ranks = trainer.devices if isinstance(trainer.devices, int) else 1
    assert options.data.batch_size % (ranks * trainer.accumulate_grad_batches) == 0
    assert config.optim.total_steps == trainer.max_steps > config.optim.warmup_steps
    assert config.checkpoint.monitor == "val/map"
    assert config.checkpoint.mode == "max"
    assert trainer.val_check_interval <= trainer.max_steps


@pytest.mark.parametrize("name", MAPS)
def test_a_map_is_trained_as_published(name: str) -> None:
    config, options = parsed(name).config, built(name)
    assert isinstance(TransformModule(options.model, options.loss, options.optim), TransformModule)
    assert config.optim.name == "adam"
    assert tuple(config.optim.betas) == (0.9, 0.999)
    assert config.optim.weight_decay == pytest.approx(2**-15)
    assert config.optim.decay_all
    assert config.model.eval_from == 0.5
    is_fct = name.endswith("fct")
    assert config.loss.uncertainty is not is_fct
    assert (config.loss.mu_sim, config.loss.mu_disc) == (1.0, 0.0 if is_fct else 1.0)
    assert (config.loss.similarity, config.loss.mu_unc) == ("mse", 0.5)
    assert config.loss.label_smoothing == pytest.approx(0.1)
    if name != "tiny_cpu":
        assert (config.optim.lr, config.model.inner) == (5e-4, 2048)


@pytest.mark.parametrize("name", PUBLISHED_MAPS)
def test_a_map_is_trained_as_long_as_published(name: str) -> None:
    config, epoch = parsed(name).config, epoch_of(name)
    assert config.data.batch_size == 1024
    assert config.optim.hold_steps == epoch
    assert (config.trainer.max_steps, config.optim.warmup_steps) == (80 * epoch, 5 * epoch)
    assert ("-side/" in str(config.data.path)) == name.endswith("side")


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_is_trained_as_published(name: str) -> None:
    config, data = parsed(name).config, name.partition("/")[0]
    optim, epoch = config.optim, config.optim.hold_steps
    assert (optim.name, optim.lr, optim.momentum, optim.nesterov) == ("sgd", 1.024, 0.875, False)
    assert optim.weight_decay == pytest.approx(2**-15)
    assert optim.decay_all
    assert config.data.batch_size == 1024
    assert (config.trainer.max_steps, optim.warmup_steps) == (100 * epoch, 5 * epoch)
    assert (config.model.arch, config.model.dim) == ("resnet50", 128)
    assert config.model.num_classes == CLASSES[data]
    assert config.compat.label_smoothing == pytest.approx(0.1)
    assert config.data.augment == ("flip" if data == "cifar100" else "crop")
    if not name.endswith("/old"):
        assert epoch == epoch_of(name)
        assert config.data.classes == 0


@pytest.mark.parametrize("data", IMAGES)
def test_old_and_compatible_models_belong_together(data: str) -> None:
    old = parsed(f"{data}/old").config
    seen = old.data.classes
    share = seen / CLASSES[data]
    assert old.optim.hold_steps == pytest.approx(share * IMAGES[data] / 1024, abs=1)
    for method in ("bct", "ract"):
        compat = parsed(f"{data}/{method}").config.compat
        assert (compat.method, str(compat.old)) == (method, f"runs/{data}-old")
        assert (compat.old_classes, compat.weight) == (seen, 1.0)
    ract = parsed(f"{data}/ract").config.compat
    assert (ract.temperature, ract.hardest) == (0.01, 10)
    assert (parsed("imagenet/old").config.data.classes, CLASSES["imagenet"]) == (500, 1000)
    assert (parsed("cifar100/old").config.data.classes, CLASSES["cifar100"]) == (50, 100)


def test_the_rate_is_that_of_the_official_code_in_every_epoch() -> None:
    """Warm-up lr (e+1)/5, then a half cosine over the other epochs."""
    for name, epochs, step_of in (("imagenet/fastfill", 80, 1251), ("imagenet/new", 100, 1251)):
        optim = built(name).optim
        for epoch in range(epochs):
            rise = torch.pi * torch.tensor((epoch - 5) / (epochs - 5), dtype=torch.float64)
            expected = (epoch + 1) / 5 if epoch < 5 else float(0.5 * (1 + rise.cos()))
            for step in (0, step_of - 1):
                found = optim.lr_at(epoch * step_of + step) / optim.lr
                assert found == pytest.approx(expected, abs=1e-9)


def test_the_networks_of_the_recipes_have_the_published_sizes() -> None:
    options = built("imagenet/fastfill")
    with torch.device("meta"):
        h = Transformation(128, 128, inner=options.model.inner)
        backbone = build_backbone(built("imagenet/new").model)
    assert sum(p.numel() for p in h.parameters()) == 5_712_129
    assert backbone.head.weight.shape == (1000, 128)


def test_a_backbone_recipe_builds() -> None:
    options = built("imagenet/bct")
    with torch.device("meta"):
        module = BackboneModule(options.model, options.compat, options.optim)
    assert module.network.dim == 128


@pytest.mark.parametrize("name", [*SETS, "sequence_3step", "bias"])
def test_a_recipe_names_its_sources(name: str) -> None:
    text = RECIPES[name].read_text(encoding="utf-8")
    assert "# Sources:\n" in text
    assert set(yaml.safe_load(text)) >= {"model", "optim", "data", "checkpoint", "trainer"}
    if name.startswith(("places365", "vggface2")):
        assert "are not known to us" in text
        assert "published" not in text

"""Every shipped recipe parses, builds what it names and has the published length."""

import re
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from dataset_reinforcement.cli import APP
from dataset_reinforcement.data import ReinforcementData
from dataset_reinforcement.generate import MAX_SHARD_IMAGES, generate
from dataset_reinforcement.module import ReinforcementModule
from dataset_reinforcement.resolution import VariablePlan, images_per_step
from dataset_reinforcement.teacher_config import TeacherConfig
from dataset_reinforcement.variants import VARIANTS
from tenfold.cli.functions import function_parser
from tenfold.cli.training import TrainingCLI

RECIPES = {
    path.relative_to(APP.recipes_dir()).with_suffix("").as_posix(): path
    for path in sorted(APP.recipes_dir().rglob("*.yaml"))
}
GENERATION = [name for name in RECIPES if name.startswith("generate/")]
TRANSFERS = {
    "detection/mask_rcnn_resnet50_coco": "detection",
    "segmentation/deeplabv3_resnet50_ade20k": "segmentation",
}
FITS = [name for name in RECIPES if name not in GENERATION and name not in TRANSFERS]
PUBLISHED_FITS = [name for name in FITS if name not in ("tiny_cpu", "h200")]

FAMILIES = ("mobilenetv1", "mobilenetv3", "mobilevit_s", "resnet50")
FAMILIES += ("efficientnet_b3", "vit_b16", "swin_t", "swin_s")
NUM_IMAGES = {"imagenet": 1_281_167, "cifar100": 50_000, "food101": 75_750, "flowers102": 1_020}
DOWNSTREAM_EPOCHS = {"cifar100": 1000, "food101": 1000, "flowers102": 10_000}
PUBLISHED_MILLIONS = {
    "resnet50": 25.6,
    "vit_base_patch16_224": 86.6,
    "swin_tiny_patch4_window7_224": 28.3,
    "mobilenetv3_large_100": 5.5,
}


MILLIONS: dict[tuple[str, int, int], float] = {}


@cache
def parsed(name: str) -> TrainingCLI:
    return TrainingCLI(APP, verb_of(name), ["--config", str(RECIPES[name])])


def verb_of(name: str) -> str:
    """Return the verb that a recipe is for, which its first line says unless it is `fit`."""
    is_tuned = name.endswith(("_ft", "_ft_plus"))
    verb = TRANSFERS.get(name, "finetune" if is_tuned else "fit")
    first = RECIPES[name].read_text().partition("\n")[0]
    assert verb == "fit" or first.startswith(f"# {verb}: ")
    return verb


@cache
def built(name: str) -> Any:
    """Make options and data of a recipe; the data class checks its own."""
    return parsed(name).parser.instantiate(parsed(name).config)


def test_every_published_row_has_its_recipe() -> None:
    modes = ("erm", "kd", "plus")
    rows = {f"imagenet/resnet50d_imagenet_{mode}_150" for mode in modes}
    rows |= {
        f"imagenet/{family}_imagenet_{mode}_{epochs}"
        for family in FAMILIES
        for mode in modes
        for epochs in (150, 300, 1000)
    }
    for data in DOWNSTREAM_EPOCHS:
        rows |= {f"{data}/resnet50d_{data}_{mode}" for mode in ("erm", "plus", "ft", "ft_plus")}
        rows |= {f"{data}/resnext101_{data}_teacher", f"generate/{data}"}
    rows |= {f"generate/imagenet_{name}" for name in ("rrc", "mixing", "randaug", "randaug_mixing")}
    assert set(RECIPES) == rows | set(TRANSFERS) | {"tiny_cpu", "h200"}


@pytest.mark.parametrize("name", FITS)
def test_a_recipe_parses_and_fits_together(name: str) -> None:
    config, data = parsed(name).config, built(name).data
    assert isinstance(data, ReinforcementData)
    assert config.optim.total_steps == data.total_steps == config.trainer.max_steps
    assert data.mode == config.loss.mode == mode_of(name)
    assert (data.store_path is not None) == (data.mode == "dr")
    assert (config.teacher is not None) == (data.mode == "kd")
    assert config.model.image_size == data.augment.size
    assert data.batch_size % parts(name) == 0
    assert config.optim.warmup_steps < config.trainer.max_steps
    augment = yaml.safe_load(RECIPES[name].read_text())["data"]["augment"]
    assert {"rand_augment", "erase"} <= augment.keys()  # those two are on by default


def built_millions(model: str, classes: int, image_size: int, name: str) -> float:
    """Build the module of a recipe without memory, once for each network."""
    key = (model, classes, image_size)
    if key not in MILLIONS:
        # timm's moving average asks for a random generator, which the meta device has not.
        words = ["--config", str(RECIPES[name]), "--ema.momentum=0"]
        cli = TrainingCLI(APP, verb_of(name), words)
        with torch.device("meta"):
            cli.build()
        assert isinstance(cli.model, ReinforcementModule)
        MILLIONS[key] = sum(p.numel() for p in cli.model.network.parameters()) / 1e6
    return MILLIONS[key]


def mode_of(name: str) -> str:
    if name in ("tiny_cpu", "h200"):
        return "dr"
    found = re.search(r"_(erm|kd|plus|teacher|ft)(_\d+)?$", name)
    assert found is not None
    return {"plus": "dr", "teacher": "erm", "ft": "erm"}.get(found[1], found[1])


def parts(name: str) -> int:
    """Return the ranks times micro-batches of a recipe."""
    trainer = parsed(name).config.trainer
    ranks = trainer.num_nodes * (trainer.devices if isinstance(trainer.devices, int) else 1)
    return ranks * trainer.accumulate_grad_batches


@pytest.mark.parametrize("name", PUBLISHED_FITS)
def test_a_run_shows_each_image_as_often_as_the_published_one(name: str) -> None:
    folder = name.partition("/")[0]
    ending = name.rpartition("_")[2]
    epochs = int(ending) if folder == "imagenet" else DOWNSTREAM_EPOCHS[folder]
    per_step = images_of_a_step(built(name).data, parts(name))
    assert parsed(name).config.trainer.max_steps == epochs * NUM_IMAGES[folder] // per_step


def images_of_a_step(data: ReinforcementData, divisor: int) -> Fraction:
    """Return the mean number of images of a step; sizes come equally often."""
    if data.resolution is None:
        return Fraction(data.batch_size)
    base, batch = data.augment.size, data.batch_size
    plan = VariablePlan(  # refuses sizes whose numbers of images have no common batch
        data.resolution, base=base, batch_size=batch, total_steps=16, seed=0, divisor=divisor
    )
    counts = [
        images_per_step(size, base=base, batch_size=batch, divisor=divisor) for size in plan.sizes
    ]
    return Fraction(sum(counts), len(counts))


@pytest.mark.parametrize("name", FITS)
def test_the_module_of_a_recipe_is_the_published_one(name: str) -> None:
    model = parsed(name).config.model
    millions = built_millions(model.name, model.classes, model.image_size, name)
    if model.classes == 1000 and model.name in PUBLISHED_MILLIONS:
        assert round(millions, 1) == PUBLISHED_MILLIONS[model.name]


@pytest.mark.parametrize("name", [name for name in FITS if mode_of(name) == "kd"])
def test_a_teacher_has_published_weights(name: str) -> None:
    assert_published(built(name).teacher, classes=1000)


def assert_published(teacher: TeacherConfig, *, classes: int) -> None:
    import timm

    for member in teacher.members:
        assert member.model is not None
        assert timm.is_model(member.model.partition(".")[0])
        if member.pretrained:
            default = timm.get_pretrained_cfg(member.model)
            assert default is not None
            assert default.num_classes == classes


@pytest.mark.parametrize("name", GENERATION)
def test_a_generation_parses(name: str) -> None:
    parser = function_parser(generate, prog="generate")
    options = parser.instantiate(parser.parse_args(["--config", str(RECIPES[name])]))
    data, _, variant = Path(name).name.partition("_")
    assert options.variant == (variant or data)
    assert options.variant in VARIANTS
    assert options.views == {"imagenet": 50, "flowers102": 1000}.get(data, 100)
    assert options.top_k == 10
    assert len(options.devices) <= options.workers
    assert 1 <= options.shard_size <= MAX_SHARD_IMAGES
    assert_published(options.teacher, classes=1000)


@pytest.mark.parametrize("name", [n for n in PUBLISHED_FITS if mode_of(n) == "dr"])
def test_a_store_is_what_a_generation_writes(name: str) -> None:
    stores = {yaml.safe_load(RECIPES[made].read_text())["out"]: made for made in GENERATION}
    made = yaml.safe_load(RECIPES[stores[str(built(name).data.store_path)]].read_text())
    assert made["images"] == built(name).data.images_spec


@pytest.mark.parametrize("data", DOWNSTREAM_EPOCHS)
def test_checkpoints_that_a_recipe_starts_from_are_another_recipes_last(data: str) -> None:
    def last(recipe: str, folder: str) -> Path:
        steps = parsed(recipe).config.trainer.max_steps
        return Path(f"runs/{folder}/checkpoints/step-{steps:08d}.ckpt")

    pretrained = "resnet50d_imagenet_plus_150"
    for mode in ("ft", "ft_plus"):
        start = built(f"{data}/resnet50d_{data}_{mode}").model.init_from
        assert start == last(f"imagenet/{pretrained}", pretrained)
    members = yaml.safe_load(RECIPES[f"generate/{data}"].read_text())["teacher"]["members"]
    student = parsed(f"{data}/resnet50d_{data}_plus").config.model
    for member in members:
        run = f"{member['model']}_{data}_teacher"
        assert Path(member["checkpoint"]) == last(f"{data}/resnext101_{data}_teacher", run)
        assert tuple(member["mean"]) == tuple(student.mean)
        assert tuple(member["std"]) == tuple(student.std)
        trained = parsed(f"{data}/resnext101_{data}_teacher").config.model
        assert member["size"] == trained.image_size
        assert tuple(member["mean"]) == tuple(trained.mean)
        assert tuple(member["std"]) == tuple(trained.std)


TRANSFER_IMAGES = {"detection": 117_266, "segmentation": 20_210}
TRANSFER_EPOCHS = {"detection": 100, "segmentation": 50}


@pytest.mark.parametrize("name", TRANSFERS)
def test_a_transfer_parses_builds_and_has_the_published_length(name: str) -> None:
    verb, options = TRANSFERS[name], built(name)
    images, epochs = TRANSFER_IMAGES[verb], TRANSFER_EPOCHS[verb]
    steps = parsed(name).config.trainer.max_steps
    assert options.data.batch_size % parts(name) == 0
    assert steps == options.optim.total_steps == epochs * images // options.data.batch_size
    words = ["--config", str(RECIPES[name]), "--ema.momentum=0"]
    cli = TrainingCLI(APP, verb, [*words, "--backbone.init_from=null"])
    cli.build()
    millions = sum(p.numel() for p in cli.model.parameters()) / 1e6
    # Mask R-CNN R50-FPN has 44.4 million weights with 91 classes; DeepLabv3 R50 42.0 with 21.
    assert millions == pytest.approx({"detection": 44.4, "segmentation": 42.1}[verb], abs=0.1)


def test_transfers_have_the_published_settings() -> None:
    """Mask R-CNN as in the spec's source, DeepLabv3 as beside it."""
    detection, segmentation = map(built, TRANSFERS)
    assert detection.model.image_size == 1024
    assert parsed(next(iter(TRANSFERS))).config.trainer.sync_batchnorm
    factors = [detection.optim.factor(int(share * 366_456)) for share in (0.5, 0.7, 0.9)]
    assert factors == pytest.approx([1, 0.1, 0.01])
    rates = [(o.optim.lr, o.optim.backbone_lr_scale) for o in (detection, segmentation)]
    assert rates == [(0.1, 0.1), (0.02, 1.0)]
    assert 0.02 * segmentation.optim.factor(63_156) == pytest.approx(1e-4)
    assert [o.ema.momentum for o in (detection, segmentation)] == [5e-4, 1e-4]
    assert segmentation.model.classes == segmentation.data.num_classes


@pytest.mark.parametrize("name", TRANSFERS)
def test_a_transfer_starts_from_another_recipes_last_checkpoint(name: str) -> None:
    body, backbone = "resnet50_imagenet_plus_300", built(name).backbone
    student = parsed(f"imagenet/{body}").config
    steps = student.trainer.max_steps
    assert backbone.init_from == Path(f"runs/{body}/checkpoints/step-{steps:08d}.ckpt")
    assert backbone.name == student.model.name
    assert tuple(backbone.mean) == tuple(student.model.mean)

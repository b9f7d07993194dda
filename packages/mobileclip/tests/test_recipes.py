"""Every shipped recipe parses, fits together, and has the published length and model."""

from functools import cache
from typing import Any

import pytest
import torch
import yaml

from mobileclip.cli import APP
from mobileclip.data import ReinforcedData
from mobileclip.models.clip import build_model
from mobileclip.models.fold import num_parameters
from mobileclip.published import published
from tenfold.cli.training import TrainingCLI

RECIPES = {
    path.relative_to(APP.recipes_dir()).with_suffix("").as_posix(): path
    for path in sorted(APP.recipes_dir().rglob("*.yaml"))
}
PUBLISHED = [name for name in RECIPES if name not in ("tiny_cpu", "h200")]
SCRIPTS = [name for name in PUBLISHED if name.endswith("_official")]
PAPERS = [name for name in PUBLISHED if name.endswith("_paper")]

PARAMETERS = {  # image and text tower, unfolded (spec 2.3), and the temperature
    "s0": 11_406_464 + 42_441_216 + 1,
    "s1": 21_541_120 + 63_428_096 + 1,
    "s2": 35_814_720 + 63_428_096 + 1,
    "b": 86_348_544 + 63_428_096 + 1,
}
BILLIONS_SEEN = {  # paper: 13B in 200k steps, 39B (LT); 0.24B and 0.37B on 12M
    "datacompdr1b": {"": 13.1, "_lt": 39.3},
    "dfndr2b": {"": 13.1},
    "datacompdr12m": {"": 0.246, "_45k": 0.369},
}


@cache
def parsed(name: str) -> TrainingCLI:
    return TrainingCLI(APP, "fit", ["--config", str(RECIPES[name])])


@cache
def built(name: str) -> Any:
    """Make options and data of a recipe; the data class checks its own."""
    return parsed(name).parser.instantiate(parsed(name).config)


def variant(name: str) -> str:
    return next((part for part in ("_lt", "_45k") if f"{part}_" in name), "")


def test_every_published_row_has_its_recipe() -> None:
    models = [f"{model}_datacompdr1b" for model in ("s0", "s1", "s2", "b", "b_lt")]
    rows = {
        f"datacompdr1b/{row}_{flavour}".replace("b_lt_datacompdr1b", "b_datacompdr1b_lt")
        for row in models
        for flavour in ("paper", "official")
    }
    for data in ("datacompdr12m", "datacomp12m"):
        endings = ("paper", "official", "45k_paper")
        rows |= {f"datacompdr12m/b_{data}_{ending}" for ending in endings}
    rows |= {"dfndr2b/b_dfndr2b_official", "dfndr2b/s2_dfndr2b_paper"}
    assert set(PUBLISHED) == rows
    assert {"tiny_cpu", "h200"} <= set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_parses_and_fits_together(name: str) -> None:
    config, data = parsed(name).config, built(name).data
    assert isinstance(data, ReinforcedData)
    assert config.optim.total_steps == data.total_steps == config.trainer.max_steps
    assert data.config.mode == config.loss.mode
    assert data.config.captions == config.loss.captions
    assert data.config.image_size == (config.model.image_size or native_size(config.model.name))
    assert config.optim.warmup_steps < config.trainer.max_steps
    trainer = config.trainer
    ranks = trainer.num_nodes * (trainer.devices if isinstance(trainer.devices, int) else 1)
    assert data.batch_size % (ranks * trainer.accumulate_grad_batches) == 0
    assert (config.loss.mode == "online") == (config.teachers is not None)
    assert config.checkpoint.monitor.endswith("_ema") == (config.ema.momentum > 0)


def native_size(model: str) -> int:
    return {"b": 224, "tiny": 32}.get(model, 256)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_run_sees_as_many_pairs_as_the_published_one(name: str) -> None:
    steps, batch = parsed(name).config.trainer.max_steps, built(name).data.batch_size
    expected = BILLIONS_SEEN[name.partition("/")[0]][variant(name)]
    assert steps * batch / 1e9 == pytest.approx(expected, rel=0.005)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_optimiser_is_the_published_one(name: str) -> None:
    optim, loss = parsed(name).config.optim, parsed(name).config.loss
    assert (optim.name, optim.lr, optim.weight_decay) == ("adamw", 1e-3, 0.2)
    assert tuple(optim.betas) == (0.9, 0.95)
    assert optim.constant_steps == (300_000 if variant(name) == "_lt" else 0)
    if loss.mode == "dr":
        on_1b = name.startswith("datacompdr1b/b_")
        assert loss.distill_weight == (0.75 if on_1b else 1.0)
        assert loss.captions == "both"
    assert (loss.mode == "clip") == ("datacomp12m" in name)


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_official_flavour_is_the_released_script(name: str) -> None:
    config = parsed(name).config
    assert (config.optim.warmup_steps, config.optim.min_lr) == (1000, 0.0)
    assert config.trainer.precision == "16-mixed"
    assert config.trainer.gradient_clip_val == 1.0
    assert config.ema.momentum == 0
    vit = "/b_" in name and "dfndr" not in name  # the scripts' own model is then ViT-B-16
    assert config.optim.eps == (1e-6 if vit else 1e-8)
    baseline, reinforced = "datacompdr12m/b_datacomp12m", "datacompdr12m/b_datacompdr12m"
    nodes = 1 if name.startswith(baseline) else 4 if name.startswith(reinforced) else 16
    assert (config.trainer.num_nodes, config.trainer.devices) == (nodes, 8)


@pytest.mark.parametrize("name", [name for name in PAPERS if "dfndr" not in name])
def test_the_paper_flavour_is_table_12(name: str) -> None:
    config = parsed(name).config
    assert config.optim.min_lr == 1e-6
    assert config.optim.warmup_steps == (2000 if name.startswith("datacompdr1b/") else 1000)
    assert config.trainer.precision == "bf16-mixed"
    assert config.ema.momentum == pytest.approx(1 - 0.9995)
    gpus = 256 if name.startswith("datacompdr1b/") else 8
    assert config.trainer.num_nodes * config.trainer.devices == gpus


@pytest.mark.parametrize("name", [n for n in PUBLISHED if parsed(n).config.loss.mode == "dr"])
def test_teachers_are_those_of_the_release(name: str) -> None:
    data = built(name).data
    info = published(data.release)
    assert data.teacher_dims == info.dims
    scales = parsed(name).config.loss.teacher_scales
    assert sorted(scales or info.scales) == sorted(info.scales)


@pytest.mark.parametrize("model", PARAMETERS)
def test_the_models_of_the_recipes_have_the_published_sizes(model: str) -> None:
    assert any(parsed(name).config.model.name == model for name in PUBLISHED)
    with torch.device("meta"):
        assert num_parameters(build_model(model)) == PARAMETERS[model]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_names_its_sources(name: str) -> None:
    text = RECIPES[name].read_text(encoding="utf-8")
    assert "# Sources:\n" in text
    assert set(yaml.safe_load(text)) >= {"model", "loss", "optim", "data", "trainer"}

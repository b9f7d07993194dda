"""Every shipped recipe parses, fits together, builds shrunk, and has the released settings."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from training_stores import make_store

from biofame.cli import APP
from biofame.config import HeadConfig, ModelConfig
from biofame.data import SignalData
from biofame.heads import Classifier
from biofame.model import BioFame
from biofame.pretrain import PretrainModule
from biofame.signals import canonical_name
from tenfold import checkpoints
from tenfold.cli.training import TrainingCLI

RECIPES = {path.stem: path for path in sorted(APP.recipes_dir().glob("*.yaml"))}
OFFICIAL = ("official_unimodal_epilepsy_pretrain", "multimodal_eeg_eog_emg", "query_operator")
TINY = ("tiny_cpu", "tiny_basicmotions_cpu")


def verb_of(name: str) -> str:
    """Return the verb that a recipe is for, which its first line says unless it is `pretrain`."""
    first = RECIPES[name].read_text(encoding="utf-8").partition("\n")[0]
    verb, colon, _ = first.removeprefix("# ").partition(": ")
    return verb if colon and verb in APP.trainings else "pretrain"


PRETRAIN = [name for name in RECIPES if verb_of(name) == "pretrain"]
FINETUNE = [name for name in RECIPES if verb_of(name) == "finetune"]


@cache
def parsed(name: str) -> TrainingCLI:
    return TrainingCLI(APP, verb_of(name), ["--config", str(RECIPES[name])])


@cache
def built(name: str) -> Any:
    """Make options and data of a recipe; the dataclasses check their own."""
    return parsed(name).parser.instantiate(parsed(name).config)


def test_the_recipes_that_the_paper_needs_are_there() -> None:
    assert {*OFFICIAL, *TINY, "h200", "official_unimodal_epilepsy_finetune"} < set(PRETRAIN) | set(
        FINETUNE
    )
    assert {"finetune_tiny_cpu", "finetune_basicmotions_cpu"} < set(FINETUNE)


@pytest.mark.parametrize("name", [*PRETRAIN, *FINETUNE])
def test_a_recipe_parses_and_fits_together(name: str) -> None:
    config, options = parsed(name).config, built(name)
    assert isinstance(options.data, SignalData)
    trainer, optim = config.trainer, options.optim
    assert optim.total_steps == trainer.max_steps > optim.warmup_steps
    assert trainer.val_check_interval <= trainer.max_steps
    assert tuple(optim.betas) == (0.9, 0.999)
    if name in PRETRAIN:
        assert (config.checkpoint.monitor, config.checkpoint.mode) == ("val/masked_error", "min")
        assert set(options.data.wanted_channels or ()) <= set(options.model.channels)
        for channel in options.model.channels:
            assert canonical_name(channel) == channel
        with torch.device("meta"):
            PretrainModule(options.model, options.decoder, options.loss, options.optim)
    else:
        assert (config.checkpoint.monitor, config.checkpoint.mode) == ("val/macro_f1", "max")
        with torch.device("meta"):
            Classifier(BioFame(ModelConfig()), options.head)


@pytest.mark.parametrize("name", OFFICIAL)
def test_pre_training_is_that_of_the_released_code(name: str) -> None:
    options = built(name)
    model = ModelConfig(
        channels=options.model.channels,
        operator="query" if name == "query_operator" else "pool",
    )
    assert options.model == model  # the defaults are the released ones
    assert options.decoder.per_channel is (len(model.channels) > 1)
    assert options.decoder.embedding_std == 1.0
    loss = options.loss
    assert (loss.mask_ratio, loss.masking, loss.target, loss.divisor) == (
        0.5, "latent", "raw", "code",
    )  # fmt: skip
    assert options.data.batch_size == 128
    assert parsed(name).config.trainer.max_steps == 300 * 25_600 // 128
    check_optimiser(options.optim)


def test_fine_tuning_is_that_of_the_released_code() -> None:
    options = built("official_unimodal_epilepsy_finetune")
    assert options.head == HeadConfig(outputs=2, mixup=0.2)
    assert options.data.batch_size == 128
    assert parsed("official_unimodal_epilepsy_finetune").config.trainer.max_steps == 100
    check_optimiser(options.optim)


def check_optimiser(optim: Any) -> None:
    """Adam, L2 of all parameters, one rate from the first step to the last."""
    assert (optim.name, optim.weight_decay, optim.decay_all) == ("adam", 1e-4, True)
    last = optim.total_steps
    assert {optim.lr_at(step) for step in (0, 1, last // 2, last - 1)} == {1e-3}


def test_fine_tuning_starts_from_the_run_that_its_recipe_names() -> None:
    for name in FINETUNE:
        text, run = RECIPES[name].read_text(encoding="utf-8"), built(name).init.run
        (command,) = [line for line in text.splitlines() if line.startswith("# First: ")]
        words = command.split()
        assert words[-1] == str(run)
        before = words[words.index("--config") + 1]
        assert before in PRETRAIN
        if name != "official_unimodal_epilepsy_finetune":
            for option in ("path", "prepare_options"):
                assert getattr(built(name).data, option) == getattr(built(before).data, option)


@pytest.mark.parametrize("name", [*PRETRAIN, *FINETUNE])
def test_a_recipe_runs_a_batch(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Shrunk: a small network, a small store of the same channels, the CPU."""
    monkeypatch.chdir(tmp_path)
    raw = yaml.safe_load(RECIPES[name].read_text(encoding="utf-8"))
    model = raw.get("model", {"channels": ["eeg", "emg"], "rate": 100, "patch": 20})
    length = 8 * model.get("patch", 20)
    outputs = raw.get("head", {}).get("outputs", 3)
    classes = [f"class_{number}" for number in range(outputs)]
    make_store(
        Path("store"), channels=model["channels"], rate=model["rate"], length=length,
        classes=classes,
    )  # fmt: skip
    words = [verb_of(name), "--config", name, "--dry_run", "--data.path=store"]
    words += ["--data.prepare=null", "--trainer.accelerator=cpu", "--trainer.precision=32-true"]
    if name in PRETRAIN:
        words += ["--model.dim=8", "--model.depth=1", "--model.mlp=8"]
    else:
        module = PretrainModule(ModelConfig(channels=("eeg", "emg"), dim=8, depth=1, mlp=8))
        state = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
        checkpoints.save(Path("run.ckpt"), state)
        labels = raw["data"].get("labels")
        words += ["--init.run=run.ckpt", *(["--data.labels=8"] if labels else [])]
    assert APP.main(words) == 0
    assert f"one batch of biofame {verb_of(name)} ran" in capsys.readouterr().out


@pytest.mark.parametrize("name", [*PRETRAIN, *FINETUNE])
def test_a_recipe_says_where_it_is_from(name: str) -> None:
    text = RECIPES[name].read_text(encoding="utf-8")
    assert text.startswith("# ")
    if name in OFFICIAL or name.startswith("official"):
        assert "# Sources:" in text
        assert "# Steps:" in text
        assert "UNVERIFIED" in text

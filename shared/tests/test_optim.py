import dataclasses
import logging
import math
import subprocess
import sys

import pytest
import torch
from torch import nn

from tenfold.optim import OptimConfig, _optimizer, configure, parameter_groups

CONFIG = OptimConfig(lr=0.4, min_lr=0.1, warmup_steps=4, total_steps=20, weight_decay=0.2)


class Model(nn.Module):
    """A module with a shared weight, norms, a table, a scalar and a frozen part."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.attention = nn.MultiheadAttention(4, 2)
        self.plane_norm = nn.LayerNorm([3, 4])
        self.batch_norm = nn.BatchNorm1d(4)
        self.table_bias = nn.Parameter(torch.zeros(2, 2))
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.head = nn.Linear(4, 5)
        self.head.weight = self.embedding.weight
        self.frozen = nn.Linear(4, 4).requires_grad_(False)


def names_of(model: nn.Module, groups: list[dict]) -> dict[str, set[str]]:
    by_id = {id(parameter): name for name, parameter in model.named_parameters()}
    return {group["name"]: {by_id[id(p)] for p in group["params"]} for group in groups}


def test_groups_hold_every_trainable_parameter_once():
    model = Model()
    groups = parameter_groups(model, weight_decay=0.2)
    assert names_of(model, groups) == {
        "decay": {"embedding.weight", "attention.in_proj_weight", "attention.out_proj.weight"},
        "no_decay": {
            "attention.in_proj_bias",
            "attention.out_proj.bias",
            "plane_norm.weight",
            "plane_norm.bias",
            "batch_norm.weight",
            "batch_norm.bias",
            "table_bias",
            "scale",
            "head.bias",
        },
    }
    assert [len(group["params"]) for group in groups] == [3, 9]
    assert [group["weight_decay"] for group in groups] == [0.2, 0.0]


def test_decay_all_makes_one_group_without_the_frozen_part():
    model = Model()
    (group,) = parameter_groups(model, weight_decay=0.2, decay_all=True)
    assert (group["name"], group["weight_decay"], len(group["params"])) == ("decay", 0.2, 12)
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    assert {id(p) for p in group["params"]} == trainable


def test_empty_groups_are_left_out_and_sizes_are_logged(caplog):
    with caplog.at_level(logging.INFO, logger="tenfold.optim"):
        (group,) = parameter_groups(nn.LayerNorm(4), weight_decay=0.2)
    assert group["name"] == "no_decay"
    assert caplog.messages == ["parameter group no_decay: 2 tensors, 8 values, weight decay 0"]


def test_fully_frozen_module_is_refused():
    with pytest.raises(ValueError, match="Linear has no trainable parameter; unfreeze"):
        parameter_groups(nn.Linear(2, 2).requires_grad_(False), weight_decay=0.1)


def naive_open_clip_lr(step: int) -> float:
    """Follow the schedule of the published CLIP recipes, with a floor."""
    if step < 4:
        return 0.4 * (step + 1) / 4
    elapsed, length = step - 4, 20 - 4
    return 0.1 + 0.5 * (1 + math.cos(math.pi * elapsed / length)) * (0.4 - 0.1)


def test_learning_rate_curve():
    assert CONFIG.lr_at(0) == 0.1
    assert CONFIG.lr_at(3) == CONFIG.lr_at(4) == 0.4
    assert CONFIG.lr_at(12) == pytest.approx(0.25)
    assert CONFIG.lr_at(20) == CONFIG.lr_at(1000) == 0.1
    assert [CONFIG.lr_at(step) for step in range(21)] == pytest.approx(
        [naive_open_clip_lr(step) for step in range(21)], abs=1e-12
    )
    short = dataclasses.replace(CONFIG, warmup_steps=40)
    assert [short.lr_at(step) for step in (0, 19)] == pytest.approx([0.01, 0.2])
    cold = dataclasses.replace(CONFIG, warmup_steps=0, min_lr=0.0)
    assert (cold.lr_at(0), cold.lr_at(10)) == (0.4, pytest.approx(0.2))
    assert cold.lr_at(20) == 0
    warm = dataclasses.replace(CONFIG, warmup_lr=0.2)
    assert [warm.lr_at(step) for step in range(5)] == pytest.approx([0.25, 0.3, 0.35, 0.4, 0.4])


def test_a_constant_learning_rate_before_the_cosine():
    held = dataclasses.replace(CONFIG, constant_steps=12)
    assert [held.lr_at(step) for step in range(4)] == [CONFIG.lr_at(step) for step in range(4)]
    assert {held.lr_at(step) for step in range(3, 13)} == {0.4}
    late = dataclasses.replace(CONFIG, warmup_steps=0, total_steps=8)
    assert [held.lr_at(step) for step in range(12, 22)] == [late.lr_at(step) for step in range(10)]
    within = dataclasses.replace(CONFIG, constant_steps=3)
    assert [within.lr_at(step) for step in range(22)] == [CONFIG.lr_at(step) for step in range(22)]
    whole = dataclasses.replace(CONFIG, constant_steps=40)
    assert {whole.lr_at(step) for step in range(3, 20)} == {0.4}


def test_a_learning_rate_is_held_for_an_epoch():
    epochs = dataclasses.replace(CONFIG, warmup_steps=4, total_steps=20)
    held = dataclasses.replace(CONFIG, warmup_steps=12, total_steps=60, hold_steps=3)
    assert [held.lr_at(s) for s in range(66)] == [epochs.lr_at(s // 3) for s in range(66)]


def test_adam_adds_the_decay_to_the_gradient():
    config = OptimConfig(
        lr=0.1, total_steps=9, name="adam", betas=(0.0, 0.0), weight_decay=0.5, decay_all=True
    )
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, -2.0)
    optimizer = configure(model, config)["optimizer"]
    model.weight.grad = torch.tensor([[0.5]])
    optimizer.step()
    # Without memory Adam moves by the sign of gradient plus decay: 0.5 - 0.5 * 2 < 0.
    assert model.weight.item() == pytest.approx(-1.9)


@pytest.mark.parametrize("nesterov", [True, False])
def test_sgd_is_the_textbook_update(nesterov):
    config = OptimConfig(
        lr=0.1, total_steps=9, name="sgd", momentum=0.5, nesterov=nesterov, weight_decay=0.25
    )
    model = nn.Linear(1, 1, bias=False)
    weight, velocity = model.weight.item(), 0.0
    configured = configure(model, config)
    for step in range(3):
        model.weight.grad = torch.full_like(model.weight, 2.0)
        configured["optimizer"].step()
        configured["lr_scheduler"]["scheduler"].step()
        gradient = 2.0 + 0.25 * weight
        velocity = 0.5 * velocity + gradient
        weight -= config.lr_at(step) * (gradient + 0.5 * velocity if nesterov else velocity)
    assert model.weight.item() == pytest.approx(weight, rel=1e-5)


def test_configure_steps_all_groups_along_the_curve():
    model = Model()
    configured = configure(model, CONFIG)
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]
    assert (schedule["interval"], schedule["frequency"]) == ("step", 1)
    assert optimizer.defaults["betas"] == (0.9, 0.95)
    assert optimizer.defaults["eps"] == 1e-8
    for step in range(22):
        rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
        assert rates == pytest.approx(dict.fromkeys(("decay", "no_decay"), CONFIG.lr_at(step)))
        optimizer.step()
        schedule["scheduler"].step()


def test_decay_reaches_the_decayed_group_only():
    model = nn.Linear(2, 2)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = configure(model, CONFIG)["optimizer"]
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(model.weight, before["weight"] * (1 - CONFIG.lr_at(0) * 0.2))
    assert torch.equal(model.bias, before["bias"])


def test_schedule_state_resumes_on_the_curve():
    first, second = (configure(nn.Linear(2, 2), CONFIG) for _ in range(2))
    for _ in range(7):
        first["optimizer"].step()
        first["lr_scheduler"]["scheduler"].step()
    second["optimizer"].load_state_dict(first["optimizer"].state_dict())
    second["lr_scheduler"]["scheduler"].load_state_dict(
        first["lr_scheduler"]["scheduler"].state_dict()
    )
    second["optimizer"].step()
    second["lr_scheduler"]["scheduler"].step()
    assert second["optimizer"].param_groups[0]["lr"] == pytest.approx(CONFIG.lr_at(8))


def clipped_step(*, fused: bool) -> torch.Tensor:
    """Take one scaled, unscaled and clipped step, as mixed precision does."""
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.fill_(1.0)
        model.bias.zero_()
    optimizer = _optimizer(parameter_groups(model, weight_decay=0.1), CONFIG, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(model(torch.tensor([[3.0, -5.0]])).sum()).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), 1e-7)
    scaler.step(optimizer)
    return model.weight.detach()


def test_fused_update_allows_clipping_under_mixed_precision():
    # A gradient clipped to about eps halves AdamW's step, so that unscaling twice would show.
    torch.testing.assert_close(clipped_step(fused=True), clipped_step(fused=False))
    optimizer = _optimizer(parameter_groups(nn.Linear(2, 1), weight_decay=0.1), CONFIG, fused=True)
    assert optimizer.defaults["fused"] is True
    # What Lightning's mixed-precision plugin asks before it clips.
    assert not getattr(optimizer, "_step_supports_amp_scaling", False)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("lr", -1, "optim.lr must be > 0, got -1"),
        ("lr", 0, "optim.lr must be > 0, got 0"),
        ("lr", float("nan"), "optim.lr must be > 0, got nan"),
        ("lr", float("inf"), "optim.lr must be > 0, got inf"),
        ("total_steps", 0, "optim.total_steps must be > 0, got 0"),
        ("min_lr", 0.5, r"optim.min_lr must lie in 0..0.4, got 0.5"),
        ("min_lr", -0.1, r"optim.min_lr must lie in 0..0.4, got -0.1"),
        ("warmup_steps", -1, "optim.warmup_steps must be >= 0, got -1"),
        ("constant_steps", -1, "optim.constant_steps must be >= 0, got -1"),
        ("hold_steps", 0, "optim.hold_steps must be >= 1, got 0"),
        ("hold_steps", 3, "optim.warmup_steps must be a multiple of hold_steps 3, got 4"),
        ("betas", (0.9, 1.0), r"optim.betas must be two values in \[0, 1\), got \(0.9, 1.0\)"),
        ("betas", (0.9,), r"optim.betas must be two values in \[0, 1\), got \(0.9,\)"),
        ("warmup_lr", 0.5, r"optim.warmup_lr must lie in 0..0.4, got 0.5"),
        ("name", "lamb", "optim.name must be one of adamw, adam, sgd, got lamb"),
        ("momentum", 1.0, r"optim.momentum must lie in \[0, 1\), got 1.0"),
        ("momentum", 0.0, "optim.momentum must be > 0 with nesterov, got 0.0"),
        ("eps", 0, "optim.eps must be > 0, got 0"),
        ("weight_decay", -0.1, "optim.weight_decay must be >= 0, got -0.1"),
    ],
)
def test_bad_configuration_is_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **{field: value})


def test_configuration_imports_without_torch():
    code = "import sys, tenfold.optim_config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

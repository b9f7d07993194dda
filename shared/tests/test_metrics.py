"""The loss curve drawn from a run's metrics."""

from pathlib import Path

from tenfold.callbacks.metrics import curves, draw_curves

ROWS = [
    {"step": 10, "train/loss": 3.0},
    {"step": 20, "train/loss": 2.0, "val/nll": 2.5, "val/accuracy": 0.1},
    {"step": 30, "val/nll": 2.25, "val/accuracy": 0.2},
]


def test_axes_say_what_they_show() -> None:
    training, validation = curves(ROWS).axes
    assert training.get_xlabel() == validation.get_xlabel() == "optimiser step"
    assert training.get_ylabel() == "train/loss"
    assert validation.get_ylabel() == "val/accuracy, val/nll"
    (loss,) = training.get_lines()
    assert loss.get_xydata().tolist() == [[10, 3.0], [20, 2.0]]
    nll = {line.get_label(): line for line in validation.get_lines()}["val/nll"]
    assert nll.get_xydata().tolist() == [[20, 2.5], [30, 2.25]]


def test_many_metrics_are_named_in_the_legend() -> None:
    rows = [{**row, "val/recall": 0.5} for row in ROWS]
    _, validation = curves(rows).axes
    assert validation.get_ylabel() == "validation metrics"
    legend = validation.get_legend()
    assert legend is not None
    named = [text.get_text() for text in legend.get_texts()]
    assert named == ["val/accuracy", "val/nll", "val/recall"]


def test_a_run_without_validation_is_drawn(tmp_path: Path) -> None:
    draw_curves(ROWS[:1], tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")

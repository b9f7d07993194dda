import io
import json
import logging
import math
from pathlib import Path
from statistics import fmean, stdev

import pytest
import yaml
from rich.console import Console

from biofame.cli import APP
from biofame.report import collect, report
from biofame.score_tables import (
    Scored,
    read_scores,
    summarise,
    to_csv,
    to_table,
    write_scores,
)


def write_run(folder: Path, *, seed: int, accuracy: float, **options: object) -> None:
    """Write what `finetune` and then `test` leave of a run, as far as it matters here."""
    folder.mkdir(parents=True)
    config = {
        "seed_everything": seed,
        "init": {"run": "pre", "scratch": False},
        "data": {"path": "store", "seed": seed},
        "trainer": {"max_steps": 10 + seed},
        **options,
    }
    (folder / "config.yaml").write_text("# biofame finetune\n" + yaml.safe_dump(config))
    scores = {"test/accuracy": accuracy, "test/macro_f1": accuracy / 2, "other": 1.0}
    (folder / "test.json").write_text(json.dumps(scores))


def test_summary_is_mean_and_sample_deviation() -> None:
    values = (0.5, 0.7, 0.9)
    scored = [Scored(arm="a", seed=s, scores={"f1": v}) for s, v in enumerate(values)]
    scored += [Scored(arm="b", scores={"f1": 0.25})]
    scored += [Scored(arm="c", seed=s, scores={"f1": v}) for s, v in enumerate((0.5, math.nan))]
    several, single, undefined = summarise(scored)
    assert several.mean == pytest.approx(fmean(values))
    assert several.std == pytest.approx(stdev(values))
    assert several.per_seed == values
    assert single.mean == 0.25
    assert math.isnan(single.std)
    assert math.isnan(undefined.mean)
    line = to_csv([several]).splitlines()[1].split(",")
    assert line[:3] == ["a", "", "f1"]
    assert line[5:] == ["3", "0.5 0.7 0.9"]


def test_scores_survive_the_file(tmp_path: Path) -> None:
    scored = [Scored(arm="a", condition="x", seed=3, scores={"f1": 0.1, "auroc": math.nan})]
    write_scores(tmp_path, scored)
    (back,) = read_scores(tmp_path / "scores.json")
    assert (back.arm, back.condition, back.seed, back.scores["f1"]) == ("a", "x", 3, 0.1)
    assert math.isnan(back.scores["auroc"])
    (tmp_path / "scores.json").write_text('{"schema_version": 2, "scored": []}')
    with pytest.raises(ValueError, match="schema version 2, this program reads 1"):
        read_scores(tmp_path / "scores.json")


def test_runs_over_seeds_are_one_arm(tmp_path: Path) -> None:
    for seed, accuracy in enumerate((0.6, 0.8)):
        write_run(tmp_path / "epilepsy" / f"t{seed}", seed=seed, accuracy=accuracy)
    (accuracy, f1) = summarise(collect([tmp_path]))
    assert (accuracy.arm, accuracy.metric, accuracy.per_seed) == (
        "epilepsy",
        "accuracy",
        (0.6, 0.8),
    )
    assert (f1.metric, f1.mean) == ("macro_f1", pytest.approx(0.35))


def test_runs_that_differ_otherwise_are_told_apart(tmp_path: Path) -> None:
    for number, pooling in enumerate(("avg", "cls")):
        head = {"pooling": pooling, "mixup": 0.2}
        write_run(tmp_path / "tuned" / f"t{number}", seed=0, accuracy=0.5, head=head)
    arms = [each.arm for each in collect([tmp_path])]
    assert arms == ["tuned, head.pooling=avg", "tuned, head.pooling=cls"]


def test_verb_joins_runs_and_studies(tmp_path: Path) -> None:
    write_run(tmp_path / "tuned" / "t0", seed=0, accuracy=0.5)
    for name in ("probes", "knn"):
        scored = [Scored(arm="linear probe", seed=s, scores={"accuracy": 0.9}) for s in range(2)]
        write_scores(tmp_path / name, scored)
    out = tmp_path / "out"
    assert APP.main(["report", str(tmp_path), f"--out={out}", "--metrics", "accuracy"]) == 0
    arms = {each.arm: each for each in summarise(read_scores(out / "scores.json"))}
    assert list(arms) == ["tuned", "knn: linear probe", "probes: linear probe"]
    assert (out / "report.png").read_bytes().startswith(b"\x89PNG")
    assert APP.main(["report", str(tmp_path / "knn" / "scores.json")]) == 0


def test_runs_without_test_scores_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_run(tmp_path / "tuned" / "t0", seed=0, accuracy=0.5)
    write_run(tmp_path / "tuned" / "t1", seed=1, accuracy=0.5)
    (tmp_path / "tuned" / "t1" / "test.json").unlink()
    with caplog.at_level(logging.WARNING):
        assert len(collect([tmp_path])) == 1
    assert "t1 is left out, it has no test.json: biofame test --ckpt_path" in caplog.text


def test_bad_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="gone does not exist"):
        report([tmp_path / "gone"])
    with pytest.raises(FileNotFoundError, match="test runs first"):
        report([tmp_path])
    write_run(tmp_path / "tuned" / "t0", seed=0, accuracy=0.5)
    with pytest.raises(ValueError, match="metrics must be of accuracy, macro_f1, got kappa"):
        report([tmp_path], metrics=["kappa"])
    write_run(tmp_path / "tuned" / "t1", seed=0, accuracy=0.5)
    with pytest.raises(ValueError, match="tuned has seed 0 twice"):
        report([tmp_path])
    (tmp_path / "tuned" / "t1" / "test.json").write_text("[1]")
    with pytest.raises(ValueError, match="holds no test scores"):
        report([tmp_path])


def test_the_table_of_all_scores_is_whole_on_a_terminal_of_80_characters() -> None:
    names = ("accuracy", "balanced_accuracy", "macro_precision", "mean_ovr_accuracy", "auroc")
    scored = [
        Scored(arm=arm, condition=condition, seed=seed, scores=dict.fromkeys(names, 0.5 + seed / 7))
        for arm in ("pre-trained", "scratch")
        for condition in ("10 labels", "50 %")
        for seed in range(3)
    ]
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(to_table(summarise(scored), title="Test split"))
    text = console.export_text()
    assert "…" not in text
    assert text.count("0.6429 ± 0.143") == len(names) * 4
    assert all(name in text for name in names)

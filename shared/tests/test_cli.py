"""The command line without training: help, usage errors, a paper's verb, all without torch."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tenfold.cli import App, Training
from tenfold.cli.functions import run_function

WITHOUT_TORCH = """
import sys
from toy_member.cli import APP
codes = [APP.main(words) for words in (["--help"], ["recipes"], ["nonsense"], ["greet", "--times"])]
heavy = sorted({"torch", "lightning", "numpy"} & set(sys.modules))
print(codes, heavy, file=sys.stderr)
"""


@pytest.fixture
def app(toy: Path) -> App:
    from toy_member.cli import APP

    return APP


def test_help_recipes_and_usage_errors_need_no_torch(toy: Path) -> None:
    call = [sys.executable, "-c", WITHOUT_TORCH]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[0, 0, 2, 2] []"
    assert "greet     Write a greeting." in done.stdout
    assert "tiny_cpu  A line through a few points" in done.stdout


def test_shell_style_words_reach_the_function(app: App, toy: Path) -> None:
    words = ["greet", "ann", "bob", "out.json", "--loud", "--times", "2", "--extra", "x", "y"]
    assert app.main(words) == 0
    assert json.loads(Path("out.json").read_text()) == [["ann", "bob"], True, 2, ["x", "y"]]


def test_options_may_come_by_name_and_from_a_config_file(app: App, toy: Path) -> None:
    Path("options.yaml").write_text("times: 3\nloud: true\n")
    words = ["greet", "--names", "ann", "--out=out.json", "--config", "options.yaml"]
    assert app.main([*words, "--loud", "false"]) == 0
    assert json.loads(Path("out.json").read_text()) == [["ann"], False, 3, None]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nonsense"], "unknown verb 'nonsense', expected one of: fit, pretrain, validate"),
        (["greet", "ann", "out.json", "--times", "0"], "times must be >= 1, got 0"),
        (["greet", "ann", "out.json", "--times", "many"], "times"),
        (
            ["greet", "ann", "out.json", "--tmies", "1"],
            "unrecognized arguments: --tmies 1; did you mean --times?",
        ),
        (["greet", "--names", "ann", "--out", "o.json", "more"], "unexpected word 'more'"),
        (["greet"], "names"),
        (["greet", "ann", ""], "out is an empty path; write . for the current folder"),
        (["greet", "ann", "--out="], "out is an empty path"),
        (["greet", "ann", "missing/out.json"], "No such file or directory: missing/out.json"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    app: App, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert app.main(words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]


@pytest.mark.parametrize(
    ("recipe", "end"),
    [
        ("tmies: 2", "Option 'tmies' is not accepted; did you mean times?"),
        ("unheard_of: 2", "Option 'unheard_of' is not accepted"),
    ],
)
def test_an_unknown_key_of_a_config_file_has_the_nearest_beside_it(
    app: App, toy: Path, capsys: pytest.CaptureFixture[str], recipe: str, end: str
) -> None:
    Path("options.yaml").write_text(recipe)
    assert app.main(["greet", "ann", "out.json", "--config", "options.yaml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(end)
    assert not Path("out.json").exists()


@dataclass(frozen=True)
class Size:
    """A size."""

    height: int = 1


def resize(size: Size, *, limit: Size | None = None, heights: int = 0) -> None:
    """Resize."""


def test_the_suggestion_is_of_the_level_of_the_mistake() -> None:
    message = "does not accept option 'hieght'; did you mean height"
    with pytest.raises(ValueError, match=message):
        run_function(resize, ["--size", '{"hieght": 3}'], prog="resize")
    with pytest.raises(ValueError, match=r"'hieght' is not accepted; did you mean height\?"):
        run_function(resize, ["--limit", '{"hieght": 3}'], prog="resize")


def test_a_list_may_be_one_word_and_a_dash_is_a_word(
    app: App, toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["greet", "-", "--out=out.json", "--extra=x", "--sizes", "3", "4"]
    assert app.main(words) == 0
    assert "hello 7" in capsys.readouterr().out
    assert json.loads(Path("out.json").read_text()) == [["-"], False, 1, ["x"]]


def _sets(sets: dict[str, str] | list[str], *, out: Path) -> None:
    """Write what it was given."""
    out.write_text(json.dumps(sets))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--sets", "{a: x/1, b: y}"], {"a": "x/1", "b": "y"}),
        (["--sets", '{"a": "x"}'], {"a": "x"}),
        (["--sets", "a=x", "b=y"], ["a=x", "b=y"]),
    ],
)
def test_a_mapping_or_a_list_may_be_given(
    words: list[str], expected: object, tmp_path: Path
) -> None:
    out = tmp_path / "out.json"
    assert run_function(_sets, [*words, "--out", str(out)], prog="x") == 0
    assert json.loads(out.read_text()) == expected


def test_a_verb_takes_a_recipe_by_name(
    app: App, toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (toy / "recipes" / "greet").mkdir(parents=True)
    (toy / "recipes" / "greet" / "loud.yaml").write_text("# Loud\nnames: [ann]\nloud: true\n")
    monkeypatch.setattr(App, "recipes_dir", lambda self: toy / "recipes")
    assert app.main(["greet", "--config", "greet/loud", "--out", "out.json"]) == 0
    assert json.loads(Path("out.json").read_text()) == [["ann"], True, 1, None]
    assert app.main(["greet", "--config=loud", "--out", "out.json"]) == 2
    assert "no such recipe: loud" in capsys.readouterr().err


def test_help_of_a_verb_shows_its_leading_words(
    app: App, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main(["greet", "--help"]) == 0
    assert "usage: toy-member greet NAMES OUT [options]" in capsys.readouterr().out


def test_debug_shows_the_traceback(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENFOLD_DEBUG", "1")
    with pytest.raises(ValueError, match="times must be"):
        app.main(["greet", "ann", "out.json", "--times", "0"])


def test_option_names_are_sorted_and_without_the_trainers(app: App) -> None:
    assert app.option_names("greet") == [
        "config",
        "extra",
        "loud",
        "names",
        "out",
        "sizes",
        "times",
    ]
    names = app.option_names("fit")
    assert {"model.dim", "optim.lr", "data.batches", "resume", "dry_run"} <= set(names)
    assert "optim.total_steps" not in names  # follows trainer.max_steps
    assert not [name for name in names if name.startswith("trainer")]


def test_app_refuses_a_missing_fit_and_names_used_twice() -> None:
    training = Training(module="a:B", data="a:C")
    with pytest.raises(ValueError, match="must hold 'fit'"):
        App(name="x", package="x", about="", trainings={"pretrain": training})
    with pytest.raises(ValueError, match="verbs named twice: test"):
        App(name="x", package="x", about="", trainings={"fit": training}, verbs={"test": "a:b"})

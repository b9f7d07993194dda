"""The Makefile offers every agreed target, and those of one package name its own files."""

import re
import subprocess

import pytest

from contracts.tree import ROOT, papers

TARGETS = (
    "help setup lock lock-check lint type test test-<name> train-<name> reproduce-<name> reproduce "
    "bench-<name> results new-paper clean"
)
NAME = papers(ROOT)[0].name


def make(*words: str) -> subprocess.CompletedProcess[str]:
    call = ["make", "--no-print-directory", *words]
    return subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)


def test_help_lists_every_target() -> None:
    text = make("help").stdout
    assert set(re.findall(r"^  make (\S+)", text, flags=re.M)) == set(TARGETS.split())
    assert NAME in text.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ([f"train-{NAME}"], f"{NAME} fit --config packages/{NAME}/recipes/tiny_cpu.yaml"),
        (
            [f"train-{NAME}", "RECIPE=h200", "ARGS=--trainer.max_steps 3"],
            f"{NAME} fit --config packages/{NAME}/recipes/h200.yaml --trainer.max_steps 3",
        ),
        ([f"test-{NAME}"], f"packages/{NAME}/tests"),
        (["test-shared"], "shared/tests"),
        (["reproduce"], f"{NAME} reproduce"),
    ],
)
def test_targets_of_one_package(words: list[str], command: str) -> None:
    assert f"{command} " in make("--dry-run", *words).stdout.replace("\n", " ")


def test_an_unknown_package_is_named() -> None:
    done = make("--dry-run", "train-nothing")
    assert "no package 'nothing'" in done.stdout

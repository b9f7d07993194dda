"""`data.check: sha256`: data that changed since they were prepared are refused before step 1."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from dataset_decomposition.checksums import check_sha256
from dataset_decomposition.cli import APP
from dataset_decomposition.data import DecompositionData
from dataset_decomposition.manifest import read_manifest, write_manifest
from dataset_decomposition.prepare import prepare

TAR = "D_4/shard-0000000.tar"
RECIPE = """
model: {vocab_size: 257, dim: 8, layers: 1, heads: 1}
optim: {lr: 0.01, warmup_steps: 0}
data: {path: data, tokens_per_step: 64, mixture: natural, cycles: 1, workers: 0}
trainer: {accelerator: cpu, max_steps: 2}
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    for index, length in enumerate((3, 40, 100, 300, 1000)):
        (folder / f"{index}.txt").write_text("x" * length)
    (folder / "held").mkdir()
    (folder / "held/out.txt").write_text("held out")
    prepare(
        [f"{folder}/*.txt"],
        folder / "data",
        heldout=[f"{folder}/held"],
        min_bucket=4,
        max_bucket=6,
    )
    return folder / "data"


@pytest.fixture
def data(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(whole, "data"))


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(bytes(content))


def test_a_flipped_token_is_refused_before_the_first_step(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("recipe.yaml").write_text(RECIPE)
    words = ["fit", "--config", "recipe.yaml", "--run_dir"]
    assert APP.main([*words, "whole", "--data.check=sha256"]) == 0
    flip(data / TAR, 700)
    assert APP.main([*words, "damaged", "--data.check=sha256"]) == 2
    (line,) = [t for t in capsys.readouterr().err.splitlines() if t.startswith("error: ")]
    assert f"1 of 5 files have another SHA-256 than when they were written: {data / TAR};" in line
    assert not Path("damaged/checkpoints").exists()
    assert APP.main([*words, "unchecked"]) == 0  # sizes and counts are as they were


@pytest.mark.parametrize("name", ["heldout/tokens.npy", "heldout/offsets.npy", TAR])
def test_every_file_of_the_data_is_compared(data: Path, name: str) -> None:
    DecompositionData(data, check="sha256").prepare_data()
    flip(data / name, -6)
    DecompositionData(data).prepare_data()
    with pytest.raises(ValueError, match=f"1 of 5 files .*: {data / name}; restore them"):
        DecompositionData(data, check="sha256").prepare_data()


def test_many_changed_files_are_counted_and_a_few_named(data: Path) -> None:
    (old,) = read_manifest(data / "D_4")
    shards = [replace(old, shard=f"shard-{number}") for number in range(8)]
    for shard in shards:
        (data / "D_4" / f"{shard.shard}.tar").write_bytes(b"x")
    write_manifest(data / "D_4", shards)
    with pytest.raises(ValueError, match=r"8 of 12 files .*shard-4\.tar and 3 more; restore"):
        check_sha256(data)


def test_what_cannot_be_compared_is_said(data: Path) -> None:
    (old,) = read_manifest(data / "D_4")
    write_manifest(data / "D_4", [replace(old, sha256=None)])
    with pytest.raises(ValueError, match=f"{data / TAR} has no SHA-256 on record"):
        check_sha256(data)
    info = json.loads((data / "dataset.json").read_text())
    write_manifest(data / "D_4", [old])
    (data / "dataset.json").write_text(json.dumps({**info, "heldout": None}))
    flip(data / "heldout/tokens.npy", -6)
    check_sha256(data)  # the record knows of no held-out files
    (data / TAR).unlink()
    with pytest.raises(FileNotFoundError, match=TAR):
        check_sha256(data)

"""The verb `evaluate` on a prepared data set and a checkpoint."""

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from dataset_decomposition.config import ModelConfig
from dataset_decomposition.evaluate import (
    evaluate,
    find_device,
    load_scorer,
    load_tokenizer,
    select_documents,
)
from dataset_decomposition.heldout import Heldout, read_heldout
from dataset_decomposition.heldout_loss import heldout_loss
from dataset_decomposition.model import Decoder
from dataset_decomposition.prepare import prepare
from dataset_decomposition.records import read_info
from dataset_decomposition.scoring import Scorer
from tenfold import checkpoints
from tenfold.cli.functions import run_function

PNG = b"\x89PNG\r\n\x1a\n"


def save_checkpoint(run: Path, *, vocab_size: int = 257, used: tuple[str, ...] = ("D_3",)) -> Path:
    torch.manual_seed(3)
    config = ModelConfig(vocab_size=vocab_size, dim=16, layers=1, heads=2, ffn_dim=24)
    weights = {f"decoder.{name}": tensor for name, tensor in Decoder(config).state_dict().items()}
    state = {
        "hyper_parameters": {"model": asdict(config)},
        "state_dict": weights,
        "global_step": 7,
        "DecompositionData": {"used": {key: {"used": 1} for key in used}},
    }
    checkpoints.save(run / "checkpoints" / "step-00000007.ckpt", state)
    return run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder, data sets and tasks, which no test changes."""
    folder = tmp_path_factory.mktemp("evaluate")
    for part, numbers in (("text", range(20)), ("heldout", range(20, 31))):
        (folder / part).mkdir()
        for number in numbers:
            (folder / part / f"{number}.txt").write_text(
                f"{number} " + " ".join("word" * n for n in range(number))
            )
    options = {"input": [str(folder / "text")], "min_bucket": 3, "max_bucket": 8}
    prepare(out=folder / "data", heldout=[str(folder / "heldout")], **options)
    prepare(out=folder / "bare", **options)
    save_checkpoint(folder / "run")
    (folder / "tasks").mkdir()
    lines = [{"query": f"{n}?", "choices": ["yes", "no"], "gold": n % 2} for n in range(5)]
    (folder / "tasks" / "piqa.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def test_a_run_is_evaluated_from_the_command_line(
    place: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    words = f"{place}/run {place}/data --contexts 32 64 --position_bands 16 --tasks {place}/tasks "
    words += f"--device cpu --out {tmp_path}/out.json --plot {tmp_path}/loss.png"
    assert run_function(evaluate, words.split(), prog="evaluate") == 0
    shown = capsys.readouterr().out
    for text in ("position 16+", "length 512-1,023", "context 64", "piqa", "mc_acc_mean"):
        assert text in shown
    figures = json.loads((tmp_path / "out.json").read_text())
    info = read_info(place / "data")
    held_out = read_heldout(place / "data")
    documents = [held_out.document(index) for index in range(held_out.num_documents)]
    scorer = load_scorer(place / "run", info, device="cpu")
    expected = heldout_loss(scorer, documents, position_bands=[16], contexts=[32, 64])
    assert figures["heldout"] == expected.to_json()
    assert math.isclose(figures["heldout"]["total"]["nll_per_token"], math.log(257), rel_tol=0.2)
    assert figures["tasks"]["piqa"]["examples"] == 5
    assert figures["averages"] == {}
    assert (tmp_path / "loss.png").read_bytes().startswith(PNG)


def test_parts_of_the_documents_are_scored_when_asked(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    evaluate(place / "run", place / "data", max_documents=3, max_tokens=40, out=out, device="cpu")
    assert json.loads(out.read_text())["heldout"]["total"]["tokens"] == 3 * 40


def test_documents_are_spread_evenly_and_cut() -> None:
    offsets = np.arange(0, 70, 7)
    held_out = Heldout(np.arange(63, dtype=np.uint16), offsets)
    chosen = select_documents(held_out, 3, 4)
    assert [document.tolist() for document in chosen] == [
        [0, 1, 2, 3, 4],
        [21, 22, 23, 24, 25],
        [42, 43, 44, 45, 46],
    ]
    assert len(select_documents(held_out, 100)) == 9
    assert [len(document) for document in select_documents(held_out)] == [7] * 9


def test_only_tasks_are_scored_without_held_out_documents(
    place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out.json"
    evaluate(place / "run", place / "bare", tasks=place / "tasks", out=out, device="cpu")
    assert "only the tasks are scored" in caplog.text
    assert json.loads(out.read_text())["heldout"] is None
    with pytest.raises(ValueError, match="--plot shows the held-out loss"):
        evaluate(place / "run", place / "bare", tasks=place / "tasks", plot=out, device="cpu")


def test_the_trained_length_is_the_checkpoints_whatever_the_data(
    place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    info = read_info(place / "data")  # its longest bucket is D_8
    for used, length in ((("D_3", "D_4"), 16), (("D_10", "D_8", "D_9"), 1024)):
        run = save_checkpoint(tmp_path / str(length), used=used)
        scorer = load_scorer(run, info, device="cpu")
        assert isinstance(scorer, Scorer)
        assert scorer.trained_length == length
        caplog.clear()
        list(scorer.losses([np.zeros(101, dtype=np.int64)]))
        warned = [text for text in caplog.messages if "the model never saw those" in text]
        assert len(warned) == (length == 16)
    unknown = save_checkpoint(tmp_path / "unknown", used=())
    assert load_scorer(unknown, info, device="cpu").trained_length == 256
    assert "does not say which buckets it was trained on" in caplog.text


def test_the_tokenizer_comes_from_the_data_or_by_name(place: Path, tmp_path: Path) -> None:
    options = {"input": [str(place / "text")], "min_bucket": 3, "max_bucket": 6}
    bpe = tmp_path / "bpe"
    prepare(out=bpe, tokenizer="bpe", vocab_size=260, **options)
    info = read_info(bpe)
    tokenizer = load_tokenizer(bpe, info)
    assert tokenizer.fingerprint == info["tokenizer"]["sha256"]
    named = tmp_path / "named"
    file = bpe / "tokenizer" / "tokenizer.json"
    prepare(out=named, tokenizer=str(file), **options)
    info = read_info(named)
    with pytest.raises(
        ValueError, match=r"does not hold its tokenizer .*; name it with --tokenizer"
    ):
        load_tokenizer(named, info)
    with pytest.raises(ValueError, match="the tokenizer bytes is not the one that"):
        load_tokenizer(named, info, "bytes")
    with pytest.raises(FileNotFoundError, match="no tokenizer at"):
        load_tokenizer(named, info, str(tmp_path / "nothing.json"))
    assert load_tokenizer(named, info, str(file)).fingerprint == tokenizer.fingerprint
    unknown = {**info, "tokenizer": {"name": "unknown", "sha256": None}}
    assert load_tokenizer(named, unknown, str(file)).eot_id == info["eot_id"]
    with pytest.raises(ValueError, match="has 257 ids and end of text 256, the data has 260 and"):
        load_tokenizer(named, unknown, "bytes")
    assert load_tokenizer(place / "data", read_info(place / "data")).eot_id == 256


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_documents": 0}, "max_documents must be at least 1, got 0"),
        ({"max_tokens": -1}, "max_tokens must be at least 1, got -1"),
        ({"batch_tokens": 0}, "batch_tokens must be at least 1, got 0"),
        ({"contexts": [9]}, "contexts must be even and at least 2, got 9"),
        ({"position_bands": [8, 4]}, r"position_bands must rise from above 0, got \[8, 4\]"),
        ({"device": "tpus"}, "device must be auto, cpu, cuda or cuda:<n>, got 'tpus'"),
        ({"device": "cuda:99"}, "there is no device cuda:99"),
        ({"tasks": Path("nowhere")}, "no folder of tasks at nowhere"),
        ({"data": Path("nowhere")}, "nowhere has no dataset.json"),
        ({"checkpoint": Path("nowhere.ckpt")}, "no such checkpoint: nowhere.ckpt"),
    ],
)
def test_impossible_options_are_refused(
    place: Path, options: dict[str, object], message: str
) -> None:
    call = {"checkpoint": place / "run", "data": place / "data", "device": "cpu", **options}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        evaluate(**call)


def test_what_does_not_fit_together_is_refused(place: Path, tmp_path: Path) -> None:
    small = save_checkpoint(tmp_path / "small", vocab_size=256)
    with pytest.raises(ValueError, match="model has 256 token ids, the data's tokenizer 257"):
        evaluate(small, place / "data", device="cpu")
    with pytest.raises(ValueError, match="has no held-out documents; prepare it with --heldout"):
        evaluate(place / "run", place / "bare", device="cpu")


def test_auto_takes_the_gpu_where_there_is_one() -> None:
    assert find_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")

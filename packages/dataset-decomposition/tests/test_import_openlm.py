"""Official folders become ours: rows, counts, repeated manifests, damage, restart, training."""

import json
import logging
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import transformers
from official_folder import EOT, write_official, write_tar
from prepare_corpus import hashes, rows_of

from dataset_decomposition import import_jobs
from dataset_decomposition import import_openlm as import_module
from dataset_decomposition.cli import APP
from dataset_decomposition.export import export
from dataset_decomposition.import_openlm import import_openlm
from dataset_decomposition.records import open_dataset, read_info
from dataset_decomposition.settings import Layout
from dataset_decomposition.stats import stats
from dataset_decomposition.verify import verify
from tenfold.cli.functions import run_function
from tenfold.jobs import JobError

EOT_ID, VOCAB = 77, 90
OPTIONS = {"eot_id": EOT_ID, "vocab_size": VOCAB}


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make several of our shards and records of few official ones."""
    small = partial(Layout, record_tokens=32, shard_tokens=128)
    monkeypatch.setattr(import_module, "Layout", small)


def make_rows(bucket: int, count: int) -> np.ndarray:
    """Draw rows; every third ends a document, none has an end before its last token."""
    tokens = np.random.default_rng(bucket).integers(0, EOT_ID, (count, (1 << bucket) + 1))
    tokens[::3, -1] = EOT_ID
    return tokens


ROWS = {2: make_rows(2, 41), 4: make_rows(4, 18)}


@pytest.fixture
def official(tmp_path: Path) -> Path:
    return write_official(tmp_path / "official", ROWS, eot_id=EOT_ID, per_shard=6)


def test_every_row_arrives_in_its_order(official: Path, tmp_path: Path):
    import_openlm(official, tmp_path / "out", **OPTIONS)
    data = open_dataset(tmp_path / "out")
    assert list(data.buckets) == [2, 4]
    for bucket, reader in data.buckets.items():
        assert reader.dtype == np.uint16
        np.testing.assert_array_equal(reader.read(np.arange(len(reader))), ROWS[bucket])
        assert len(reader.shards) > 1
        assert {s.format for s in reader.shards} == {"packed"}
    assert data.buckets[2].shards[0].rows_per_record == 8
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["D_2", "D_4", "dataset.json", "prepare.json"]


def test_the_account_says_what_was_read(official: Path, tmp_path: Path):
    import_openlm(official, tmp_path / "out", **OPTIONS)
    info = read_info(tmp_path / "out")
    stored = 41 * 5 + 18 * 17
    assert info["tokens"] == {"in": stored, "kept": stored, "dropped_tail": 0, "dropped_short": 0}
    two = {"sequences": 41, "tokens": 164, "stored_tokens": 205, "targets": 164}
    assert info["buckets"]["2"].items() >= two.items()
    assert info["imported"] == {
        "repeated_lines": 0,
        "unlisted_shards": 0,
        "text_ends": 20,
        "document_ends": 20,
        "rows_past_an_end": 0,
    }
    assert (info["eot_id"], info["vocab_size"], info["dtype"]) == (77, 90, "uint16")
    verify(tmp_path / "out", deep=True)
    stats(tmp_path / "out")


def test_large_vocabularies_are_stored_wide(tmp_path: Path):
    rows = {1: np.array([[70_000, 5, 99_999], [1, 2, 3]])}
    write_official(tmp_path / "official", rows, eot_id=99_999, per_shard=2)
    import_openlm(tmp_path / "official", tmp_path / "out", eot_id=99_999, vocab_size=100_000)
    reader = open_dataset(tmp_path / "out").buckets[1]
    assert reader.dtype == np.uint32
    assert reader.read([0, 1]).tolist() == rows[1].tolist()
    verify(tmp_path / "out", deep=True)


def test_a_manifest_that_repeats_itself_is_read_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    official = write_official(tmp_path / "a", ROWS, eot_id=EOT_ID, per_shard=6, copies=5)
    with caplog.at_level(logging.WARNING):
        import_openlm(official, tmp_path / "out", **OPTIONS)
    assert "D_2 repeats itself: 35 lines for 7 shards; each is read once" in caplog.text
    info = read_info(tmp_path / "out")
    assert info["imported"]["repeated_lines"] == 4 * (7 + 3)
    assert info["buckets"]["2"]["sequences"] == 41


def test_rows_that_go_on_after_an_end_are_counted(tmp_path: Path):
    rows = {2: np.array([[1, EOT_ID, 2, 3, EOT_ID], [1, 2, 3, 4, 5]])}
    write_official(tmp_path / "official", rows, eot_id=EOT_ID, per_shard=2)
    import_openlm(tmp_path / "official", tmp_path / "out", **OPTIONS)
    info = read_info(tmp_path / "out")
    assert info["imported"]["rows_past_an_end"] == 1
    assert info["imported"]["document_ends"] == 2
    assert info["buckets"]["2"]["targets"] == 1 + 2 + 4
    verify(tmp_path / "out")


def test_an_unlisted_tar_is_left_out_and_named(
    official: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    write_tar(official / "D_2/shard-0000099.tar", [str([1, 2, 3, 4, 5])])
    with caplog.at_level(logging.WARNING):
        import_openlm(official, tmp_path / "out", **OPTIONS)
    assert "1 shards of" in caplog.text
    assert "shard-0000099" in caplog.text
    assert read_info(tmp_path / "out")["imported"]["unlisted_shards"] == 1


def test_workers_and_a_broken_run_give_the_same_bytes(
    official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import_openlm(official, tmp_path / "straight", **OPTIONS)
    import_openlm(official, tmp_path / "pool", **OPTIONS, workers=2)
    calls: list[int] = []
    real = import_jobs.write_rows

    def breaks(*args: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(import_jobs, "write_rows", breaks)
    with pytest.raises(KeyboardInterrupt):
        import_openlm(official, tmp_path / "broken", **OPTIONS)
    monkeypatch.setattr(import_jobs, "write_rows", real)
    done = {path: path.stat().st_ino for path in (tmp_path / "broken").rglob("*.tar")}
    assert len(done) == 2
    import_openlm(official, tmp_path / "broken", **OPTIONS)
    assert {path: path.stat().st_ino for path in done} == done
    assert hashes(tmp_path / "straight") == hashes(tmp_path / "pool") == hashes(tmp_path / "broken")


def test_a_finished_folder_is_left_alone_and_another_request_refused(
    official: Path, tmp_path: Path
):
    out = tmp_path / "out"
    import_openlm(official, out, **OPTIONS)
    before = hashes(out)
    import_openlm(official, out, **OPTIONS)
    assert hashes(out) == before
    with pytest.raises(ValueError, match="vocab_size: 90 -> 91"):
        import_openlm(official, out, eot_id=EOT_ID, vocab_size=91)
    import_openlm(official, out, eot_id=EOT_ID, vocab_size=91, overwrite=True)
    assert read_info(out)["vocab_size"] == 91
    next(out.glob("D_2/*.tar")).unlink()
    with pytest.raises(ValueError, match="import anew with --overwrite"):
        import_openlm(official, out, eot_id=EOT_ID, vocab_size=91)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (str([1, 2, 3, 4]), "has 4 tokens, expected 5"),
        (str([1, 2, 3, 4, VOCAB]), "has an id outside the vocabulary of 90"),
        (str([1, 2, 3, 4, -1]), "has an id outside the vocabulary of 90"),
        (str([1, 2, 3, 4, "<pad>"]), "holds the string '<pad>', which is no end of text"),
        ("[1, 2", "is not a list of token ids"),
    ],
)
def test_a_damaged_sample_is_named(official: Path, tmp_path: Path, text: str, message: str):
    path = official / "D_2/shard-0000001.tar"
    write_tar(path, [str([1, 2, 3, 4, EOT])] * 5 + [text])
    with pytest.raises(JobError, match=f"shard-0000001.tar: member 000000000005.txt {message}"):
        import_openlm(official, tmp_path / "out", **OPTIONS)
    assert not (tmp_path / "out/dataset.json").exists()


def test_a_manifest_that_miscounts_is_refused(official: Path, tmp_path: Path):
    write_tar(official / "D_2/shard-0000001.tar", [str([1, 2, 3, 4, EOT])] * 5)
    with pytest.raises(JobError, match="has 5 samples, but its manifest says 6"):
        import_openlm(official, tmp_path / "out", **OPTIONS)


def line(shard: str, rows: object) -> str:
    return json.dumps({"shard": shard, "num_sequences": rows}) + "\n"


@pytest.mark.parametrize(
    ("manifest", "error", "message"),
    [
        ("{}\n", ValueError, r"manifest.jsonl:1 is not a shard's line"),
        (line("shard-0000000", 0), ValueError, r"manifest.jsonl:1 is not a shard's line"),
        (line("../shard", 6), ValueError, "not plain letters"),
        (line("shard-0000000", 6) + line("shard-0000000", 5), ValueError, "5 rows, before 6"),
        (line("shard-0000042", 6), FileNotFoundError, "is missing, but its manifest lists it"),
        (None, FileNotFoundError, "write it with open_lm's manifest tool"),
    ],
)
def test_a_wrong_manifest_is_named(
    official: Path, tmp_path: Path, manifest: str | None, error: type[Exception], message: str
):
    path = official / "D_2/manifest.jsonl"
    path.unlink() if manifest is None else path.write_text(manifest)
    with pytest.raises(error, match=message):
        import_openlm(official, tmp_path / "out", **OPTIONS)
    assert not (tmp_path / "out").exists()


def test_mistakes_are_named(official: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"eot_id must lie in 0\.\.vocab_size - 1 = 89, got 90"):
        import_openlm(official, tmp_path / "out", eot_id=90, vocab_size=90)
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        import_openlm(official, tmp_path / "out", **OPTIONS, workers=0)
    with pytest.raises(FileNotFoundError, match="name the folder above them"):
        import_openlm(official / "D_2", tmp_path / "out", **OPTIONS)
    with pytest.raises(ValueError, match="is not empty"):
        import_openlm(official, official, **OPTIONS)


def test_an_imported_data_set_trains_and_its_model_is_exported(
    official: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path))
    words = ["official", "data", f"--eot_id={EOT_ID}", f"--vocab_size={VOCAB}"]
    assert run_function(import_openlm, words, prog="import-openlm") == 0
    assert set(rows_of(Path("data"))) == {2, 4}
    options = f"model.vocab_size={VOCAB} model.dim=8 model.layers=1 model.heads=1 optim.lr=0.01"
    options += " data.path=data data.tokens_per_step=16 data.workers=0 data.mixture=natural"
    options += " data.cycles=2 trainer.accelerator=cpu trainer.max_steps=8 run_dir=run"
    options += " trainer.limit_val_batches=0"
    assert APP.main(["fit", *(f"--{option}" for option in options.split())]) == 0
    export(Path("run"), Path("model"), data=Path("data"))
    config = json.loads(Path("model/config.json").read_text())
    assert (config["eos_token_id"], config["max_position_embeddings"]) == (EOT_ID, 16)
    assert "knows no tokenizer: none goes along" in caplog.text

"""`generate-captions`: the same bytes for any workers, batches and memory; bad samples; resume."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from generation_files import hashes, make_image, write_coca, write_pairs

from mobileclip.generate.captioner import Captioner, CaptionerConfig, Prompt, build_captioner
from mobileclip.generate.captions import generate_captions
from mobileclip.images import decode_image
from tenfold.jobs import JobError
from tenfold.shards import TarMembers, read_index

OPTIONS: dict[str, Any] = {"pretrained": "", "num": 2, "seq_len": 8, "min_seq_len": 4}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> CaptionerConfig:
    model = write_coca(tmp_path_factory.mktemp("coca") / "tiny")
    return CaptionerConfig(model=model, batch=4, **OPTIONS)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "in", shards=2, each=5, bad=(2,))


@pytest.fixture(scope="module")
def captioned(
    tmp_path_factory: pytest.TempPathFactory, pairs: Path, config: CaptionerConfig
) -> Path:
    out = tmp_path_factory.mktemp("captioned") / "out"
    generate_captions(str(pairs), out, config, seed=7)
    return out


def test_every_sample_keeps_its_members_and_gets_its_own_captions(
    captioned: Path, pairs: Path, config: CaptionerConfig
):
    captioner = build_captioner(config, seed=7)
    for name in ("00000.tar", "00001.tar"):
        before, after = TarMembers(pairs / name), TarMembers(captioned / name)
        assert after.keys == tuple(key for key in before.keys if key != "000002")
        for key in after.keys:
            assert after.extensions(key) == ("json", "png", "syn.json", "txt")
            for extension in ("json", "png", "txt"):
                assert after.read(key, extension) == before.read(key, extension)
            image = decode_image(after.read(key, "png"))
            assert torch.equal(image, torch.from_numpy(make_image(int(key))).permute(2, 0, 1))
            uid = json.loads(after.read(key, "json"))["uid"]
            tokens = captioner.draw([Prompt(captioner.prepare(image), uid)])[0]
            assert json.loads(after.read(key, "syn.json")) == {"syn_text": captioner.texts(tokens)}


def test_the_index_and_a_list_say_what_was_done_and_left_out(captioned: Path):
    index = read_index(captioned)
    assert [entry.num_samples for entry in index.entries] == [4, 5]
    assert index.metadata["captioner"] == "local-dir:tiny, top_p 0.9"
    assert (index.metadata["num_captions"], index.metadata["skipped"]) == (2, 1)
    (row,) = map(json.loads, (captioned / "skipped.jsonl").read_text().splitlines())
    assert (row["shard"], row["key"]) == ("00000.tar", "000002")
    assert row["reason"].startswith("png: image cannot be decoded")


def test_threads_batches_and_full_memory_change_no_byte(
    tmp_path: Path,
    captioned: Path,
    pairs: Path,
    config: CaptionerConfig,
    monkeypatch: pytest.MonkeyPatch,
):
    draw = Captioner.draw

    def hungry(self: Captioner, prompts: list[Prompt]) -> torch.Tensor:
        if len(prompts) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return draw(self, prompts)

    monkeypatch.setattr(Captioner, "draw", hungry)
    larger = CaptionerConfig(model=config.model, batch=7, **OPTIONS)
    generate_captions(str(pairs), tmp_path / "out", larger, seed=7, read_threads=3)
    assert hashes(tmp_path / "out") == hashes(captioned)


def test_a_rerun_keeps_what_is_whole_and_mends_what_is_lost(
    tmp_path: Path, captioned: Path, pairs: Path, config: CaptionerConfig
):
    out = tmp_path / "out"
    generate_captions(str(pairs), out, config, seed=7)
    kept = (out / "00001.tar").stat().st_ino
    (out / "00000.tar").unlink()
    generate_captions(str(pairs), out, config, seed=7)
    assert hashes(out) == hashes(captioned)
    assert (out / "00001.tar").stat().st_ino == kept
    with pytest.raises(ValueError, match=r"seed: 7 -> 8"):
        generate_captions(str(pairs), out, config, seed=8)


def test_captions_that_come_out_empty_are_drawn_again_or_the_sample_is_left_out(
    tmp_path: Path, pairs: Path, config: CaptionerConfig, monkeypatch: pytest.MonkeyPatch
):
    asked: dict[str, list[int]] = {}
    draw = Captioner.draw

    def watched(self: Captioner, prompts: list[Prompt]) -> torch.Tensor:
        for prompt in prompts:
            asked.setdefault(prompt.uid, []).append(prompt.attempt)
        tokens = draw(self, prompts).clone()
        tokens[:, :, 1] = torch.tensor([[0, p.attempt] for p in prompts])  # told to `texts`
        return tokens

    def texts(self: Captioner, tokens: torch.Tensor) -> list[str]:
        hopeless = bool(tokens[0, 2] % 2)
        attempt = int(tokens[1, 1])
        return ["first" if attempt == 0 else "not taken", "" if hopeless or attempt < 2 else "last"]

    monkeypatch.setattr(Captioner, "draw", watched)
    monkeypatch.setattr(Captioner, "texts", texts)
    out = tmp_path / "out"
    single = CaptionerConfig(model=config.model, batch=1, **OPTIONS)  # nothing is padded
    generate_captions(str(pairs), out, single, seed=7, max_bad_fraction=0.9)
    rows = [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]
    empty = [row["key"] for row in rows if "empty after clean-up, 4 times" in row["reason"]]
    index = read_index(out)
    assert empty
    assert index.num_samples + len(rows) == 10
    for entry in index.entries:
        tar = TarMembers(out / entry.name)
        for key in tar.keys:
            assert json.loads(tar.read(key, "syn.json")) == {"syn_text": ["first", "last"]}
    assert {max(attempts) for attempts in asked.values()} == {2, 3}


def test_too_many_bad_samples_are_an_error_that_names_shard_and_reason(
    tmp_path: Path, config: CaptionerConfig
):
    pairs = write_pairs(tmp_path / "in", shards=1, each=4, bad=(0, 3))
    message = r"00000.tar: 2 of 4 samples are bad, .*max_bad_fraction=0.2; the first: 000000: png"
    with pytest.raises((JobError, ValueError), match=message):
        generate_captions(str(pairs), tmp_path / "out", config)
    assert not (tmp_path / "out/00000.tar").exists()


def test_shards_that_have_captions_are_refused(tmp_path: Path, config: CaptionerConfig):
    pairs = write_pairs(tmp_path / "in", shards=1, each=2, captions=2)
    with pytest.raises((JobError, ValueError), match=r"000000 has synthetic captions already"):
        generate_captions(str(pairs), tmp_path / "out", config)

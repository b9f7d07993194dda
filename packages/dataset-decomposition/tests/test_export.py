"""The exported folder: equal logits, generation, round trip, tokenizer, and what is refused."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor

from dataset_decomposition import hf_config
from dataset_decomposition.config import ModelConfig
from dataset_decomposition.export import export
from dataset_decomposition.hf_config import hf_shape
from dataset_decomposition.model import Decoder
from dataset_decomposition.module import DecompositionModule
from dataset_decomposition.prepare import prepare
from dataset_decomposition.tokenizer import ByteTokenizer, FileTokenizer
from tenfold import checkpoints
from tenfold.cli.functions import run_function
from tenfold.optim import OptimConfig

SHAPE = ModelConfig(vocab_size=300, dim=24, layers=2, heads=3, ffn_dim=40, rope_theta=500.0)
TEXT = "Caf\u00e9 \u4e2d\u6587,\n\tx = 3.14  don't \U0001f600"


@pytest.fixture(autouse=True)
def _own_module_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch):
    """Keep transformers' copies of modelling code out of the user's cache."""
    cache = str(tmp_path_factory.mktemp("modules"))
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", cache)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    module = DecompositionModule(model=SHAPE, optim=OptimConfig(lr=3e-3, total_steps=90))
    state = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    path = tmp_path_factory.mktemp("run") / "checkpoints/step-00000007.ckpt"
    checkpoints.save(path, {**state, "global_step": 7})
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "a.txt").write_text("some plain words and more of them " * 20)
    prepare([str(folder / "a.txt")], folder / "out", min_bucket=3, max_bucket=5)
    return folder / "out"


def tokens(rows: int = 2, length: int = 33) -> Tensor:
    return torch.randint(300, (rows, length), generator=torch.Generator().manual_seed(2))


def load(folder: Path) -> transformers.PreTrainedModel:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)


def test_an_exported_folder_loads_generates_and_saves_again(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "my.model-1"
    export(checkpoint.parent.parent, out, data=data)
    assert "largest difference of logits 0" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["my.model-1"]
    config = json.loads((out / "config.json").read_text())
    assert config["rope_theta"] == 500.0
    assert config["layer_norm_eps"] == 1e-5
    assert (config["vocab_size"], config["max_position_embeddings"]) == (300, 32)
    assert config["eos_token_id"] == 256
    model = load(out)
    decoder = export_reference(checkpoint)
    ids = tokens()
    with torch.inference_mode():
        torch.testing.assert_close(model(ids).logits, decoder(ids), rtol=0, atol=1e-5)
        greedy = ids[:, :5]
        for _ in range(6):
            greedy = torch.cat((greedy, decoder(greedy)[:, -1:].argmax(-1)), 1)
    prompt = {"input_ids": ids[:, :5], "attention_mask": torch.ones(2, 5, dtype=torch.long)}
    found = model.generate(**prompt, max_new_tokens=6, do_sample=False, eos_token_id=None)
    assert found.tolist() == greedy.tolist()
    model.save_pretrained(tmp_path / "again")
    again = load(tmp_path / "again")
    with torch.inference_mode():
        assert torch.equal(again(ids).logits, model(ids).logits)
    assert (tmp_path / "again/hf_decoder.py").read_text() == (out / "hf_decoder.py").read_text()


def export_reference(checkpoint: Path) -> Decoder:
    state = checkpoints.load(checkpoint)["state_dict"]
    decoder = Decoder(SHAPE)
    decoder.load_state_dict({n.removeprefix("decoder."): t for n, t in state.items()})
    return decoder


def test_the_card_tells_what_the_checkpoint_says(checkpoint: Path, tmp_path: Path):
    export(checkpoint, tmp_path / "model")
    card = (tmp_path / "model/README.md").read_text()
    for line in (
        "| checkpoint | `step-00000007.ckpt`, step 7 |",
        f"| parameters | {SHAPE.num_parameters:,} |",
        "| planned steps | 90 |",
        "| RoPE base | 500 |",
    ):
        assert line in card
    assert "longest trained length" not in card
    config = json.loads((tmp_path / "model/config.json").read_text())
    assert config["max_position_embeddings"] is None
    assert not list((tmp_path / "model").glob("tokenizer*"))


def test_the_tokenizer_of_bytes_goes_along(checkpoint: Path, data: Path, tmp_path: Path):
    export(checkpoint, tmp_path / "model", data=data)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    ids = tokenizer(TEXT)["input_ids"]
    assert [*ids, 256] == ByteTokenizer().encode([TEXT])[0].tolist()
    assert tokenizer.decode(ids) == TEXT
    assert tokenizer.eos_token_id == 256


@pytest.mark.parametrize("form", ["bpe", "file", "folder"])
def test_any_other_tokenizer_goes_along(checkpoint: Path, tmp_path: Path, form: str):
    (tmp_path / "a.txt").write_text("some plain words and more of them " * 20)
    options = {"tokenizer": "bpe", "vocab_size": 280}
    prepare([str(tmp_path / "a.txt")], tmp_path / "data", min_bucket=2, max_bucket=3, **options)
    original = tmp_path / "data/tokenizer/tokenizer.json"
    if form != "bpe":
        folder = tmp_path / "own"
        folder.mkdir()
        shutil.copy(original, folder)
        words = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
        (folder / "tokenizer_config.json").write_text(json.dumps(words))
        name = folder if form == "folder" else folder / "tokenizer.json"
        texts, options = [str(tmp_path / "a.txt")], {"tokenizer": str(name)}
        prepare(texts, tmp_path / form, min_bucket=2, max_bucket=3, **options)
    export(checkpoint, tmp_path / "model", data=tmp_path / ("data" if form == "bpe" else form))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    expected = FileTokenizer(original).encode([TEXT])[0].tolist()
    assert [*tokenizer(TEXT)["input_ids"], tokenizer.eos_token_id] == expected
    if form != "bpe":
        shutil.rmtree(folder)
        with pytest.raises(FileNotFoundError, match="put it back or leave --data out"):
            export(checkpoint, tmp_path / "other", data=tmp_path / form)
        assert not (tmp_path / "other").exists()


def test_a_model_that_differs_is_not_published(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def wrong(config: ModelConfig) -> dict[str, object]:
        return {**hf_shape(config), "rope_theta": 501.0}

    monkeypatch.setattr(hf_config, "hf_shape", wrong)
    with pytest.raises(ValueError, match=r"gives other logits .* nothing was exported"):
        export(checkpoint, tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_a_llama_needs_no_code_of_ours(data: Path, tmp_path: Path):
    torch.manual_seed(3)
    shape = ModelConfig(**{**vars(SHAPE), "body": "llama", "qk_norm": False, "norm_eps": 1e-3})
    module = DecompositionModule(model=shape)
    state = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    checkpoints.save(tmp_path / "x.ckpt", state)
    export(tmp_path / "x.ckpt", tmp_path / "model", data=data)
    assert not list((tmp_path / "model").glob("*.py"))
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert type(model).__name__ == "LlamaForCausalLM"
    assert (model.config.max_position_embeddings, model.config.eos_token_id) == (32, 256)
    ids = tokens()
    with torch.inference_mode():
        expected = module.decoder(ids)
        torch.testing.assert_close(model(ids).logits, expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.05
    card = (tmp_path / "model/README.md").read_text()
    assert "| body | Llama |" in card
    assert "trust_remote_code" not in card


def test_what_a_killed_export_left_is_removed(checkpoint: Path, tmp_path: Path):
    (tmp_path / ".model.tmp-0123/model").mkdir(parents=True)
    (tmp_path / "model").mkdir()
    export(checkpoint, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_mistakes_are_named(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/a").write_text("mine")
    with pytest.raises(ValueError, match="full exists and is not an empty folder"):
        export(checkpoint, tmp_path / "full")
    with pytest.raises(FileNotFoundError, match=r"has no dataset\.json"):
        export(checkpoint, tmp_path / "model", data=tmp_path)
    with pytest.raises(checkpoints.CheckpointError, match="no such checkpoint"):
        export(tmp_path / "none.ckpt", tmp_path / "model")
    small = tmp_path / "small.ckpt"
    module = DecompositionModule(model=ModelConfig(vocab_size=9, dim=4, layers=1, heads=1))
    state = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    checkpoints.save(small, state)
    with pytest.raises(ValueError, match="has a vocabulary of 257, the model one of 9"):
        export(small, tmp_path / "model", data=data)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"install dataset-decomposition\[transformers\]"):
        export(checkpoint, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    assert (tmp_path / "full/a").read_text() == "mine"


def test_the_verb_takes_shell_words(checkpoint: Path, tmp_path: Path):
    words = [str(checkpoint), str(tmp_path / "model")]
    assert run_function(export, words, prog="export") == 0
    assert (tmp_path / "model/model.safetensors").is_file()

"""`export`, `reparam`, `latency` and `classify`, each through its verb on a small real model."""

import importlib.util
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from mobileclip.checkpoint import load_model
from mobileclip.classify import classify
from mobileclip.evaluate import evaluate
from mobileclip.evaluation.images import as_floats, model_input
from mobileclip.export import export
from mobileclip.exporting import folders, graphs, open_clip_folder, parity
from mobileclip.latency import Latency, Row, Settings, latency, measure, report
from mobileclip.models.clip import MobileCLIP, build_model
from mobileclip.models.fold import fold, is_folded, randomise_
from mobileclip.models.keymap import save_weights
from mobileclip.reparam import reparam
from mobileclip.tokenizer import tokenize
from tenfold import keyed
from tenfold.demo_data import photos

TEXTS = ["a cat", "two dogs in the snow", "a bicycle"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unfolded tiny model whose statistics are not those of a fresh one."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    torch.manual_seed(0)
    model = build_model("tiny").eval()
    randomise_(model, torch.Generator().manual_seed(1))
    with torch.no_grad():
        model.logit_scale.fill_(3.0)
    save_weights(model, path, layout="ours")
    return path


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    draws = keyed.generator("pictures")
    noise = draws.integers(0, 256, (4, 40, 56, 3), dtype=np.uint8)
    return [Image.fromarray(pixels) for pixels in noise]


def trained_logits(model: MobileCLIP, images: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model.scale() * model.encode_image(images) @ model.encode_text(tokens).T


def test_onnx_runtime_gives_the_logits_of_the_trained_model(
    weights: Path,
    pictures: list[Image.Image],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    export(weights, tmp_path / "out", format="onnx")
    assert not [record.name for record in caplog.records if record.name.startswith("onnx")]
    assert "largest difference of logits" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    facts = json.loads((tmp_path / "out" / "mobileclip.json").read_text())
    assert facts["folded"] is True
    sessions = [
        onnxruntime.InferenceSession(tmp_path / "out" / f"{name}.onnx")
        for name in ("image", "text")
    ]
    assert [session.get_inputs()[0].name for session in sessions] == ["image", "tokens"]
    size, length = facts["image"]["size"], facts["text"]["context_length"]
    images = torch.stack([as_floats(model_input(picture, size)) for picture in pictures])
    tokens = tokenize(TEXTS, context_length=length)
    rows = sessions[0].run(None, {"image": images.numpy()})[0]
    columns = sessions[1].run(None, {"tokens": tokens.numpy()})[0]
    expected = trained_logits(load_model(weights), images, tokens)
    found = torch.from_numpy(facts["logit_scale"] * rows @ columns.T)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_torch_export_runs_without_the_package_for_any_batch(
    weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        export(weights, tmp_path / "out", format="torch", fold=False)
    assert "the graphs are not folded" in caplog.text
    assert json.loads((tmp_path / "out" / "mobileclip.json").read_text())["folded"] is False
    model = load_model(weights)
    image = torch.export.load(tmp_path / "out" / "image.pt2").module()
    text = torch.export.load(tmp_path / "out" / "text.pt2").module()
    inputs = parity.samples(model)
    for number in (1, 2):
        torch.testing.assert_close(
            image(inputs.images[:number]), model.encode_image(inputs.images[:number])
        )
        torch.testing.assert_close(
            text(inputs.tokens[:number]), model.encode_text(inputs.tokens[:number])
        )
    assert (tmp_path / "out" / "image.pt2").stat().st_size < 2_000_000  # its own weights alone


def test_other_numbers_are_not_exported(weights: Path, tmp_path: Path) -> None:
    model = load_model(weights)
    with pytest.raises(ValueError, match=r"differs from the trained one: .*; not written"):
        parity.compare(model, model.encode_image, lambda tokens: model.encode_text(tokens.flip(0)))
    with pytest.raises(IsADirectoryError), folders.new_folder(tmp_path / "out") as folder:
        folder.write_text("half")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "fold_it", "size", "message"),
    [
        ("tiny", False, 32, "open_clip cannot build tiny: its text tower, MCt"),
        ("s0", False, 256, "export it with --format onnx or --format torch"),
        ("s1", True, 256, "open_clip builds the unfolded model"),
        ("b", False, 256, "open_clip builds b for images of 224, got 256"),
    ],
)
def test_what_open_clip_cannot_build(name: str, fold_it: bool, size: int, message: str) -> None:
    model = build_model("tiny").eval()
    model = fold(model) if fold_it else model
    model.name, model.image_size = name, size
    with pytest.raises(ValueError, match=message):
        open_clip_folder.check_model(model)


def test_export_refuses_a_folder_that_holds_something(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "note").write_text("mine")
    with pytest.raises(ValueError, match="exists and is not an empty folder"):
        export(weights, tmp_path, format="onnx")
    with pytest.raises(ValueError, match="no such checkpoint"):
        export(tmp_path / "none.safetensors", tmp_path / "out", format="torch")


def test_reparam_folds_a_checkpoint_that_the_others_take(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "folded.safetensors"
    reparam(weights, out, check=True)
    shown = capsys.readouterr().out
    assert "RepMixer" in shown
    assert "image embedding" in shown
    folded, model = load_model(out), load_model(weights)
    assert is_folded(folded)
    inputs = parity.samples(model)
    expected = trained_logits(model, *inputs)
    torch.testing.assert_close(trained_logits(folded, *inputs), expected, rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="is folded already"):
        reparam(out, tmp_path / "again.safetensors")
    with pytest.raises(ValueError, match=r"must be a \.safetensors file"):
        reparam(weights, tmp_path / "folded.pt")


def test_classify_prints_what_the_model_says(
    weights: Path,
    pictures: list[Image.Image],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pictures[0].save(tmp_path / "picture.png")
    labels = ["cat", "dog", "red car"]
    classify(tmp_path / "picture.png", checkpoint=weights, labels=["cat,dog,red car"])
    shown = capsys.readouterr().out
    model = load_model(weights)
    images = as_floats(model_input(pictures[0], 32))[None]
    prompts = tokenize([f"a photo of a {label}." for label in labels], context_length=16)
    shares = trained_logits(model, images, prompts).softmax(1)[0].tolist()
    for label, share in zip(labels, shares, strict=True):
        assert f"{100 * share:.1f}" in shown
        assert label in shown
    with pytest.raises(FileNotFoundError, match="there is no image"):
        classify(tmp_path / "none.png", checkpoint=weights, labels=["a", "b"])


def test_evaluate_writes_a_line_in_datacomps_format(
    weights: Path,
    pictures: list[Image.Image],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    for number, picture in enumerate(pictures):
        folder = tmp_path / "holiday" / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / f"{number}.png")
    captions = {f"class{n % 2}/{n}.png": [f"caption {n}", f"text {n}"] for n in range(4)}
    (tmp_path / "holiday" / "captions.json").write_text(json.dumps(captions))
    record = {"image": "class0/0.png", "caption_options": ["a cat", "cat a", "a dog"]}
    (tmp_path / "holiday" / "order.json").write_text(json.dumps([record]))
    out, holiday = tmp_path / "results.jsonl", tmp_path / "holiday"
    common: dict[str, Any] = {"batch_size": 2, "device": "cpu", "out": out}
    evaluate(weights, task="imagenet-folder", root=holiday, **common)
    assert not caplog.messages
    other: dict[str, Any] = {**common, "out": None, "key": "imagenet1k"}
    evaluate(weights, task="imagenet-folder", root=holiday, **other)
    assert caplog.messages[0].startswith("imagenet1k has 1000 classes, 2 are measured")
    evaluate(weights, task="retrieval", root=holiday, key="captions", **common)
    evaluate(weights, task="order", root=holiday / "order.json", **common)
    assert "holiday, 4 images" in capsys.readouterr().out
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["key"] for row in rows] == ["holiday", "captions", "order"]
    expected = direct_accuracy(load_model(weights), pictures)
    assert rows[0]["metrics"]["main_metric"] == rows[0]["metrics"]["acc1"] == expected
    assert rows[0]["metrics"]["acc5"] is None
    assert rows[1]["metrics"]["main_metric"] == rows[1]["metrics"]["mean_recall@1"]
    assert rows[2]["metrics"]["main_metric"] in (0.0, 1.0)
    with pytest.raises(ValueError, match="classnames and templates belong to classification"):
        evaluate(weights, task="retrieval", root=holiday, classnames=out, **common)
    with pytest.raises(ValueError, match="batch_size must be >= 1"):
        evaluate(weights, task="retrieval", root=holiday, batch_size=0)


def direct_accuracy(model: MobileCLIP, pictures: list[Image.Image]) -> float:
    images = torch.stack([as_floats(model_input(picture, 32)) for picture in pictures])
    prompts = [f"a photo of a class{number}." for number in range(2)]
    logits = trained_logits(model, images, tokenize(prompts, context_length=16))
    return (logits.argmax(1) == torch.tensor([0, 1, 0, 1])).double().mean().item()


def test_latency_times_every_form_beside_the_peer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    latency(models=["Tiny"], repeats=2, warmup=0, out=tmp_path / "latency.json")
    assert torch.get_num_threads() == threads
    assert "vit_b_16" in capsys.readouterr().out
    rows = json.loads((tmp_path / "latency.json").read_text())["rows"]
    forms = [(row["model"], row["form"]) for row in rows]
    assert forms == [("tiny", "unfolded"), ("tiny", "folded"), ("vit_b_16", "")]
    assert all(0 < row["image"]["median"] <= row["image"]["p95"] for row in rows)


def test_latency_times_exported_graphs_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions: list[onnxruntime.SessionOptions] = []
    session = onnxruntime.InferenceSession

    def opened(path: Path, options: onnxruntime.SessionOptions, **rest: Any) -> Any:
        sessions.append(options)
        return session(path, options, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", opened)
    rows = measure(["tiny"], Settings(repeats=1, warmup=0, forms=("torch", "onnx", "eager")))
    assert [row.form for row in rows] == ["torch", "onnx", "unfolded", "folded", ""]
    assert all(row.image.median > 0 and row.text.median > 0 for row in rows)
    assert [options.intra_op_num_threads for options in sessions] == [1, 1]


def test_loaded_towers_are_the_folded_model(tmp_path: Path) -> None:
    folded = fold(build_model("tiny").eval())
    graphs.write(graphs.trace(folded), folded, tmp_path, format="onnx")
    image, text = graphs.load(tmp_path, format="onnx", threads=1)
    inputs = parity.samples(folded)
    with torch.inference_mode():
        torch.testing.assert_close(image(inputs.images), folded.encode_image(inputs.images))
        torch.testing.assert_close(text(inputs.tokens), folded.encode_text(inputs.tokens))


@pytest.mark.parametrize(
    "verb",
    [
        lambda out: latency(models=["tiny"], forms=["onnx"]),
        lambda out: export(Path("absent.pt"), out, format="onnx"),
    ],
)
def test_a_missing_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: Callable[[Path], None]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name)
    )
    with pytest.raises(ValueError, match=r"needs onnxruntime: install the extra \w+\[onnx\]"):
        verb(tmp_path / "out")


def test_the_ratio_is_of_image_and_text_together() -> None:
    rows = [
        Row("s2", "folded", Latency(3.0, 4.0), Latency(2.0, 3.0)),
        Row("vit_b_16", "", Latency(8.0, 9.0), Latency(4.0, 5.0)),
    ]
    speeds = report(rows, Settings()).columns[-1]
    assert list(speeds.cells) == ["2.40", "1.00"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"models": ["s9"]}, "models must be some of s0, s1"),
        ({"models": []}, "models must be some of"),
        ({"forms": ["jit"]}, "forms must be some of eager, onnx, torch, got jit"),
        ({"forms": []}, "forms must be some of"),
        ({"repeats": 0}, "repeats must be at least 1, got 0"),
        ({"warmup": -1}, "warmup must be at least 0"),
        ({"device": "abacus"}, "device must be auto, cpu"),
    ],
)
def test_latency_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        latency(**{"models": ["tiny"], **options})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["s1", "s2", "b"])
def test_plain_open_clip_loads_the_folder_with_the_same_logits(name: str, tmp_path: Path) -> None:
    import open_clip

    torch.manual_seed(0)
    model = build_model(name).eval()
    randomise_(model, torch.Generator().manual_seed(1))
    save_weights(model, tmp_path / "w.safetensors", layout="ours")
    export(tmp_path / "w.safetensors", tmp_path / "out", format="open_clip")
    loaded, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path / 'out'}")
    picture = Image.fromarray(
        keyed.generator("photo").integers(0, 256, (300, 400, 3), dtype=np.uint8)
    )
    images = preprocess(picture)[None]
    assert torch.equal(images[0], as_floats(model_input(picture, model.image_size)))
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'out'}")(TEXTS)
    assert torch.equal(tokens, tokenize(TEXTS))
    with torch.inference_mode():
        found = loaded.eval()(images, tokens)
    logits = found[2] * found[0] @ found[1].T
    torch.testing.assert_close(logits, trained_logits(model, images, tokens), rtol=0, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "torch"])
def test_s0_is_exported_with_the_same_logits(format: graphs.GraphFormat, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model("s0").eval()
    randomise_(model, torch.Generator().manual_seed(1))
    folded = fold(model)
    graphs.write(graphs.trace(folded), folded, tmp_path, format=format)
    assert graphs.check(model, tmp_path, format=format).cosine < 1e-5


@pytest.mark.slow
def test_s0_in_onnx_runtime_classifies_crops_of_photographs_alike(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model("s0").eval()
    randomise_(model, torch.Generator().manual_seed(1))
    save_weights(model, tmp_path / "s0.safetensors", layout="ours")
    export(tmp_path / "s0.safetensors", tmp_path / "out", format="onnx")
    crops = torch.from_numpy(photos.crops(4, model.image_size)).permute(0, 3, 1, 2).float() / 255
    tokens = tokenize(TEXTS)
    found = {}
    for name, values in (("image", crops), ("text", tokens)):
        session = onnxruntime.InferenceSession(str(tmp_path / "out" / f"{name}.onnx"))
        (rows,) = session.run(None, {session.get_inputs()[0].name: values.numpy()})
        found[name] = F.normalize(torch.from_numpy(np.asarray(rows)), dim=-1)
    logits = model.scale().detach() * found["image"] @ found["text"].T
    expected = trained_logits(model, crops, tokens)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-3)
    assert torch.equal(logits.argmax(1), expected.argmax(1))

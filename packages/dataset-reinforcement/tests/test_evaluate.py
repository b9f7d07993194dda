"""The verb `evaluate`: counts, calibration oracles, class masks, report."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dataset_reinforcement.array_images import ArrayImages
from dataset_reinforcement.config import ModelConfig
from dataset_reinforcement.evaluate import evaluate, named_sets
from dataset_reinforcement.model import build_model
from dataset_reinforcement.robustness import Part
from dataset_reinforcement.scoring import Bin, Score, Tally, score_part
from dataset_reinforcement.set_scores import SetScore, averages
from dataset_reinforcement.student import load_student
from tenfold import checkpoints, keyed
from tenfold.cli.functions import run_function

PNG = b"\x89PNG\r\n\x1a\n"


def logits_of(confidence: Tensor, chosen: Tensor, classes: int) -> Tensor:
    """Logits whose likeliest class `chosen` has the probability `confidence`."""
    rest = (1 - confidence) / (classes - 1)
    probabilities = rest[:, None].repeat(1, classes)
    return probabilities.scatter(1, chosen[:, None], confidence[:, None]).log()


def tally(classes: int, num_bins: int = 15) -> Tally:
    return Tally([(label,) for label in range(classes)], classes, num_bins=num_bins)


def test_one_bin_by_hand() -> None:
    counts = tally(3, num_bins=1)
    chosen, labels = torch.tensor([0, 1, 2, 1]), torch.tensor([0, 1, 1, 0])
    counts.update(logits_of(torch.tensor([0.9, 0.7, 0.6, 0.8]), chosen, 3), labels)
    score = counts.score()
    assert (score.images, score.correct, score.top1) == (4, 2, 0.5)
    assert score.ece == pytest.approx(0.75 - 0.5)
    assert score.bins == (Bin(4, pytest.approx(3.0), 2),)


def test_a_calibrated_set_has_no_error() -> None:
    """In bin k of 10, confidence is (k + 1/2) / 10 and exactly that share is right."""
    counts = tally(20, num_bins=10)
    for bin_number in range(1, 10):
        right = 2 * bin_number + 1
        label = (torch.arange(20) >= right).long()
        confidence = torch.full((20,), right / 20)
        counts.update(logits_of(confidence, torch.zeros(20, dtype=torch.long), 20), label)
    score = counts.score()
    assert score.ece == pytest.approx(0, abs=1e-6)
    assert [each.images for each in score.bins] == [0] + [20] * 9


def test_full_confidence_belongs_to_the_last_bin() -> None:
    counts = tally(2, num_bins=2)
    # One sure answer is right, one of confidence 0.6 is wrong: one bin, |0.5 - 0.8|.
    logits = torch.tensor([[200.0, -200.0], [np.log(0.6), np.log(0.4)]])
    counts.update(logits, torch.tensor([0, 1]))
    assert counts.score().ece == pytest.approx(0.3, abs=1e-6)


def test_calibration_agrees_with_a_loop_over_bins() -> None:
    rng = keyed.generator("logits")
    logits = torch.from_numpy(rng.normal(scale=2, size=(400, 7)).astype(np.float32))
    labels = torch.from_numpy(rng.integers(0, 7, 400))
    counts = tally(7)
    for part in (slice(0, 256), slice(256, 400)):
        counts.update(logits[part], labels[part])
    score = counts.score()
    probabilities = logits.softmax(-1)
    confidence, chosen = probabilities.max(-1)
    hit = chosen == labels
    error = 0.0
    for place, each in enumerate(score.bins):
        inside = (confidence >= place / 15) & (confidence < (place + 1) / 15)
        assert each.images == int(inside.sum())
        assert each.correct == int(hit[inside].sum())
        if each.images:
            gap = hit[inside].double().mean() - confidence[inside].double().mean()
            error += each.images / 400 * abs(gap.item())
    assert score.ece == pytest.approx(error, abs=1e-6)
    top5 = sum(int(label in row.topk(5).indices) for label, row in zip(labels, logits, strict=True))
    assert (score.correct, score.correct5) == (int(hit.sum()), top5)


def test_classes_that_do_not_compete_are_masked() -> None:
    """Of classes 1, 4 and 5 the second set class is 4; logits of 0, 2, 3 are highest but out."""
    counts = Tally([(1,), (4,), (5,)], 6, competing=(1, 4, 5))
    counts.update(torch.tensor([[9.0, 1.0, 9.0, 9.0, 3.0, 2.0]]), torch.tensor([1]))
    score = counts.score()
    assert (score.correct, score.correct5) == (1, 1)
    assert score.ece == pytest.approx(1 - torch.tensor([1.0, 3.0, 2.0]).softmax(0)[1].item())


def test_each_mapped_class_is_right_and_others_compete() -> None:
    counts = Tally([(), (0, 2)], 7)
    ranked = torch.tensor(
        [[1.0, 0, 9, 0, 0, 0, 0], [5.0, 9, 0, 0, 0, 0, 0], [0.0, 9, -1, 8, 7, 6, 5]]
    )
    counts.update(ranked, torch.tensor([1, 1, 1]))
    score = counts.score()
    # Class 2 first; class 0 behind a wrong one; classes 0 and 2 below five others.
    assert (score.images, score.correct, score.correct5) == (3, 1, 2)


def test_every_image_is_counted_once_in_odd_batches() -> None:
    labels = np.arange(11) % 3
    images = ArrayImages(np.full((11, 4, 4), 9, np.uint8), labels, ["a", "b", "c"])
    seen: list[int] = []

    def always_second(batch: Tensor) -> Tensor:
        seen.append(len(batch))
        return torch.tensor([[0.0, 1.0, 0.0]]).repeat(len(batch), 1)

    part = Part(name="", images=images, accepted=((0,), (1,), ()))
    score = score_part(always_second, part, lambda image: image, num_classes=3, batch_size=3)
    assert seen == [3, 3, 2]
    assert (score.images, score.correct, score.correct5) == (8, 4, 8)


def test_the_border_is_cut_before_the_view() -> None:
    pixels = np.full((1, 9, 7), 255, np.uint8)
    pixels[0, 2:-2, 2:-2] = 5
    images = ArrayImages(pixels, np.array([0]), ["a"])
    shapes: list[tuple[int, ...]] = []

    def keep(image: Tensor) -> Tensor:
        shapes.append(tuple(image.shape))
        assert image.unique().tolist() == [5]
        return image

    part = Part(name="", images=images, accepted=((0,),), border=2)
    score_part(lambda batch: torch.zeros(len(batch), 2), part, keep, num_classes=2)
    assert shapes == [(3, 5, 3)]


def score(correct: int, images: int, ece: float = 0.0) -> Score:
    return Score(
        images=images, correct=correct, correct5=images, ece=ece, bins=(Bin(images, 0.5, correct),)
    )


def test_averages_are_over_sets_not_images() -> None:
    plain = SetScore("val", "plain", {"": score(90, 100)})
    noisy = SetScore("c", "c", {"fog/1": score(1, 2, 0.2), "fog/2": score(0, 8, 0.4)})
    assert noisy.top1 == 0.25
    assert noisy.ece == pytest.approx(0.3)
    assert noisy.bins == (Bin(10, 1.0, 1),)
    sketch = SetScore("sketch", "sketch", {"": score(3, 4)})
    assert averages([plain, noisy, sketch]) == {
        "all sets": pytest.approx((0.9 + 0.25 + 0.75) / 3),
        "robustness": pytest.approx(0.5),
    }
    assert averages([noisy]) == {"all sets": 0.25}


def save_checkpoint(run: Path, config: ModelConfig) -> Path:
    torch.manual_seed(5)
    network = build_model(config.name, num_classes=config.classes, image_size=config.image_size)
    averaged = {name: torch.zeros_like(tensor) for name, tensor in network.state_dict().items()}
    state = {
        "hyper_parameters": {"model": json.loads(json.dumps(asdict(config), default=str))},
        "state_dict": {
            **{f"network.{name}": tensor for name, tensor in network.state_dict().items()},
            **{f"ema.module.{name}": tensor for name, tensor in averaged.items()},
        },
        "global_step": 3,
    }
    checkpoints.save(run / "checkpoints" / "step-00000003.ckpt", state)
    return run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three classes and a folder of images, which no test changes."""
    folder = tmp_path_factory.mktemp("evaluate")
    config = ModelConfig(name="conv4", classes=3, image_size=8, mean=(0.2, 0.4, 0.6))
    save_checkpoint(folder / "run", config)
    rng = keyed.generator("evaluate")
    for number, name in enumerate(("a", "b", "c")):
        (folder / "val" / name).mkdir(parents=True)
        for copy in range(number + 2):
            pixels = rng.integers(0, 256, (12, 10, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "val" / name / f"{copy}.png")
    return folder


def test_the_verb_measures_writes_and_draws(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(place / "run"), "--sets", f"val={place / 'val'}", f"corrupted={place / 'val'}"]
    options = ["--workers=0", "--batch_size=4", "--n_bins=5", "--device=cpu"]
    out, plot = tmp_path / "figures.json", tmp_path / "reliability.png"
    argv = [*words, *options, f"--out={out}", f"--plot={plot}"]
    assert run_function(evaluate, argv, prog="evaluate") == 0
    shown = capsys.readouterr().out
    assert "mean of robustness" in shown
    figures = json.loads(out.read_text())
    assert (figures["size"], figures["resize"], figures["n_bins"]) == (8, None, 5)
    val, corrupted = figures["sets"]["val"], figures["sets"]["corrupted"]
    assert (val["images"], corrupted["images"]) == (9, 25 * 9)
    assert val["top5"] == 1
    assert figures["averages"]["robustness"] == corrupted["top1"]
    assert plot.read_bytes().startswith(PNG)

    # The same by hand: shown whole, normalised, highest logit.
    student = load_student(place / "run", device="cpu")
    network, config = student.network, student.config
    assert config.mean == (0.2, 0.4, 0.6)
    right = 0
    for path in sorted((place / "val").glob("*/*.png")):
        image = Image.open(path).resize((8, 8), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
        mean, std = (torch.tensor(each).view(3, 1, 1) for each in (config.mean, config.std))
        with torch.no_grad():
            answer = network(((pixels - mean) / std)[None]).argmax()
        right += int("abc"[int(answer)] == path.parent.name)
    assert val["parts"][""]["correct"] == right


def test_the_moving_average_is_another_model(place: Path, tmp_path: Path) -> None:
    """The average of the fixture is all zeros: the first class always wins."""
    out = tmp_path / "figures.json"
    sets = {"val": str(place / "val")}
    evaluate(place / "run", sets=sets, ema=True, workers=0, device="cpu", size=6, resize=7, out=out)
    figures = json.loads(out.read_text())
    assert figures["ema"] is True
    assert (figures["size"], figures["resize"]) == (6, 7)
    assert figures["sets"]["val"]["parts"][""]["correct"] == 2


def test_sets_are_named() -> None:
    assert named_sets(["val=x", "c=a=b"]) == {"val": "x", "c": "a=b"}
    assert named_sets({"val": "x"}) == {"val": "x"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sets": []}, "sets is empty"),
        ({"sets": ["val"]}, "name=images, got 'val'"),
        ({"sets": ["val=x", "val=y"]}, "'val' twice"),
        ({"n_bins": 0}, "n_bins must be at least 1, got 0"),
        ({"workers": -1}, "workers must be at least 0"),
        ({"size": 8, "resize": 7}, "resize must be 0 or at least the size 8, got 7"),
        ({"device": "abacus"}, "device must be auto, cpu"),
        ({"sets": ["a=x"]}, "1000 classes, the model has 3"),
    ],
)
def test_bad_options(place: Path, options: dict[str, object], message: str) -> None:
    words = {"sets": [f"val={place / 'val'}"], "workers": 0, "device": "cpu", **options}
    with pytest.raises(ValueError, match=message):
        evaluate(place / "run", **words)


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    checkpoints.save(tmp_path / "step-00000001.ckpt", {"state_dict": {}, "global_step": 1})
    with pytest.raises(ValueError, match="no checkpoint of `fit`"):
        evaluate(tmp_path, sets=["val=x"], device="cpu")

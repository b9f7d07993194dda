"""The captioner: nucleus sampling, the same texts in any batch, and the published clean-up."""

from pathlib import Path
from typing import Any

import pytest
import torch
from generation_files import SIZE, make_image, write_coca, write_teacher
from open_clip.coca_model import CoCa
from torch import Tensor

from mobileclip.generate.captioner import (
    Captioner,
    CaptionerConfig,
    Prompt,
    build_captioner,
    clean_caption,
)
from mobileclip.generate.nucleus import sample_top_p

OPTIONS: dict[str, Any] = {"pretrained": "", "num": 3, "seq_len": 10, "min_seq_len": 4, "batch": 4}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_coca(tmp_path_factory.mktemp("coca") / "tiny")


@pytest.fixture(scope="module")
def captioner(model: str) -> Captioner:
    return build_captioner(CaptionerConfig(model=model, **OPTIONS), seed=5)


@pytest.fixture(scope="module")
def prompts(captioner: Captioner) -> list[Prompt]:
    images = [torch.from_numpy(make_image(i)).permute(2, 0, 1) for i in range(4)]
    return [Prompt(captioner.prepare(image), f"uid-{i}") for i, image in enumerate(images)]


def nucleus(probabilities: list[float], top_p: float) -> list[float]:
    """Return what is left of a distribution, token by token."""
    kept, mass = [0.0] * len(probabilities), 0.0
    for token in sorted(range(len(probabilities)), key=lambda i: -probabilities[i]):
        if mass >= top_p:
            break
        kept[token] = probabilities[token]
        mass += probabilities[token]
    return [value / mass for value in kept]


def test_numbers_run_through_the_nucleus_from_the_likeliest_token_on():
    torch.manual_seed(0)
    logits = torch.randn(6, 50) * 3
    steps = torch.linspace(0, 1, 2001, dtype=torch.float64)[:-1]
    for row in logits:
        expected = torch.tensor(nucleus(row.double().softmax(-1).tolist(), 0.7))
        drawn = sample_top_p(row.expand(len(steps), -1), steps, top_p=0.7)
        share = torch.bincount(drawn, minlength=50) / len(steps)
        torch.testing.assert_close(share, expected, atol=1e-3, rtol=0)
        ranks = row.argsort(descending=True).argsort()[drawn]
        assert (ranks.diff() >= 0).all()


def test_a_small_share_takes_the_likeliest_token_and_a_whole_one_any():
    logits = torch.tensor([[0.0, 5.0, 1.0, -torch.inf]])
    numbers = torch.linspace(0, 1, 101, dtype=torch.float64)[:-1]
    rows = logits.expand(len(numbers), -1)
    assert sample_top_p(rows, numbers, top_p=1e-6).unique().tolist() == [1]
    last = torch.tensor([1 - 1e-16], dtype=torch.float64)
    assert sample_top_p(logits, last, top_p=1.0).tolist() == [0]


def likeliest(network: CoCa, image: Tensor, config: CaptionerConfig) -> list[int]:
    """Extend one caption by its likeliest token, with open_clip's forward pass alone."""
    tokens, end = [49406], 49407
    while len(tokens) < config.seq_len and tokens[-1] not in (end, 0):
        logits = network(image[None], torch.tensor([tokens]), output_labels=False)["logits"][0, -1]
        if len(tokens) < config.min_seq_len:
            logits[end] = -torch.inf
        last = len(tokens) + 1 == config.seq_len
        tokens.append(end if last else int(logits.argmax()))
    return tokens + [0] * (config.seq_len - len(tokens))


@torch.no_grad()
def test_the_likeliest_path_is_that_of_a_plain_loop(model: str, prompts: list[Prompt]):
    config = CaptionerConfig(model=model, **{**OPTIONS, "top_p": 1e-9, "num": 1})
    captioner = build_captioner(config)
    found = captioner.draw(prompts)[:, 0].tolist()
    assert found == [likeliest(captioner.network, prompt.pixels, config) for prompt in prompts]
    assert len({tuple(tokens) for tokens in found}) > 1


def test_a_caption_depends_on_image_uid_and_number_alone(
    captioner: Captioner, prompts: list[Prompt]
):
    whole = captioner.draw(prompts)
    assert whole.shape == (4, 3, 10)
    assert torch.equal(torch.cat([captioner.draw([prompt]) for prompt in prompts]), whole)
    assert torch.equal(captioner.draw(prompts[::-1]).flip(0), whole)
    assert len({tuple(row) for row in whole.flatten(0, 1).tolist()}) == 12
    again = Prompt(prompts[0].pixels, prompts[0].uid, attempt=1)
    assert not torch.equal(captioner.draw([again])[0], whole[0])


def test_pixels_are_those_of_open_clips_evaluation(captioner: Captioner):
    grey = torch.full((3, SIZE + 4, SIZE), 127, dtype=torch.uint8)
    pixels = captioner.prepare(grey)
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.25])
    assert pixels.shape == (3, SIZE, SIZE)
    torch.testing.assert_close(pixels[:, 0, 0], (127 / 255 - mean) / std)


class _Ends(torch.nn.Module):
    """Writes end after three tokens to odd images, never to even ones."""

    context_length, pad_id = 12, 0

    def forward(self, image: Tensor | None, text: Tensor | None = None, **more: Any) -> Any:
        if image is not None:
            number = image[:, :1, 0, 0]
            return {"image_features": number, "image_embs": number}
        assert text is not None
        logits = torch.full((*text.shape, 49408), -100.0)
        ends = more["image_latent"][:, 0].bool() & (text.shape[1] >= 4)
        logits[:, -1, 320], logits[:, -1, 49407] = 0.0, torch.where(ends, 100.0, -100.0)
        return {"logits": logits}


def test_a_caption_ends_once_and_is_padded_or_cut(captioner: Captioner):
    ends = Captioner(
        _Ends(),  # pyright: ignore[reportArgumentType]
        captioner._tokenizer,
        inputs={"size": 2},
        config=CaptionerConfig(model="local-dir:x", **{**OPTIONS, "num": 1, "seq_len": 8}),
        name="ends",
    )
    prompts = [Prompt(torch.full((3, 2, 2), float(i)), str(i)) for i in range(2)]
    start, a, end = 49406, 320, 49407
    assert ends.draw(prompts)[:, 0].tolist() == [
        [start, a, a, a, a, a, a, end],
        [start, a, a, a, end, 0, 0, 0],
    ]
    assert ends.texts(ends.draw(prompts)[1]) == ["a a a"]


def test_weights_that_give_nan_are_an_error(model: str, prompts: list[Prompt]):
    broken = build_captioner(CaptionerConfig(model=model, **OPTIONS))
    with torch.no_grad():
        broken.network.text_decoder.text_projection[0, 0] = torch.nan
    with pytest.raises(ValueError, match="local-dir:tiny gives logits that are not finite"):
        broken.draw(prompts)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("<start_of_text>a cat on a mat . it is red <end_of_text>!!!", "a cat on a mat"),
        ("<start_of_text>a cat <end_of_text>a dog", "a cat"),
        ("a cat", "a cat"),
        ("<start_of_text>. <end_of_text>", ""),
        ("<start_of_text>st. bernard", "st"),
    ],
)
def test_clean_up(text: str, clean: str):
    assert clean_caption(text) == clean


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num": 0}, "captioner.num must be >= 1, got 0"),
        ({"batch": 0}, "captioner.batch must be >= 1, got 0"),
        ({"top_p": 0.0}, r"captioner.top_p must lie in \(0, 1\], got 0.0"),
        ({"seq_len": 5}, "captioner.seq_len must be > min_seq_len 5, got 5"),
        ({"precision": "fp16"}, "captioner.precision must be fp32 or bf16, got 'fp16'"),
    ],
)
def test_impossible_captioners(fields: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        CaptionerConfig(**fields)


def test_a_model_that_cannot_write_is_refused(tmp_path: Path):
    teacher = write_teacher(tmp_path / "clip")
    with pytest.raises(ValueError, match="local-dir:clip, which is no CoCa"):
        build_captioner(CaptionerConfig(model=teacher.model, pretrained=""))


def test_a_caption_longer_than_the_context_is_refused(model: str):
    config = CaptionerConfig(model=model, **{**OPTIONS, "seq_len": 30})
    with pytest.raises(ValueError, match="seq_len is 30, local-dir:tiny has a context of 12"):
        build_captioner(config)

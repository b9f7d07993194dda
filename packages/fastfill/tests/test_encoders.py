"""Encoders of own backbones, timm and open_clip: preprocessing, heads, cards, memory."""

from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import nn

from fastfill.config import BackboneConfig
from fastfill.encoder_networks import published_crop
from fastfill.encoders import Encoder, load_encoder
from fastfill.models import build_backbone
from fastfill.weights import backbone_card, save_backbone
from tenfold.digests import weights_sha256

TIMM_MODEL = "test_resnet"


def picture(seed: int = 0, size: tuple[int, int] = (40, 32)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def save_own(path: Path, *, arch: str = "tiny_conv", seed: int = 0, classes: int = 5) -> Path:
    torch.manual_seed(seed)
    backbone = build_backbone(BackboneConfig(arch=arch, dim=6, num_classes=classes)).eval()
    save_backbone(path, backbone, backbone_card(backbone, name=path.stem))
    return path


def test_own_backbone_gives_what_its_network_gives(tmp_path: Path) -> None:
    encoder = load_encoder(str(save_own(tmp_path / "a.safetensors")))
    torch.manual_seed(0)
    backbone = build_backbone(BackboneConfig(arch="tiny_conv", dim=6, num_classes=5)).eval()
    image = picture(size=(32, 32))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        expected = backbone.embed_uint8(pixels).numpy()
        logits = backbone.head(backbone.embed_uint8(pixels)).numpy()
    found = encoder.embed_images([image])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(encoder.logits(found), logits, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(encoder.embed_images(pixels), found)
    assert (encoder.card.dim, encoder.card.metric, encoder.card.num_classes) == (6, "l2", 5)
    assert encoder.card.weights_sha256 == weights_sha256(backbone)
    assert not encoder.card.normalized
    assert load_encoder(str(tmp_path / "a.safetensors"), metric="ip").card.metric == "ip"


def test_grey_backbone_takes_rgb(tmp_path: Path) -> None:
    path = save_own(tmp_path / "a.safetensors", arch="tiny_mlp")
    encoder = load_encoder(str(path))
    grey = picture(size=(8, 8)).convert("L")
    both = encoder.embed_images([grey, grey.convert("RGB")])
    np.testing.assert_array_equal(both[0], both[1])
    assert both.any()


def test_published_crop() -> None:
    big = Image.new("RGB", (512, 256), (255, 0, 0))
    big.paste((0, 0, 255), (128 + 16, 16, 128 + 16 + 224, 16 + 224))
    assert np.asarray(published_crop(big, 224)).reshape(-1, 3)[:, 0].max() == 0
    small = picture(size=(20, 30))
    assert published_crop(small, 32).size == (32, 32)
    np.testing.assert_array_equal(
        published_crop(small, 32), small.resize((32, 32), Image.Resampling.BILINEAR)
    )


def test_batches_and_memory_do_not_change_vectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(save_own(tmp_path / "a.safetensors"))
    images = [picture(seed) for seed in range(7)]
    expected = load_encoder(path).embed_images(images)
    encoder = load_encoder(path, batch_size=4)
    sizes: list[int] = []
    rows = Encoder._rows

    def scarce(self: Encoder, batch: torch.Tensor) -> torch.Tensor:
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("scarce")
        return rows(self, batch)

    monkeypatch.setattr(encoder._run, "run", scarce.__get__(encoder))
    np.testing.assert_allclose(encoder.embed_images(images), expected, rtol=1e-5, atol=1e-6)
    assert sizes == [4, 2, 2, 2, 2]
    assert encoder.embed_images([]).shape == (0, 6)


@pytest.fixture(scope="module")
def timm_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("timm") / "w.pth"
    torch.save(timm.create_model(TIMM_MODEL, num_classes=7).state_dict(), path)
    return path


def test_timm_from_a_file(timm_weights: Path) -> None:
    encoder = load_encoder(f"timm:{TIMM_MODEL}:{timm_weights}")
    plain: Any = timm.create_model(TIMM_MODEL, num_classes=7).eval()
    plain.load_state_dict(torch.load(timm_weights, weights_only=True))
    transform: Any = timm.data.create_transform(**timm.data.resolve_model_data_config(plain))
    image = picture()
    with torch.inference_mode():
        pooled = plain.forward_head(
            plain.forward_features(transform(image)[None]), pre_logits=True
        ).numpy()
    np.testing.assert_allclose(encoder.embed_images([image]), pooled, rtol=1e-4, atol=1e-6)
    assert encoder.head is None  # it has a bias
    assert encoder.card.name == f"{TIMM_MODEL}/w.pth"
    with pytest.raises(ValueError, match="no classifier"):
        encoder.logits(pooled)
    unit = load_encoder(f"timm:{TIMM_MODEL}:{timm_weights}", metric="cosine")
    np.testing.assert_allclose(
        unit.embed_images([image]), pooled / np.linalg.norm(pooled), rtol=1e-4, atol=1e-6
    )
    assert unit.card.normalized


def test_timm_classifier_without_bias_is_a_head(tmp_path: Path) -> None:
    network: Any = timm.create_model(TIMM_MODEL, num_classes=7)
    network.get_classifier().bias = None
    path = tmp_path / "w.pth"
    torch.save(network.state_dict(), path)
    encoder = load_encoder(f"timm:{TIMM_MODEL}:{path}")
    weight = network.get_classifier().weight.detach().numpy()
    assert encoder.head is not None
    np.testing.assert_array_equal(encoder.head, weight)
    assert encoder.card.num_classes == 7


def test_timm_weights_without_classifier(tmp_path: Path) -> None:
    network: Any = timm.create_model(TIMM_MODEL, num_classes=0)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    encoder = load_encoder(f"timm:{TIMM_MODEL}:{tmp_path / 'w.pth'}")
    assert encoder.card.weights_sha256 == weights_sha256(network)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, nn.Module]:
    folder = tmp_path_factory.mktemp("clip")
    (folder / "ff-tiny.json").write_text(
        '{"embed_dim": 8, "vision_cfg": {"image_size": 32, "layers": 1, "width": 16,'
        ' "head_width": 8, "patch_size": 16}, "text_cfg": {"context_length": 12,'
        ' "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}}'
    )
    open_clip.add_model_config(folder)
    torch.manual_seed(2)
    network = open_clip.create_model("ff-tiny").eval()
    torch.save(network.state_dict(), folder / "w.pt")
    return f"open_clip:ff-tiny:{folder / 'w.pt'}", network


def test_open_clip_towers_share_a_space(clip: tuple[str, nn.Module]) -> None:
    name, network = clip
    towers: Any = network
    images, texts = load_encoder(name), load_encoder(f"{name}:text")
    assert (images.kind, texts.kind) == ("image", "text")
    assert images.card.weights_sha256 == texts.card.weights_sha256 == weights_sha256(network)
    assert images.card.metric == "cosine"
    see: Any = image_transform_v2(
        PreprocessCfg(**open_clip.get_model_preprocess_cfg(towers)), is_train=False
    )
    tokens = open_clip.get_tokenizer("ff-tiny")(["a cat", "two dogs"])
    with torch.inference_mode():
        of_image = towers.encode_image(see(picture())[None], normalize=True).numpy()
        of_text = towers.encode_text(tokens, normalize=True).numpy()
    np.testing.assert_allclose(images.embed_images([picture()]), of_image, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        texts.embed_texts(["a cat", "two dogs"]), of_text, rtol=1e-4, atol=1e-6
    )
    raw = load_encoder(name, metric="ip").embed_images([picture()])
    assert abs(float(np.linalg.norm(raw)) - 1) > 1e-3


def test_wrong_kind_and_shape(clip: tuple[str, nn.Module]) -> None:
    images, texts = load_encoder(clip[0]), load_encoder(f"{clip[0]}:text")
    with pytest.raises(ValueError, match="embeds images, got texts"):
        images.embed_texts(["a"])
    with pytest.raises(ValueError, match="embeds texts, got images"):
        texts.embed_images([picture()])
    with pytest.raises(ValueError, match="list of str"):
        texts.embed_texts("a")
    with pytest.raises(ValueError, match="uint8"):
        images.embed_images(torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match="must be PIL images"):
        images.embed_images(["a"])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("gone.safetensors", FileNotFoundError, "does not exist: expected"),
        ("timm:no_such_model", ValueError, "timm:no_such_model cannot be loaded"),
        (f"timm:{TIMM_MODEL}:gone.pth", FileNotFoundError, "gone.pth do not exist"),
        ("open_clip:no-such:x", ValueError, "knows no model 'no-such'"),
        ("open_clip:ViT-B-32:no-such", FileNotFoundError, "neither a file nor"),
    ],
)
def test_bad_names(name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        load_encoder(name)
    assert "\n" not in str(caught.value)


def test_weights_that_cannot_be_had_or_do_not_fit(tmp_path: Path, timm_weights: Path) -> None:
    with pytest.raises(ValueError, match=f"timm:{TIMM_MODEL}.* cannot be loaded"):
        load_encoder(f"timm:{TIMM_MODEL}.r160_in1k")
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_encoder(f"timm:test_vit:{timm_weights}")
    (tmp_path / "junk.pth").write_bytes(b"junk")
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_encoder(f"timm:{TIMM_MODEL}:{tmp_path / 'junk.pth'}")


def test_bad_options(tmp_path: Path) -> None:
    path = str(save_own(tmp_path / "a.safetensors"))
    with pytest.raises(ValueError, match="metric must be one of"):
        load_encoder(path, metric="manhattan")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="device"):
        load_encoder(path, device="toaster")
    with pytest.raises(ValueError, match="batch must be >= 1"):
        load_encoder(path, batch_size=0)

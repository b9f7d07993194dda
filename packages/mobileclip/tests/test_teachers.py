"""The teachers: inputs, slices, where weights come from, and what they say of themselves."""

from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import torch.nn.functional as F
from generation_files import PREPROCESS, SIZE, write_ensemble, write_teacher
from torch import Tensor

from mobileclip.generate.open_clip_networks import load_network, needs_quick_gelu
from mobileclip.generate.teacher_config import TeacherConfig, TeacherEnsembleConfig
from mobileclip.generate.teachers import Teachers, build_teachers
from mobileclip.models.clip import build_model
from mobileclip.models.keymap import save_weights
from mobileclip.tokenizer import tokenize
from tenfold.digests import weights_sha256

TEXTS = ["a cat", "", "a very long text " * 20]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TeacherEnsembleConfig:
    return write_ensemble(tmp_path_factory.mktemp("teachers"))


@pytest.fixture(scope="module")
def teachers(config: TeacherEnsembleConfig) -> Teachers:
    return build_teachers(config)


def views(count: int = 5, side: int = SIZE) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8)


def networks(config: TeacherEnsembleConfig) -> list[Any]:
    return [open_clip.create_model(member.model).eval() for member in config.members]


def test_images_are_what_open_clip_says_of_each_input(
    config: TeacherEnsembleConfig, teachers: Teachers
):
    mean, std = (torch.tensor(PREPROCESS[name]).view(3, 1, 1) for name in ("mean", "std"))
    images = views().float() / 255
    slices = []
    for network in networks(config):
        size = network.visual.image_size
        resized = F.interpolate(images, size, mode="bicubic") if size[0] != SIZE else images
        slices.append(network.encode_image((resized - mean) / std, normalize=True).detach())
    assert teachers.dims == (8, 12)
    found = teachers.encode_images(views())
    torch.testing.assert_close(found, torch.cat(slices, dim=1))
    assert found.dtype == torch.float32
    assert not found.is_inference()


def test_texts_are_what_open_clip_says(config: TeacherEnsembleConfig, teachers: Teachers):
    tokenizer = open_clip.get_tokenizer(config.members[0].model)
    slices = [n.encode_text(tokenizer(TEXTS), normalize=True).detach() for n in networks(config)]
    torch.testing.assert_close(teachers.encode_texts(TEXTS), torch.cat(slices, dim=1))


def test_each_slice_is_a_unit_vector_and_batches_change_nothing(teachers: Teachers):
    whole = teachers.encode_images(views(20))
    for part in whole.split(teachers.dims, dim=1):
        torch.testing.assert_close(part.norm(dim=1), torch.ones(20))
    one_by_one = torch.cat([teachers.encode_images(view) for view in views(20).split(1)])
    torch.testing.assert_close(whole, one_by_one, atol=1e-6, rtol=0)
    texts = [f"text {i}" for i in range(20)]
    apart = torch.cat([teachers.encode_texts([text]) for text in texts])
    torch.testing.assert_close(teachers.encode_texts(texts), apart, atol=1e-6, rtol=0)


def test_nothing_gives_no_rows(teachers: Teachers):
    assert teachers.encode_texts([]).shape == (0, 20)
    assert teachers.encode_images(views(0)).shape == (0, 20)


def test_scales_are_the_networks_own_unless_given(
    config: TeacherEnsembleConfig, teachers: Teachers
):
    assert teachers.scales == pytest.approx((1 / 0.07, 1 / 0.07))
    given = TeacherConfig(model=config.members[0].model, logit_scale=100.0)
    assert build_teachers(TeacherEnsembleConfig(members=(given,))).scales == (100.0,)


def test_they_describe_their_weights_and_are_frozen(teachers: Teachers):
    first, second = teachers.describe()
    assert (first.name, second.name) == ("local-dir:first", "local-dir:second")
    assert (second.dim, second.input_size) == (12, 8)
    assert first.weights_sha256 == weights_sha256(teachers.members[0].network)
    for member in teachers.members:
        assert not member.network.training
        assert not any(parameter.requires_grad for parameter in member.network.parameters())
    assert teachers.settings()["members"]["0"]["mean"] == PREPROCESS["mean"]


def test_half_precision_runs_the_network_only(config: TeacherEnsembleConfig, teachers: Teachers):
    half = build_teachers(TeacherEnsembleConfig(members=config.members, precision="bf16"))
    rounded, exact = half.encode_images(views()), teachers.encode_images(views())
    assert rounded.dtype == torch.float32
    assert 0 < (exact - rounded).abs().max() < 0.1


def test_another_input_size_can_be_asked_for(config: TeacherEnsembleConfig):
    larger = TeacherConfig(model=config.members[0].model, size=24)
    built = build_teachers(TeacherEnsembleConfig(members=(larger,)))
    assert built.describe()[0].input_size == 24
    assert built.encode_images(views(2, 24)).shape == (2, 8)


def test_weights_may_stand_in_a_folder_beside_a_name(config: TeacherEnsembleConfig):
    folder = config.members[0].model
    named = load_network("clip-of-mine", folder)
    assert named.name == "clip-of-mine/first"
    assert weights_sha256(named.network) == weights_sha256(load_network(folder).network)


def test_a_model_of_ours_teaches_too(tmp_path: Path):
    torch.manual_seed(0)
    model = build_model("tiny").eval()
    path = tmp_path / "ours.safetensors"
    save_weights(model, path, layout="ours")
    built = build_teachers(
        TeacherEnsembleConfig(members=(TeacherConfig(model=f"mobileclip:{path}"),))
    )
    pixels = views(3, model.image_size)
    tokens = tokenize(TEXTS, context_length=model.context_length)
    with torch.no_grad():
        images, texts = model.encode_image(pixels.float() / 255), model.encode_text(tokens)
    torch.testing.assert_close(built.encode_images(pixels), images)
    torch.testing.assert_close(built.encode_texts(TEXTS), texts)
    assert built.scales == pytest.approx((1 / 0.07,))
    (info,) = built.describe()
    assert (info.name, info.input_size, info.dim) == ("mobileclip:tiny", 32, model.embed_dim)
    sized = TeacherConfig(model=f"mobileclip:{path}", size=64)
    with pytest.raises(ValueError, match="takes images of 32 pixels, got size 64"):
        build_teachers(TeacherEnsembleConfig(members=(sized,)))


def test_an_image_tower_alone_is_no_teacher(tmp_path: Path):
    path = tmp_path / "tower.safetensors"
    save_weights(build_model("tiny"), path, layout="timm")
    config = TeacherEnsembleConfig(members=(TeacherConfig(model=f"mobileclip:{path}"),))
    with pytest.raises(ValueError, match=r"tower.safetensors holds an image tower alone"):
        build_teachers(config)


def test_the_activation_follows_the_weights():
    assert needs_quick_gelu("ViT-L-14", "openai")
    assert not needs_quick_gelu("ViT-L-14", "datacomp_xl_s13b_b90k")
    assert needs_quick_gelu("ViT-L-14-quickgelu", "openai")
    assert not needs_quick_gelu("ViT-L-14", "a/file.pt")


def test_a_folder_without_weights_is_an_error_and_no_random_teacher(tmp_path: Path):
    config = write_teacher(tmp_path / "bare")
    (tmp_path / "bare/open_clip_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="bare holds no weights"):
        build_teachers(TeacherEnsembleConfig(members=(config,)))


def test_weights_that_do_not_fit_are_an_error(tmp_path: Path):
    config = write_teacher(tmp_path / "one", dim=8)
    write_teacher(tmp_path / "two", dim=12)
    name = "open_clip_model.safetensors"
    (tmp_path / "two" / name).replace(tmp_path / "one" / name)
    with pytest.raises(ValueError, match=r"local-dir:one cannot be loaded: .*size mismatch"):
        build_teachers(TeacherEnsembleConfig(members=(config,)))


@pytest.mark.parametrize(
    ("model", "pretrained", "error", "message"),
    [
        ("ViT-L-15", "openai", ValueError, "open_clip knows no model 'ViT-L-15'"),
        (
            "ViT-L-14",
            "nowhere.pt",
            FileNotFoundError,
            "'nowhere.pt' is neither a file nor .*openai",
        ),
        ("local-dir:nowhere", "", FileNotFoundError, "nowhere is no open_clip folder"),
    ],
)
def test_missing_models_and_weights(
    model: str, pretrained: str, error: type[Exception], message: str
):
    with pytest.raises(error, match=message):
        load_network(model, pretrained)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": "ViT-L-14"}, "ViT-L-14 needs its weights in pretrained"),
        ({"model": ""}, "a teacher needs its weights"),
        ({"model": "local-dir:x", "pretrained": "y"}, "needs no pretrained, its weights are there"),
        ({"model": "local-dir:x", "logit_scale": 0.0}, "logit_scale must be > 0, got 0.0"),
        ({"model": "local-dir:x", "logit_scale": float("nan")}, "logit_scale must be > 0, got nan"),
        ({"model": "local-dir:x", "size": 0}, "size must be > 0, got 0"),
    ],
)
def test_impossible_teachers(fields: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        TeacherConfig(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"members": ()}, "members is empty"),
        ({"precision": "fp16"}, "precision must be fp32 or bf16, got 'fp16'"),
        ({"batch": 0}, "batch must be >= 1, got 0"),
    ],
)
def test_impossible_ensembles(fields: dict[str, Any], message: str):
    members = (TeacherConfig(model="local-dir:x"),)
    with pytest.raises(ValueError, match=message):
        TeacherEnsembleConfig(**{"members": members, **fields})


def test_other_inputs_than_bytes_and_lists_are_refused(teachers: Teachers):
    with pytest.raises(ValueError, match=r"views must be uint8 \[n, 3, T, T\], got torch.float32"):
        teachers.encode_images(views().float())
    with pytest.raises(ValueError, match="texts must be a list of str, got 'a cat'"):
        teachers.encode_texts("a cat")

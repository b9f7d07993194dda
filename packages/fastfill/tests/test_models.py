import pytest
import torch

from fastfill.config import BackboneConfig
from fastfill.models import TimmBackbone, TinyConv, TinyMlp, build_backbone, frozen
from fastfill.resnets import RESNETS, ReducedResNet
from tenfold.digests import weights_sha256

SMALL = ["tiny_conv", "tiny_mlp", "timm:test_resnet", "timm:test_vit"]


def build(arch, *, dim=8, num_classes=5, seed=0):
    torch.manual_seed(seed)
    return build_backbone(BackboneConfig(arch=arch, dim=dim, num_classes=num_classes))


def images(backbone, count=3):
    generator = torch.Generator().manual_seed(1)
    shape = (count, *backbone.input_size)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("arch", SMALL)
def test_embeddings_and_logits_have_their_widths(arch):
    backbone = build(arch).eval()
    image = backbone.preprocess(images(backbone))
    embedding = backbone.embed(image)
    assert embedding.shape == (3, 8)
    assert torch.equal(backbone(image), embedding @ backbone.head.weight.T)
    assert torch.equal(backbone.embed_uint8(images(backbone)), embedding)
    assert backbone.head.bias is None
    assert (backbone.dim, backbone.num_classes) == (8, 5)


@pytest.mark.parametrize("arch", ["tiny_conv", "tiny_mlp", "resnet18"])
def test_embeddings_keep_the_last_relu(arch):
    backbone = build(arch).eval()
    small = images(backbone)[..., :32, :32]
    embedding = backbone.embed_uint8(small)
    assert embedding.min() >= 0
    assert embedding.max() > 0


def test_pixels_are_scaled_and_normalised():
    backbone = build("resnet18")
    pixel = torch.tensor([0, 255, 51], dtype=torch.uint8).view(1, 3, 1, 1)
    expected = [(0 - 0.485) / 0.229, (1 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    assert backbone.preprocess(pixel).flatten().tolist() == pytest.approx(expected, rel=1e-6)
    digit = torch.full((1, 1, 8, 8), 255, dtype=torch.uint8)
    assert torch.equal(build("tiny_mlp").preprocess(digit), torch.ones(1, 1, 8, 8))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(2, 3, 32, 32), r"must be uint8 \[B, 3, H, W\], got torch.float32"),
        (torch.zeros(3, 32, 32, dtype=torch.uint8), r"got torch.uint8 \[3, 32, 32\]"),
        (torch.zeros(2, 1, 32, 32, dtype=torch.uint8), "must have 3 channels, got 1"),
    ],
)
def test_images_of_another_kind_are_refused(image, message):
    with pytest.raises(ValueError, match=message):
        build("tiny_conv").embed_uint8(image)


# torchvision's networks without their classifiers: what is published there less 1000 x (width + 1).
PUBLISHED = {
    "resnet18": (11_689_512 - 513_000, 512),
    "resnet50": (25_557_032 - 2_049_000, 512),
    "resnet101": (44_549_160 - 2_049_000, 512),
    "wide_resnet50_2": (68_883_240 - 2_049_000, 1024),
    "wide_resnet101_2": (126_886_696 - 2_049_000, 1024),
}


@pytest.mark.parametrize("arch", list(RESNETS))
def test_a_reduced_resnet_differs_from_the_published_one_in_its_last_block(arch):
    with torch.device("meta"):
        network = ReducedResNet(BackboneConfig(arch=arch, dim=128, num_classes=1000))
    whole, width = PUBLISHED[arch]
    if arch == "resnet18":  # both convolutions and norms of the last block, and a shortcut
        before = 2 * (512 * 512 * 9) + 4 * 512
        after = 512 * 128 * 9 + 128 * 128 * 9 + 4 * 128 + 512 * 128 + 2 * 128
    else:  # the last convolution with its norm, and a shortcut
        before = width * 2048 + 2 * 2048
        after = width * 128 + 2 * 128 + 2048 * 128 + 2 * 128
    count = sum(p.numel() for p in network.parameters())
    assert count == whole - before + after + 128 * 1000
    last = network.layer4[-1]
    assert last.downsample[0].out_channels == 128
    assert last.downsample[0].bias is None


def test_a_resnet_of_the_unreduced_width_keeps_its_identity_shortcut():
    with torch.device("meta"):
        network = ReducedResNet(BackboneConfig(arch="resnet50", dim=2048, num_classes=10))
    assert network.layer4[-1].downsample is None
    assert sum(p.numel() for p in network.parameters()) == PUBLISHED["resnet50"][0] + 20_480


@pytest.mark.parametrize("arch", ["tiny_conv", "timm:test_resnet"])
def test_a_frozen_network_does_not_change(arch):
    backbone = frozen(build(arch))
    before = weights_sha256(backbone)
    source = torch.nn.Parameter(torch.zeros(1))
    (backbone(backbone.preprocess(images(backbone)) + source).sum()).backward()
    assert source.grad is not None
    assert all(p.grad is None for p in backbone.parameters())
    assert weights_sha256(backbone) == before


def test_preprocessing_is_no_part_of_the_weights():
    assert not [name for name in build("tiny_conv").state_dict() if name in ("mean", "std")]


def test_architectures_are_found_by_name():
    assert isinstance(build("tiny_conv"), TinyConv)
    assert isinstance(build("tiny_mlp"), TinyMlp)
    assert isinstance(build("timm:test_vit"), TimmBackbone)


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("vgg", r"model.arch must be one of resnet18, .*timm:<model>, got vgg"),
        ("timm:no_such", "timm has no model no_such"),
    ],
)
def test_unknown_architectures_are_refused(arch, message):
    with pytest.raises(ValueError, match=message):
        build(arch)

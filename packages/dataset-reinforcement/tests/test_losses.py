"""Targets against their definitions: completed labels, whole labels, mixed batches."""

import torch

from dataset_reinforcement.losses import densify, mix_batch, whole_label
from dataset_reinforcement.top_labels import top_labels
from tenfold.losses.distillation import sparse_target_loss


def test_the_gradient_is_softmax_minus_target() -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(4, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    p = torch.rand(4, 7, generator=generator, dtype=torch.float64).softmax(-1).topk(3)
    loss = sparse_target_loss(logits, p.indices, p.values)
    loss.backward()
    target = densify(p.indices, p.values, num_classes=7, rest="uniform")
    torch.testing.assert_close(logits.grad, (logits.softmax(-1) - target).detach() / 4)
    torch.testing.assert_close(target.sum(-1), torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(target.gather(-1, p.indices), p.values)
    assert torch.autograd.gradcheck(lambda z: sparse_target_loss(z, p.indices, p.values), logits)


def test_completing_labels() -> None:
    classes = torch.tensor([[2, 0], [1, 3]])
    given = torch.tensor([[0.5, 0.3], [0.8, 0.4]])
    uniform = densify(classes, given, num_classes=4, rest="uniform")
    expected = torch.tensor([[0.3, 0.1, 0.5, 0.1], [0, 0.8 / 1.2, 0, 0.4 / 1.2]])
    torch.testing.assert_close(uniform, expected)
    rest = densify(classes, given, num_classes=4, rest="renormalise")
    torch.testing.assert_close(rest[0], torch.tensor([0.375, 0, 0.625, 0]))
    whole = torch.tensor([[0.25, 0.125, 0.5, 0.125]])
    order = torch.tensor([[3, 1, 0, 2]])
    assert densify(order, whole, num_classes=4, rest="uniform").tolist() == [
        [0.5, 0.125, 0.125, 0.25]
    ]


def test_batch_mixing_takes_one_kind_and_mixes_labels_alike() -> None:
    image = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 3, 8, 8)
    label, kinds = torch.arange(5) % 3, set()
    for seed in range(40):
        torch.manual_seed(seed)
        mixed, soft = mix_batch(image, label, num_classes=3, mixup_alpha=0.2, cutmix_alpha=1.0)
        torch.testing.assert_close(soft.sum(-1), torch.ones(5))
        partner = image.roll(1, 0)
        weight = soft[1, 1].item()  # of image 1, whose partner has label 0
        torch.testing.assert_close(
            mixed.mean((1, 2, 3)), (weight * image + (1 - weight) * partner).mean((1, 2, 3))
        )
        kinds.add(bool(((mixed == image) | (mixed == partner)).all()))
    assert kinds == {True, False}


def test_a_teachers_answer_is_rounded_as_a_whole_stored_label() -> None:
    generator = torch.Generator().manual_seed(0)
    p = (3 * torch.randn(500, 40, generator=generator)).softmax(-1)
    assert (p.sum(-1) > 1).any()
    stored = top_labels(p, 40)
    classes = torch.from_numpy(stored.classes.astype("int64"))
    values = torch.from_numpy(stored.probabilities)
    target = densify(classes, values, num_classes=40, rest="uniform")
    assert torch.equal(whole_label(p), target)
    torch.testing.assert_close(target, p)

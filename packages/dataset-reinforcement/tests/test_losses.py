"""Targets against their definitions: completed labels, whole labels, mixed batches."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dataset_reinforcement.config import Rest
from dataset_reinforcement.losses import densify, mix_batch, official_probabilities, whole_label
from dataset_reinforcement.top_labels import top_labels
from tenfold.losses.distillation import soft_target_loss, sparse_target_loss


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


def official_target(
    classes: list[int], values: list[float], *, num_classes: int, zeros: bool
) -> Tensor:
    """One row, class by class, as spec 2.1 tells of the official code."""
    p = torch.tensor(values)
    rest = 1 - float(p.sum())
    if zeros or rest < 0:
        exponents = [math.exp(value) for value in values]
        chosen = [value / sum(exponents) for value in exponents]
        rest = 0.0
    else:
        chosen = values
    others = rest / max(num_classes - len(values), 1)
    return torch.tensor(
        [
            chosen[classes.index(number)] if number in classes else others
            for number in range(num_classes)
        ]
    )


@pytest.mark.parametrize("rest", ["uniform", "renormalise"])
@pytest.mark.parametrize("num_classes", [7, 3])
def test_official_labels_are_those_of_a_naive_loop(rest: Rest, num_classes: int) -> None:
    generator = torch.Generator().manual_seed(3)
    classes = torch.stack([torch.randperm(num_classes, generator=generator)[:3] for _ in range(6)])
    values = torch.tensor(
        [
            [0.5, 0.2, 0.1],
            [0.9, 0.08, 0.0202],  # above 1, as half precision stores it
            [1.0, 0.0, 0.0],
            [0.7, 0.2, 0.1001],
            [1.0, 0.0, 0.0],  # a hard label
            [0.25, 0.25, 0.25],
        ]
    )
    if num_classes == 3:  # with all classes stored, nothing is left for others
        values = torch.where(
            values.sum(-1, keepdim=True) > 1, values, values / values.sum(-1)[:, None]
        )
    reinforced = torch.tensor([True, True, True, True, False, True])
    target = torch.stack(
        [
            official_target(c, v, num_classes=num_classes, zeros=rest == "renormalise" and bool(r))
            for c, v, r in zip(classes.tolist(), values.tolist(), reinforced, strict=True)
        ]
    )
    given = official_probabilities(values, rest=rest, reinforced=reinforced)
    dense = densify(classes, given, num_classes=num_classes, rest=rest)
    torch.testing.assert_close(dense, target)
    logits = torch.randn(6, num_classes, generator=generator)
    expected = F.kl_div(logits.log_softmax(-1), target, reduction="batchmean")
    sparse = sparse_target_loss(logits, classes, given, rest=rest)
    torch.testing.assert_close(sparse, expected)
    torch.testing.assert_close(
        soft_target_loss(logits, dense, teacher_form="probabilities"), expected
    )
    assert torch.equal(given[4], values[4])
    assert torch.equal(given[0], values[0]) == (rest == "uniform")
    assert not torch.equal(densify(classes, values, num_classes=num_classes, rest=rest), dense)


def test_without_a_mask_all_rows_are_stored_ones() -> None:
    values = torch.tensor([[1.0, 0.0], [0.6, 0.6]])
    given = official_probabilities(values, rest="uniform")
    torch.testing.assert_close(given, torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    given = official_probabilities(values, rest="renormalise")
    sure = math.e / (math.e + 1)
    torch.testing.assert_close(given, torch.tensor([[sure, 1 - sure], [0.5, 0.5]]))


def test_official_labels_are_stored_as_the_teacher_gave_them() -> None:
    p = torch.tensor([[0.75, 0.2501, 0.0], [0.5, 0.25, 0.25]])
    kept = top_labels(p, 2, renormalise=False)
    assert kept.num_renormalised == 0
    torch.testing.assert_close(torch.from_numpy(kept.probabilities), p[:, :2], rtol=0, atol=0)
    assert top_labels(p, 2).num_renormalised == 1

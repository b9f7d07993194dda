import math

import pytest
import torch

from tenfold.losses.features import (
    CosineDistanceLoss,
    FeatureMSELoss,
    cosine_distance_loss,
    feature_mse_loss,
)

LOSSES = {
    "cosine": cosine_distance_loss,
    "mse": feature_mse_loss,
    "mse of directions": lambda *args, **options: feature_mse_loss(
        *args, normalize=True, **options
    ),
}
each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


def features(seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*(shape or (4, 5)), generator=generator, dtype=torch.float64)


def norm(row: list[float]) -> float:
    return math.sqrt(sum(value * value for value in row))


def test_losses_equal_the_naive_loops():
    cosines, errors, direction_errors = [], [], []
    for s, t in zip(features(0).tolist(), features(1).tolist(), strict=True):
        pairs = list(zip(s, t, strict=True))
        cosines.append(1 - sum(a * b for a, b in pairs) / norm(s) / norm(t))
        errors.extend((a - b) ** 2 for a, b in pairs)
        direction_errors.extend((a / norm(s) - b / norm(t)) ** 2 for a, b in pairs)
    values = [loss(features(0), features(1)).item() for loss in LOSSES.values()]
    means = [sum(values) / len(values) for values in (cosines, errors, direction_errors)]
    assert values == pytest.approx(means, rel=1e-12)


def test_cosine_distance_of_identical_orthogonal_and_opposite_directions():
    east, north = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 5.0]])
    assert cosine_distance_loss(east, 3 * east).item() == 0
    assert cosine_distance_loss(east, north).item() == 1
    assert cosine_distance_loss(east, -east).item() == 2


def test_mse_of_directions_is_two_over_d_times_the_cosine_distance():
    student, teacher = features(0), features(1)
    cosine = cosine_distance_loss(student, teacher)
    torch.testing.assert_close(feature_mse_loss(student, teacher, normalize=True), 2 / 5 * cosine)


@each_loss
def test_gradcheck_and_no_gradient_to_the_teacher(loss):
    student, teacher = features(0).requires_grad_(), features(1).requires_grad_()
    valid = torch.tensor([True, False, True, True])
    assert torch.autograd.gradcheck(lambda x: loss(x, features(1), valid=valid), student)
    loss(student, teacher).backward()
    assert teacher.grad is None


@each_loss
def test_mask_keeps_the_valid_tokens_and_shuts_nan_out(loss):
    student, teacher = features(0, 2, 3, 5), features(1, 2, 3, 5)
    valid = torch.tensor([[True, False, True], [False, True, True]])
    expected = loss(student[valid], teacher[valid])
    student[0, 1], teacher[1, 0] = float("nan"), float("inf")
    student.requires_grad_()
    masked = loss(student, teacher, valid=valid)
    masked.backward()
    torch.testing.assert_close(masked, expected)
    assert torch.equal(student.grad[~valid], torch.zeros(2, 5, dtype=torch.float64))
    assert torch.isfinite(student.grad).all()


@each_loss
def test_empty_mask_gives_zero_with_a_gradient_of_zeros(loss):
    student = features(0).requires_grad_()
    value = loss(student, features(1), valid=torch.zeros(4, dtype=torch.bool))
    value.backward()
    assert value.item() == 0
    assert torch.equal(student.grad, torch.zeros_like(student))


@each_loss
def test_autocast_and_half_precision_are_computed_in_single_precision(loss):
    student, teacher = features(0).bfloat16(), features(1).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(student, teacher)
    exact = loss(student.double(), teacher.double()).float()
    torch.testing.assert_close(value, exact, rtol=1e-5, atol=1e-6)


def test_modules_equal_their_functions():
    student, teacher = features(0), features(1)
    valid = torch.tensor([True, False, True, True])
    assert torch.equal(
        CosineDistanceLoss()(student, teacher, valid),
        cosine_distance_loss(student, teacher, valid=valid),
    )
    for normalize in (False, True):
        assert torch.equal(
            FeatureMSELoss(normalize=normalize)(student, teacher, valid),
            feature_mse_loss(student, teacher, normalize=normalize, valid=valid),
        )


@each_loss
def test_bad_input(loss):
    with pytest.raises(ValueError, match=r"same shape, got \(4, 5\) and \(4, 6\); project"):
        loss(features(0), features(1, 4, 6))
    with pytest.raises(ValueError, match=r"bool mask, got dtype torch\.int64"):
        loss(features(0), features(1), valid=torch.ones(4).long())
    with pytest.raises(ValueError, match=r"shape \(4,\), got \(5,\)"):
        loss(features(0), features(1), valid=torch.ones(5, dtype=torch.bool))

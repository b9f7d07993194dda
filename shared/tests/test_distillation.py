import math

import pytest
import torch
import torch.nn.functional as F

from tenfold.losses.distillation import (
    SoftTargetLoss,
    SparseTargetLoss,
    soft_target_loss,
    sparse_target_loss,
)

ROWS, CLASSES, STORED = 4, 7, 3


def logits(seed: int, *shape: int, dtype=torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(*(shape or (ROWS, CLASSES)), generator=generator, dtype=dtype)


def naive_kl(student: list[float], target: list[float], temperature: float) -> float:
    """Temper a target distribution and sum p log(p / q) class by class."""
    powered = [p ** (1 / temperature) for p in target]
    p = [value / sum(powered) for value in powered]
    exponentials = [math.exp(value / temperature) for value in student]
    q = [value / sum(exponentials) for value in exponentials]
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def naive_mean(student: torch.Tensor, target: torch.Tensor, temperature: float) -> float:
    values = [
        naive_kl(row, goal, temperature)
        for row, goal in zip(student.tolist(), target.tolist(), strict=True)
    ]
    return sum(values) / len(values)


def naive_densify(indices, probabilities, num_classes, rest) -> torch.Tensor:
    dense = []
    for classes, values in zip(indices.tolist(), probabilities.tolist(), strict=True):
        scale = sum(values) if rest == "renormalise" else max(sum(values), 1.0)
        values = [value / scale for value in values]
        others = num_classes - len(classes)
        spread = others and rest == "uniform"
        row = [(1 - sum(values)) / others if spread else 0.0] * num_classes
        for index, value in zip(classes, values, strict=True):
            row[index] = value
        dense.append(row)
    return torch.tensor(dense, dtype=torch.float64).clamp_min(0)


def stored_targets(k: int) -> tuple[torch.Tensor, torch.Tensor]:
    probabilities, indices = F.softmax(logits(1), dim=-1).topk(k)
    return indices, probabilities


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("multiply_by_t2", [True, False])
def test_dense_loss_equals_the_naive_loop(temperature, multiply_by_t2):
    student, teacher = logits(0), logits(1)
    options = {"temperature": temperature, "multiply_by_t2": multiply_by_t2}
    factor = temperature**2 if multiply_by_t2 else 1
    expected = factor * naive_mean(student, teacher.softmax(-1), temperature)

    from_logits = soft_target_loss(student, teacher, **options)
    from_probabilities = soft_target_loss(
        student, teacher.softmax(-1), teacher_form="probabilities", **options
    )
    assert from_logits.item() == pytest.approx(expected, rel=1e-12)
    assert from_probabilities.item() == pytest.approx(expected, rel=1e-12)


def test_t2_is_the_default_and_temperature_one_is_plain_kl():
    student, teacher = logits(0), logits(1)
    without = soft_target_loss(student, teacher, temperature=2.0, multiply_by_t2=False)
    assert torch.equal(soft_target_loss(student, teacher, temperature=2.0), 4 * without)
    plain = F.kl_div(student.log_softmax(-1), teacher.softmax(-1), reduction="batchmean")
    torch.testing.assert_close(soft_target_loss(student, teacher), plain)


def test_gradient_is_t_times_difference_of_softmaxes_and_spares_the_teacher():
    student, teacher = logits(0).requires_grad_(), logits(1).requires_grad_()
    soft_target_loss(student, teacher, temperature=3.0).backward()
    expected = 3.0 * ((student / 3).softmax(-1) - (teacher / 3).softmax(-1)) / ROWS
    torch.testing.assert_close(student.grad, expected)
    assert teacher.grad is None


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("rest", ["uniform", "renormalise"])
@pytest.mark.parametrize("k", [1, STORED, CLASSES - 1, CLASSES])
def test_sparse_loss_equals_the_naive_loop_and_the_dense_loss(k, rest, temperature):
    student = logits(0).requires_grad_()
    indices, probabilities = stored_targets(k)
    dense = naive_densify(indices, probabilities, CLASSES, rest)

    sparse_loss = sparse_target_loss(
        student, indices, probabilities, rest=rest, temperature=temperature
    )
    (sparse_gradient,) = torch.autograd.grad(sparse_loss, student)
    dense_loss = soft_target_loss(
        student, dense, teacher_form="probabilities", temperature=temperature
    )
    (dense_gradient,) = torch.autograd.grad(dense_loss, student)
    naive = temperature**2 * naive_mean(student.detach(), dense, temperature)
    assert sparse_loss.item() == pytest.approx(naive, rel=1e-10, abs=1e-12)
    torch.testing.assert_close(sparse_loss, dense_loss, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(sparse_gradient, dense_gradient, rtol=1e-10, atol=1e-12)


def test_sparse_loss_with_all_classes_stored_equals_a_teacher_given_as_logits():
    student, teacher = logits(0).requires_grad_(), logits(1)
    indices, probabilities = stored_targets(CLASSES)
    for temperature in (1.0, 4.0):
        sparse = sparse_target_loss(student, indices, probabilities, temperature=temperature)
        dense = soft_target_loss(student, teacher, temperature=temperature)
        torch.testing.assert_close(sparse, dense)
        torch.testing.assert_close(
            torch.autograd.grad(sparse, student), torch.autograd.grad(dense, student)
        )


@pytest.mark.parametrize("k", [STORED, CLASSES])
def test_sums_above_one_from_half_precision_storage_are_divided_out(k):
    indices, probabilities = stored_targets(k)
    rounded_up = probabilities * (1.02 / probabilities.sum(-1, keepdim=True))
    dense = naive_densify(indices, rounded_up, CLASSES, "uniform")
    torch.testing.assert_close(dense.sum(-1), torch.ones(ROWS, dtype=torch.float64))
    loss = sparse_target_loss(logits(0), indices, rounded_up)
    expected = soft_target_loss(logits(0), dense, teacher_form="probabilities")
    torch.testing.assert_close(loss, expected)


def test_small_temperature_does_not_underflow():
    student = logits(0, dtype=torch.float32)
    indices, probabilities = stored_targets(STORED)
    loss = sparse_target_loss(
        student, indices, probabilities.float() / 100, temperature=0.01, multiply_by_t2=False
    )
    assert torch.isfinite(loss)


def test_single_precision_stays_close_with_many_classes():
    student = logits(0, 8, 20_000, dtype=torch.float32)
    probabilities, indices = logits(1, 8, 20_000, dtype=torch.float32).softmax(-1).topk(10)
    loss = sparse_target_loss(student, indices.int(), probabilities)
    exact = sparse_target_loss(student.double(), indices, probabilities.double())
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)


@pytest.mark.parametrize("rest", ["uniform", "renormalise"])
def test_gradcheck(rest):
    indices, probabilities = stored_targets(STORED)
    valid = torch.tensor([True, False, True, True])
    student = logits(0).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: soft_target_loss(x, logits(1), temperature=2.0, valid=valid), student
    )
    assert torch.autograd.gradcheck(
        lambda x: sparse_target_loss(
            x, indices, probabilities, rest=rest, temperature=2.0, valid=valid
        ),
        student,
    )


def losses_of(student: torch.Tensor, valid: torch.Tensor | None) -> list[torch.Tensor]:
    """Return both losses for logits [..., C] against fixed targets of the same rows."""
    teacher = logits(1, *student.shape)
    probabilities, indices = teacher.softmax(-1).topk(STORED)
    return [
        soft_target_loss(student, teacher, valid=valid),
        soft_target_loss(student, teacher.softmax(-1), teacher_form="probabilities", valid=valid),
        sparse_target_loss(student, indices, probabilities, valid=valid),
    ]


def test_mask_keeps_the_valid_rows_of_dense_predictions():
    student = logits(0, 2, 3, 5, CLASSES)
    teacher = logits(1, 2, 3, 5, CLASSES)
    valid = torch.rand(2, 3, 5, generator=torch.Generator().manual_seed(0)) < 0.5
    assert 0 < valid.sum() < valid.numel()
    masked = soft_target_loss(student, teacher, valid=valid)
    torch.testing.assert_close(masked, soft_target_loss(student[valid], teacher[valid]))


@pytest.mark.parametrize("which", [0, 1, 2])
def test_empty_mask_gives_zero_with_a_gradient_of_zeros(which):
    student = logits(0).requires_grad_()
    loss = losses_of(student, torch.zeros(ROWS, dtype=torch.bool))[which]
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(student.grad, torch.zeros_like(student))


@pytest.mark.parametrize("which", [0, 1, 2])
def test_batch_without_rows_gives_zero_in_the_graph(which):
    student = torch.zeros(0, CLASSES).requires_grad_()
    loss = losses_of(student, None)[which]
    loss.backward()
    assert loss.item() == 0


def test_nan_in_ignored_rows_does_not_reach_loss_or_gradient():
    student, teacher = logits(0), logits(1)
    indices, probabilities = stored_targets(STORED)
    valid = torch.tensor([True, True, False, True])
    expected = [
        soft_target_loss(student[valid], teacher[valid]),
        sparse_target_loss(student[valid], indices[valid], probabilities[valid]),
    ]
    for tensor in (student, teacher, probabilities):
        tensor[2] = float("nan")
    indices[2] = -1
    student.requires_grad_()
    losses = [
        soft_target_loss(student, teacher, valid=valid),
        sparse_target_loss(student, indices, probabilities, valid=valid),
    ]
    torch.testing.assert_close(losses, expected)
    sum(losses).backward()
    assert torch.equal(student.grad[2], torch.zeros(CLASSES, dtype=torch.float64))
    assert torch.isfinite(student.grad).all()


def test_student_equal_to_teacher_has_no_loss_and_no_gradient():
    student = logits(0).requires_grad_()
    indices, probabilities = stored_targets(STORED)
    dense = naive_densify(indices, probabilities, CLASSES, "uniform")
    matching = dense.log().requires_grad_()
    for loss, leaf in (
        (soft_target_loss(student, student, temperature=2.0), student),
        (sparse_target_loss(matching, indices, probabilities), matching),
    ):
        loss.backward()
        assert loss.item() == pytest.approx(0, abs=1e-12)
        torch.testing.assert_close(leaf.grad, torch.zeros_like(leaf), rtol=0, atol=1e-12)


def test_autocast_and_half_precision_logits_are_computed_in_single_precision():
    student, teacher = logits(0).bfloat16(), logits(1).bfloat16()
    indices, probabilities = stored_targets(STORED)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = [
            soft_target_loss(student, teacher, temperature=3.0),
            sparse_target_loss(student, indices, probabilities.half(), temperature=3.0),
        ]
    exact = [
        soft_target_loss(student.double(), teacher.double(), temperature=3.0).float(),
        sparse_target_loss(
            student.double(), indices, probabilities.half().double(), temperature=3.0
        ).float(),
    ]
    torch.testing.assert_close(losses, exact, rtol=1e-5, atol=1e-6)


def test_modules_pass_their_options_on():
    student, teacher = logits(0), logits(1)
    indices, probabilities = stored_targets(STORED)
    valid = torch.tensor([True, False, True, True])
    soft = SoftTargetLoss(teacher_form="probabilities", temperature=2.0, multiply_by_t2=False)
    assert torch.equal(
        soft(student, teacher.softmax(-1), valid),
        soft_target_loss(
            student,
            teacher.softmax(-1),
            teacher_form="probabilities",
            temperature=2.0,
            multiply_by_t2=False,
            valid=valid,
        ),
    )
    sparse = SparseTargetLoss(rest="renormalise", temperature=2.0, multiply_by_t2=False)
    assert torch.equal(
        sparse(student, indices, probabilities, valid),
        sparse_target_loss(
            student,
            indices,
            probabilities,
            rest="renormalise",
            temperature=2.0,
            multiply_by_t2=False,
            valid=valid,
        ),
    )


@pytest.mark.parametrize("temperature", [0, -1, float("nan"), float("inf")])
def test_bad_temperature_is_refused(temperature):
    indices, probabilities = stored_targets(STORED)
    message = f"temperature must be > 0 and finite, got {temperature}"
    with pytest.raises(ValueError, match=message):
        soft_target_loss(logits(0), logits(1), temperature=temperature)
    with pytest.raises(ValueError, match=message):
        sparse_target_loss(logits(0), indices, probabilities, temperature=temperature)
    with pytest.raises(ValueError, match=message):
        SoftTargetLoss(temperature=temperature)
    with pytest.raises(ValueError, match=message):
        SparseTargetLoss(temperature=temperature)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((logits(0), logits(1, 4, 6)), {}, r"same shape \[..., classes\], got \(4, 7\) and \(4, 6"),
        ((logits(0), logits(1)), {"teacher_form": "log"}, "teacher_form must be one of .*got log"),
        ((logits(0), logits(1)), {"valid": torch.ones(4)}, "bool mask, got dtype torch.float32"),
        (
            (logits(0), logits(1)),
            {"valid": torch.ones(4, 7, dtype=torch.bool)},
            r"one entry a row, shape \(4,\), got \(4, 7\)",
        ),
    ],
)
def test_bad_input_of_the_dense_loss(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        soft_target_loss(*arguments, **options)


@pytest.mark.parametrize(
    ("indices", "probabilities", "options", "message"),
    [
        (torch.zeros(4, 3).long(), torch.zeros(4, 2), {}, r"got \(4, 3\) and \(4, 2\) for logits"),
        (torch.zeros(5, 3).long(), torch.zeros(5, 3), {}, r"for logits \(4, 7\)"),
        (torch.zeros(4, 3), torch.zeros(4, 3), {}, "indices must be integers, got dtype"),
        (torch.zeros(4, 8).long(), torch.zeros(4, 8), {}, r"must lie in 1..7 .*got 8"),
        (torch.zeros(4, 0).long(), torch.zeros(4, 0), {}, r"must lie in 1..7 .*got 0"),
        (
            torch.zeros(4, 3).long(),
            torch.zeros(4, 3),
            {"rest": "zeros"},
            "rest must be one of .*got zeros",
        ),
    ],
)
def test_bad_input_of_the_sparse_loss(indices, probabilities, options, message):
    with pytest.raises(ValueError, match=message):
        sparse_target_loss(logits(0), indices, probabilities, **options)

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tenfold.losses.contrastive import (
    AffinityDistillationLoss,
    ClipLoss,
    affinity_distillation_loss,
    clip_loss,
)
from tenfold.testing import run_ranks

PAIRS, WIDTH = 6, 4
SCALE = 5.0
TEACHER_WIDTHS, TEACHER_SCALES = (3, 5), (8.0, 3.0)


def unit_rows(seed: int, rows: int = PAIRS, width: int = WIDTH) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, width, generator=generator, dtype=torch.float64), dim=-1)


def two_teachers() -> list[tuple[Tensor, Tensor]]:
    return [
        (unit_rows(10 + index, width=width), unit_rows(20 + index, width=width))
        for index, width in enumerate(TEACHER_WIDTHS)
    ]


def naive_softmax(queries: Tensor, keys: Tensor, scale: float) -> list[list[float]]:
    """Score every query against every key in plain Python and normalise each row."""
    table = []
    for query in queries.tolist():
        scores = [
            scale * sum(a * b for a, b in zip(query, key, strict=True)) for key in keys.tolist()
        ]
        exponentials = [math.exp(score) for score in scores]
        table.append([value / sum(exponentials) for value in exponentials])
    return table


def naive_clip(image: Tensor, text: Tensor, scale: float) -> float:
    total = 0.0
    for queries, keys in ((image, text), (text, image)):
        table = naive_softmax(queries, keys, scale)
        total -= sum(math.log(row[index]) for index, row in enumerate(table)) / len(table)
    return total / 2


def naive_distillation(image, text, scale, teachers, teacher_scales) -> float:
    total = 0.0
    for (teacher_image, teacher_text), teacher_scale in zip(teachers, teacher_scales, strict=True):
        for student, teacher in (
            ((image, text), (teacher_image, teacher_text)),
            ((text, image), (teacher_text, teacher_image)),
        ):
            q_rows = naive_softmax(*student, scale)
            p_rows = naive_softmax(*teacher, teacher_scale)
            for p_row, q_row in zip(p_rows, q_rows, strict=True):
                total += sum(p * math.log(p / q) for p, q in zip(p_row, q_row, strict=True))
    return total / len(image) / len(teachers) / 2


@pytest.mark.parametrize("local_loss", [True, False])
def test_clip_loss_equals_the_naive_loop(local_loss):
    image, text = unit_rows(0), unit_rows(1)
    loss = clip_loss(image, text, SCALE, local_loss=local_loss)
    assert loss.item() == pytest.approx(naive_clip(image, text, SCALE), rel=1e-12)


def test_clip_loss_of_known_cases():
    same = torch.ones(PAIRS, 1, dtype=torch.float64)
    assert clip_loss(same, same, 100.0).item() == pytest.approx(math.log(PAIRS), rel=1e-12)
    separate = torch.eye(PAIRS, dtype=torch.float64)
    assert clip_loss(separate, separate, 100.0).item() == pytest.approx(0, abs=1e-12)
    assert clip_loss(separate[:1], separate[:1], 100.0).item() == 0


@pytest.mark.parametrize("local_loss", [True, False])
@pytest.mark.parametrize("num_teachers", [1, 2])
def test_affinity_distillation_equals_the_naive_loop(num_teachers, local_loss):
    image, text, teachers = unit_rows(0), unit_rows(1), two_teachers()[:num_teachers]
    scales = TEACHER_SCALES[:num_teachers]
    loss = affinity_distillation_loss(
        image, text, SCALE, teachers, teacher_scales=scales, local_loss=local_loss
    )
    expected = naive_distillation(image, text, SCALE, teachers, scales)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_gradient_is_that_of_cross_entropy_with_the_mean_of_softmaxes():
    image, text = unit_rows(0).requires_grad_(), unit_rows(1).requires_grad_()
    teachers = two_teachers()
    loss = affinity_distillation_loss(image, text, SCALE, teachers, teacher_scales=TEACHER_SCALES)
    cross_entropy = torch.zeros((), dtype=torch.float64)
    entropy = 0.0
    for logits, exchanged in ((SCALE * image @ text.T, False), (SCALE * text @ image.T, True)):
        tables = [
            ((s * t @ i.T) if exchanged else (s * i @ t.T)).softmax(1)
            for (i, t), s in zip(teachers, TEACHER_SCALES, strict=True)
        ]
        cross_entropy = cross_entropy + F.cross_entropy(logits, sum(tables) / 2) / 2
        entropy += sum(-(p * p.log()).sum(1).mean().item() for p in tables) / 2 / 2
    torch.testing.assert_close(
        torch.autograd.grad(loss, (image, text), retain_graph=True),
        torch.autograd.grad(cross_entropy, (image, text), retain_graph=True),
    )
    assert loss.item() == pytest.approx(cross_entropy.item() - entropy, rel=1e-12)


def test_student_equal_to_its_teacher_has_no_loss_and_no_gradient():
    image, text = unit_rows(0).requires_grad_(), unit_rows(1).requires_grad_()
    scale = torch.tensor(SCALE, dtype=torch.float64, requires_grad=True)
    twice = [(image.detach(), text.detach())] * 2
    loss = affinity_distillation_loss(image, text, scale, twice, teacher_scales=SCALE)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    for leaf in (image, text, scale):
        torch.testing.assert_close(leaf.grad, torch.zeros_like(leaf), rtol=0, atol=1e-12)


def test_one_scale_serves_all_teachers_and_teachers_get_no_gradient():
    image, text = unit_rows(0).requires_grad_(), unit_rows(1)
    teachers = [(i.requires_grad_(), t.requires_grad_()) for i, t in two_teachers()]
    losses = [
        affinity_distillation_loss(image, text, SCALE, teachers, teacher_scales=scales)
        for scales in (8.0, [8.0], [8.0, 8.0])
    ]
    assert losses[0] == losses[1] == losses[2]
    losses[0].backward()
    assert all(tensor.grad is None for pair in teachers for tensor in pair)


@pytest.mark.parametrize("local_loss", [True, False])
def test_gradcheck(local_loss):
    leaves = (unit_rows(0, 3).requires_grad_(), unit_rows(1, 3).requires_grad_())
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    teachers = [(i[:3], t[:3]) for i, t in two_teachers()]
    assert torch.autograd.gradcheck(
        lambda i, t, s: clip_loss(i, t, s, local_loss=local_loss), (*leaves, scale)
    )
    assert torch.autograd.gradcheck(
        lambda i, t, s: affinity_distillation_loss(
            i, t, s, teachers, teacher_scales=TEACHER_SCALES, local_loss=local_loss
        ),
        (*leaves, scale),
    )


def test_autocast_and_half_precision_are_computed_in_single_precision():
    image, text = unit_rows(0).bfloat16(), unit_rows(1).bfloat16()
    teachers = [(i.bfloat16(), t.bfloat16()) for i, t in two_teachers()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = [
            clip_loss(image, text, SCALE),
            affinity_distillation_loss(image, text, SCALE, teachers, teacher_scales=TEACHER_SCALES),
        ]
    exact_teachers = [(i.double(), t.double()) for i, t in teachers]
    exact = [
        naive_clip(image, text, SCALE),
        naive_distillation(image, text, SCALE, exact_teachers, TEACHER_SCALES),
    ]
    assert all(loss.dtype == torch.float32 for loss in losses)
    assert [loss.item() for loss in losses] == pytest.approx(exact, rel=1e-5)


class TwoTowers(nn.Module):
    """Linear encoders with a learnable scale, the same on every rank."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Linear(WIDTH, 3, bias=False, dtype=torch.float64)
        self.text = nn.Linear(WIDTH, 3, bias=False, dtype=torch.float64)
        self.log_scale = nn.Parameter(torch.tensor(math.log(SCALE), dtype=torch.float64))
        with torch.no_grad():
            self.image.weight.copy_(unit_rows(30, 3))
            self.text.weight.copy_(unit_rows(31, 3))

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return (
            F.normalize(self.image(image), dim=-1),
            F.normalize(self.text(text), dim=-1),
            self.log_scale.exp(),
        )


def losses_of(outputs: tuple[Tensor, Tensor, Tensor], teachers, *, local_loss) -> dict[str, Tensor]:
    return {
        "clip": clip_loss(*outputs, local_loss=local_loss),
        "distillation": affinity_distillation_loss(
            *outputs, teachers, teacher_scales=TEACHER_SCALES, local_loss=local_loss
        ),
    }


def train_on_own_rows(rank: int, world_size: int) -> dict[str, object]:
    own = slice(rank * PAIRS // world_size, (rank + 1) * PAIRS // world_size)
    teachers = [(image[own], text[own]) for image, text in two_teachers()]
    results = {}
    for name in ("clip", "distillation"):
        for local_loss in (True, False):
            model = DistributedDataParallel(TwoTowers())
            outputs = model(unit_rows(0)[own], unit_rows(1)[own])
            loss = losses_of(outputs, teachers, local_loss=local_loss)[name]
            loss.backward()
            gradients = [parameter.grad.tolist() for parameter in model.parameters()]
            results[name, local_loss] = loss.item(), gradients
    return results


def test_two_ranks_equal_one_process_on_the_global_batch():
    answers = run_ranks(train_on_own_rows, 2)

    for name in ("clip", "distillation"):
        model = TwoTowers()
        outputs = model(unit_rows(0), unit_rows(1))
        loss = losses_of(outputs, two_teachers(), local_loss=False)[name]
        loss.backward()
        expected = [parameter.grad for parameter in model.parameters()]
        assert all(gradient.abs().max() > 1e-3 for gradient in expected)
        local_values = [answer[name, True][0] for answer in answers]
        assert local_values[0] != local_values[1]
        assert sum(local_values) / 2 == pytest.approx(loss.item(), rel=1e-12)
        for answer in answers:
            assert answer[name, False][0] == pytest.approx(loss.item(), rel=1e-12)
            for local_loss in (True, False):
                gradients = [
                    torch.tensor(g, dtype=torch.float64) for g in answer[name, local_loss][1]
                ]
                torch.testing.assert_close(gradients, expected)


def test_modules_equal_their_functions():
    image, text, teachers = unit_rows(0), unit_rows(1), two_teachers()
    assert torch.equal(
        ClipLoss(local_loss=False)(image, text, SCALE),
        clip_loss(image, text, SCALE, local_loss=False),
    )
    for scales in (8.0, TEACHER_SCALES):
        assert torch.equal(
            AffinityDistillationLoss(scales)(image, text, SCALE, teachers),
            affinity_distillation_loss(image, text, SCALE, teachers, teacher_scales=scales),
        )


@pytest.mark.parametrize(
    ("image", "text"),
    [(unit_rows(0), unit_rows(1, 5)), (unit_rows(0), unit_rows(1, width=3)), (SCALE, SCALE)],
)
def test_clip_loss_refuses_embeddings_that_do_not_pair(image, text):
    with pytest.raises(ValueError, match=r"image and text embeddings must both be \[N, D\]"):
        clip_loss(torch.as_tensor(image), torch.as_tensor(text), SCALE)


@pytest.mark.parametrize(
    ("teachers", "scales", "message"),
    [
        ([], 8.0, "at least one teacher, got none"),
        (two_teachers(), [1.0, 2.0, 3.0], r"one a teacher \(2\), got 3"),
        (two_teachers(), [], r"one a teacher \(2\), got 0"),
        (two_teachers(), 0.0, "teacher_scales must be > 0 and finite, got 0.0"),
        (two_teachers(), [8.0, float("nan")], "teacher_scales must be > 0 and finite, got nan"),
        ([(unit_rows(0), unit_rows(0, width=3))], 8.0, r"embeddings of teacher 0 must both be"),
        ([(unit_rows(0, 5), unit_rows(0, 5))], 8.0, "teacher 0 has 5 rows, the student 6"),
    ],
)
def test_bad_teachers_are_refused(teachers, scales, message):
    with pytest.raises(ValueError, match=message):
        affinity_distillation_loss(
            unit_rows(0), unit_rows(1), SCALE, teachers, teacher_scales=scales
        )


def test_module_checks_scales_when_it_is_built():
    with pytest.raises(ValueError, match="teacher_scales must be > 0 and finite, got -1"):
        AffinityDistillationLoss(-1)

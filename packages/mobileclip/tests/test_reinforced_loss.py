"""The loss against a naive double loop, open_clip, and itself in chunks."""

import logging
import math

import pytest
import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss, DistillClipLoss
from torch import Tensor

from mobileclip import reinforced_loss as loss_file
from mobileclip.reinforced_loss import LossTerms, TeacherEmbeddings, reinforced_loss
from tenfold.losses.contrastive import affinity_distillation_loss, clip_loss

PAIRS, WIDTH, SCALE = 6, 4, 5.0
TEACHER_WIDTHS, TEACHER_SCALES = (3, 5), (8.0, 3.0)


def unit_rows(seed: int, rows: int = PAIRS, width: int = WIDTH) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, width, generator=generator, dtype=torch.float64), dim=-1)


def two_teachers() -> list[TeacherEmbeddings]:
    return [
        TeacherEmbeddings(*(unit_rows(10 * kind + index, width=width) for kind in (1, 2, 3)))
        for index, width in enumerate(TEACHER_WIDTHS)
    ]


def student(*, requires_grad: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    image, text, synthetic = (unit_rows(seed).requires_grad_(requires_grad) for seed in range(3))
    return image, text, synthetic


def naive_softmax(queries: Tensor, keys: Tensor, scale: float) -> list[list[float]]:
    table = []
    for query in queries.tolist():
        scores = [
            scale * sum(a * b for a, b in zip(query, key, strict=True)) for key in keys.tolist()
        ]
        exponentials = [math.exp(score) for score in scores]
        table.append([value / sum(exponentials) for value in exponentials])
    return table


def naive_loss(image: Tensor, captions: dict[str, Tensor], teachers, scales) -> dict[str, float]:
    """Sum the terms of spec 2.2 over captions, directions, teachers, rows and columns."""
    total = {"clip": 0.0, "distill_ce": 0.0, "distill_kl": 0.0}
    for name, text in captions.items():
        for exchanged in (False, True):
            q = naive_softmax(*((text, image) if exchanged else (image, text)), SCALE)
            total["clip"] -= sum(math.log(q[row][row]) for row in range(PAIRS)) / PAIRS / 2
            for teacher, scale in zip(teachers, scales, strict=True):
                sides = [teacher.image, getattr(teacher, name)]
                p = naive_softmax(*(reversed(sides) if exchanged else sides), scale)
                for row in range(PAIRS):
                    for column in range(PAIRS):
                        target, guess = p[row][column], q[row][column]
                        share = target / PAIRS / len(teachers) / 2
                        total["distill_ce"] -= share * math.log(guess)
                        total["distill_kl"] += share * math.log(target / guess)
    return total


@pytest.mark.parametrize("local_loss", [True, False])
@pytest.mark.parametrize("column_chunk", [0, 4])
@pytest.mark.parametrize("num_teachers", [1, 2])
@pytest.mark.parametrize("names", [("text",), ("synthetic",), ("text", "synthetic")])
def test_terms_equal_the_naive_loop(names, num_teachers, column_chunk, local_loss) -> None:
    image, *texts = student()
    captions = {n: t for n, t in zip(("text", "synthetic"), texts, strict=True) if n in names}
    teachers, scales = two_teachers()[:num_teachers], TEACHER_SCALES[:num_teachers]
    expected = naive_loss(image, captions, teachers, scales)
    for weight in (0.0, 0.75, 1.0):
        terms = reinforced_loss(
            image,
            captions.get("text"),
            captions.get("synthetic"),
            teachers,
            logit_scale=SCALE,
            teacher_scales=scales,
            distill_weight=weight,
            local_loss=local_loss,
            column_chunk=column_chunk,
        )
        for name, value in expected.items():
            assert getattr(terms, name).item() == pytest.approx(value, rel=1e-12), name
        total = (1 - weight) * expected["clip"] + weight * expected["distill_kl"]
        assert terms.total.item() == pytest.approx(total, rel=1e-12)


def gradients(leaves: tuple[Tensor, ...], loss: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, leaves, retain_graph=True)


def test_cross_entropy_is_divergence_and_entropy_with_one_gradient() -> None:
    """Spec 2.2: `1/K sum KL(p_k||q) = CE(mean p_k, q) - 1/K sum H(p_k)`."""
    leaves = student(requires_grad=True)
    scale = torch.tensor(SCALE, dtype=torch.float64, requires_grad=True)
    terms = reinforced_loss(
        *leaves,
        two_teachers(),
        logit_scale=scale,
        teacher_scales=TEACHER_SCALES,
        distill_weight=1.0,
    )
    entropy = 0.0
    for teacher, teacher_scale in zip(two_teachers(), TEACHER_SCALES, strict=True):
        for text in (teacher.text, teacher.synthetic):
            for logits in (teacher.image @ text.T, text @ teacher.image.T):
                p = (teacher_scale * logits).softmax(1)
                entropy -= float((p * p.log()).sum(1).mean()) / 2 / 2
    assert (terms.distill_ce - terms.distill_kl).item() == pytest.approx(entropy, rel=1e-12)
    torch.testing.assert_close(
        gradients((*leaves, scale), terms.distill_ce), gradients((*leaves, scale), terms.distill_kl)
    )
    assert gradients((scale,), terms.distill_kl)[0].abs() > 1e-3


def test_it_is_the_sum_of_the_shared_losses() -> None:
    image, *texts = student(requires_grad=True)
    terms = reinforced_loss(
        image,
        *texts,
        two_teachers(),
        logit_scale=SCALE,
        teacher_scales=TEACHER_SCALES,
        distill_weight=0.75,
    )
    teachers = two_teachers()
    expected = torch.zeros((), dtype=torch.float64)
    for text, name in zip(texts, ("text", "synthetic"), strict=True):
        pairs = [(teacher.image, getattr(teacher, name)) for teacher in teachers]
        distill = affinity_distillation_loss(
            image, text, SCALE, pairs, teacher_scales=TEACHER_SCALES
        )
        expected = expected + 0.25 * clip_loss(image, text, SCALE) + 0.75 * distill
    assert terms.total.item() == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(
        gradients((image, *texts), terms.total), gradients((image, *texts), expected)
    )


def test_one_teacher_is_open_clips_distillation() -> None:
    image, text, _ = student(requires_grad=True)
    teacher = two_teachers()[0]
    clip, distill = DistillClipLoss()(image, text, SCALE, teacher.image, teacher.text, 8.0)
    terms = reinforced_loss(
        image,
        text,
        None,
        [teacher],
        logit_scale=SCALE,
        teacher_scales=8.0,
        distill_weight=0.75,
    )
    assert terms.clip.item() == pytest.approx(clip.item(), rel=1e-12)
    assert terms.distill_ce.item() == pytest.approx(distill.item(), rel=1e-12)
    torch.testing.assert_close(
        gradients((image, text), terms.total),
        gradients((image, text), 0.25 * clip + 0.75 * distill),
    )


@pytest.mark.parametrize("teachers", [[], two_teachers()], ids=["alone", "with teachers"])
def test_lambda_zero_is_open_clips_loss_on_both_captions(teachers) -> None:
    image, text, synthetic = student(requires_grad=True)
    expected = ClipLoss()(image, text, SCALE) + ClipLoss()(image, synthetic, SCALE)
    terms = reinforced_loss(
        image,
        text,
        synthetic,
        teachers,
        logit_scale=SCALE,
        teacher_scales=TEACHER_SCALES,
        distill_weight=0.0,
    )
    assert terms.total.item() == pytest.approx(expected.item(), rel=1e-12)
    leaves = (image, text, synthetic)
    torch.testing.assert_close(gradients(leaves, terms.total), gradients(leaves, expected))


def test_a_student_equal_to_its_teachers_has_no_loss_and_no_gradient() -> None:
    leaves = student(requires_grad=True)
    same = TeacherEmbeddings(*(leaf.detach() for leaf in leaves))
    for chunk in (0, 4):
        terms = reinforced_loss(
            *leaves,
            [same, same],
            logit_scale=SCALE,
            teacher_scales=SCALE,
            distill_weight=1.0,
            column_chunk=chunk,
        )
        assert terms.total.item() == pytest.approx(0, abs=1e-12)
        for gradient in gradients(leaves, terms.total):
            torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)


def test_logits_or_concatenated_embeddings_are_another_loss() -> None:
    """The means that spec 2.2 names as not equivalent."""
    image, text, _ = student()
    teachers = [teacher._replace(synthetic=None) for teacher in two_teachers()]
    terms = reinforced_loss(
        image, text, None, teachers, logit_scale=SCALE, teacher_scales=8.0, distill_weight=1.0
    )
    joined = TeacherEmbeddings(
        *(torch.cat([getattr(t, name) for t in teachers], 1) for name in ("image", "text"))
    )
    for scale in (8.0, 4.0):  # sum and mean of the teachers' logits
        other = reinforced_loss(
            image, text, None, [joined], logit_scale=SCALE, teacher_scales=scale, distill_weight=1.0
        )
        assert other.distill_ce.item() != pytest.approx(terms.distill_ce.item(), rel=1e-3)


@pytest.mark.parametrize("chunk", [1, 4, 5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_chunked_equals_unchunked(chunk: int, dtype: torch.dtype) -> None:
    leaves = [unit_rows(seed, 12).to(dtype).requires_grad_() for seed in range(3)]
    scale = torch.tensor(100.0, dtype=dtype, requires_grad=True)
    teachers = [
        TeacherEmbeddings(*(unit_rows(20 + kind, 12, width).to(dtype) for kind in range(3)))
        for width in TEACHER_WIDTHS
    ]

    def answer(column_chunk: int) -> tuple[LossTerms, tuple[Tensor, ...]]:
        terms = reinforced_loss(
            *leaves,
            teachers,
            logit_scale=scale,
            teacher_scales=(100.0, 60.0),
            distill_weight=0.75,
            column_chunk=column_chunk,
        )
        return terms, torch.autograd.grad(terms.total, (*leaves, scale))

    whole, parts = answer(0), answer(chunk)
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-12}
    tolerance = {"atol": 1e-12} | tolerance
    torch.testing.assert_close(tuple(parts[0]), tuple(whole[0]), **tolerance)
    torch.testing.assert_close(parts[1], whole[1], **tolerance)
    assert whole[1][0].abs().max() > 1e-2


@pytest.mark.parametrize("chunk", [0, 2])
def test_gradcheck(chunk: int) -> None:
    leaves = tuple(unit_rows(seed, 3).requires_grad_() for seed in range(3))
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    teachers = [TeacherEmbeddings(*(part[:3] for part in teacher)) for teacher in two_teachers()]

    def total(image: Tensor, text: Tensor, synthetic: Tensor, scale: Tensor) -> Tensor:
        return reinforced_loss(
            image,
            text,
            synthetic,
            teachers,
            logit_scale=scale,
            teacher_scales=TEACHER_SCALES,
            distill_weight=0.5,
            column_chunk=chunk,
        ).total

    assert torch.autograd.gradcheck(total, (*leaves, scale))


@pytest.mark.parametrize("chunk", [0, 4])
def test_autocast_computes_in_single_precision(chunk: int) -> None:
    rows = [part.bfloat16() for part in student()]
    teachers = [TeacherEmbeddings(*(part.bfloat16() for part in t)) for t in two_teachers()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = reinforced_loss(
            *rows,
            teachers,
            logit_scale=SCALE,
            teacher_scales=TEACHER_SCALES,
            distill_weight=0.75,
            column_chunk=chunk,
        )
    image, text, synthetic = (part.double() for part in rows)
    expected = naive_loss(
        image,
        {"text": text, "synthetic": synthetic},
        [TeacherEmbeddings(*(part.double() for part in teacher)) for teacher in teachers],
        TEACHER_SCALES,
    )
    for name, value in expected.items():
        assert getattr(terms, name).dtype == torch.float32
        assert getattr(terms, name).item() == pytest.approx(value, rel=1e-5)


def test_one_scale_serves_all_teachers() -> None:
    """Defect 1 of the official patch: `--distill-logit-scale 100` with two teachers."""
    terms = [
        reinforced_loss(
            *student(),
            two_teachers(),
            logit_scale=SCALE,
            teacher_scales=scales,
            distill_weight=1.0,
        )
        for scales in (100.0, [100.0], (100.0, 100.0))
    ]
    assert terms[0] == terms[1] == terms[2]


IMAGE, TEXT, SYNTHETIC = student()


@pytest.mark.parametrize(
    ("embeddings", "teachers", "scales", "message"),
    [
        ((IMAGE, None, None), two_teachers(), 8.0, "needs real or synthetic captions, got neither"),
        ((IMAGE, TEXT[:5], None), [], (), r"the student must all be \[N, D\], got image \(6, 4\)"),
        ((IMAGE, TEXT, SYNTHETIC), two_teachers(), (1.0, 2.0, 3.0), r"a teacher \(2\), got 3"),
        ((IMAGE, TEXT, SYNTHETIC), two_teachers(), (), r"a teacher \(2\), got 0"),
        ((IMAGE, TEXT, SYNTHETIC), two_teachers(), 0.0, "must be > 0 and finite, got 0.0"),
        ((IMAGE, TEXT, SYNTHETIC), [], 8.0, "at least one teacher, got none"),
        (
            (IMAGE, TEXT, SYNTHETIC),
            [TeacherEmbeddings(IMAGE, TEXT)],
            8.0,
            "teacher 0 has no embeddings for 'synthetic'",
        ),
        (
            (IMAGE, TEXT, None),
            [TeacherEmbeddings(IMAGE[:5], TEXT[:5])],
            8.0,
            "teacher 0 has 5 rows, the student 6",
        ),
        (
            (IMAGE, TEXT, None),
            [TeacherEmbeddings(IMAGE, TEXT[:, :3])],
            8.0,
            r"embeddings of teacher 0 must all be \[N, D\]",
        ),
    ],
)
def test_bad_input_is_refused(embeddings, teachers, scales, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reinforced_loss(
            *embeddings, teachers, logit_scale=SCALE, teacher_scales=scales, distill_weight=1.0
        )


def test_a_single_pair_has_no_loss_and_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    loss_file._warn_of_a_single_pair.cache_clear()
    teacher = TeacherEmbeddings(IMAGE[:1], TEXT[:1])
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            terms = reinforced_loss(
                IMAGE[:1],
                TEXT[:1],
                None,
                [teacher],
                logit_scale=SCALE,
                teacher_scales=8.0,
                distill_weight=0.5,
            )
    assert [term.item() for term in terms] == [0, 0, 0, 0]
    assert [record.message for record in caplog.records] == [
        "the global batch has one pair: its loss is 0 and nothing is learnt"
    ]

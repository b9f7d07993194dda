import math

import pytest
import torch
import torch.nn.functional as F

from fastfill.compat_losses import (
    CompatLoss,
    bct_loss,
    bct_ract_loss,
    fit_width,
    l2_loss,
    lwf_loss,
    map_classes,
    ract_loss,
    triplet_loss,
)
from fastfill.config import CompatConfig
from tenfold.testing import run_ranks

B, K, O = 8, 5, 4  # noqa: E741
LABELS = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2])
CLASS_MAP = torch.tensor([2, -1, 0, 3, -1])


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def softmax_loss(logits, label):
    return -(logits[label] - max(logits) - math.log(sum(math.exp(x - max(logits)) for x in logits)))


def hardest(anchor, others, label, labels, count):
    found = [float(anchor @ o) for o, other in zip(others, labels, strict=True) if other != label]
    return sorted(found, reverse=True)[:count]


def ract_by_hand(new, old, labels, temperature, count):
    a, b = F.normalize(new, dim=1), F.normalize(old, dim=1)
    total = 0.0
    for i, label in enumerate(labels):
        logits = [float(a[i] @ b[i])]
        logits += hardest(a[i], b, label, labels, count) + hardest(a[i], a, label, labels, count)
        total += softmax_loss([x / temperature for x in logits], 0)
    return total / len(labels)


@pytest.mark.parametrize("count", [1, 3, 50])
def test_ract_is_the_loop_over_items_and_their_hardest_negatives(count):
    new, old = draw(B, 6), draw(B, 6, seed=1)
    loss = ract_loss(new, old, LABELS, temperature=0.1, hardest=count)
    assert float(loss) == pytest.approx(ract_by_hand(new, old, LABELS, 0.1, count), rel=1e-10)


def test_ract_without_another_class_has_nothing_to_tell_apart():
    new, labels = draw(B, 6).requires_grad_(), torch.zeros(B, dtype=torch.int64)
    loss = ract_loss(new, draw(B, 6, seed=1), labels, temperature=0.01, hardest=10)
    loss.backward()
    assert loss.detach() == 0
    assert torch.equal(new.grad, torch.zeros_like(new))


def triplet_by_hand(new, old, labels, margin, count):
    a, b = F.normalize(new, dim=1), F.normalize(old, dim=1)
    terms = []
    for i, label in enumerate(labels):
        distances = [float((a[i] - b[j]).norm()) for j in range(len(labels)) if labels[j] != label]
        own = float((a[i] - b[i]).norm())
        terms += [max(0.0, own - d + margin) for d in sorted(distances)[:count]]
    return sum(terms) / len(terms)


@pytest.mark.parametrize("count", [1, 3, 50])
def test_triplet_is_the_loop_over_the_nearest_old_negatives(count):
    new, old = draw(B, 6), draw(B, 6, seed=1)
    loss = triplet_loss(new, old, LABELS, margin=0.8, hardest=count)
    assert float(loss) == pytest.approx(triplet_by_hand(new, old, LABELS, 0.8, count), rel=1e-9)


def test_triplet_stays_finite_at_the_old_embedding_and_without_negatives():
    old = draw(B, 6)
    new = old.clone().requires_grad_()
    labels = torch.zeros(B, dtype=torch.int64)
    triplet_loss(new, old, LABELS, margin=0.8, hardest=2).backward()
    assert new.grad.isfinite().all()
    assert triplet_loss(new.detach(), old, labels, margin=0.8, hardest=2) == 0


def test_l2_compares_directions():
    new, old = draw(B, 6), draw(B, 6, seed=1)
    a, b = F.normalize(new, dim=1), F.normalize(old, dim=1)
    expected = sum(float((a[i] - b[i]).square().sum()) for i in range(B)) / (B * 6)
    assert float(l2_loss(3 * new, old)) == pytest.approx(expected)


@pytest.mark.parametrize("width", [3, 6, 9])
def test_bct_is_the_old_heads_cross_entropy_of_known_classes(width):
    new, head = draw(B, width), draw(O, 6, seed=2)
    terms = []
    for i, label in enumerate(LABELS):
        if (row := int(CLASS_MAP[label])) >= 0:
            fitted = [float(new[i, d]) if d < width else 0.0 for d in range(6)]
            logits = [sum(float(w) * x for w, x in zip(r, fitted, strict=True)) for r in head]
            terms.append(softmax_loss(logits, row))
    loss = bct_loss(new, head, LABELS, CLASS_MAP)
    assert float(loss) == pytest.approx(sum(terms) / len(terms), rel=1e-10)
    assert len(terms) == 5


def test_bct_of_a_batch_of_unknown_classes_is_zero_with_a_gradient():
    new = draw(2, 6).requires_grad_()
    loss = bct_loss(new, draw(O, 6, seed=2), torch.tensor([1, 4]), CLASS_MAP)
    loss.backward()
    assert loss.detach() == 0
    assert torch.equal(new.grad, torch.zeros_like(new))


def test_lwf_takes_the_old_models_probabilities():
    new, old, head = draw(B, 6), draw(B, 6, seed=1), draw(O, 6, seed=2)
    expected = 0.0
    for i in range(B):
        targets = (head @ old[i]).softmax(dim=0)
        expected -= float((targets * (head @ new[i]).log_softmax(dim=0)).sum()) / B
    assert float(lwf_loss(new, old, head)) == pytest.approx(expected)


def test_bct_ract_adds_the_other_new_classes_as_negatives():
    new, head, logits = draw(B, 6), draw(O, 6, seed=2), draw(B, K, seed=3)
    terms = []
    for i, label in enumerate(LABELS):
        if (row := int(CLASS_MAP[label])) >= 0:
            others = [float(logits[i, k]) for k in range(K) if k != label]
            terms.append(softmax_loss((head @ new[i]).tolist() + others, row))
    loss = bct_ract_loss(new, head, LABELS, CLASS_MAP, logits)
    assert float(loss) == pytest.approx(sum(terms) / len(terms), rel=1e-10)


@pytest.mark.parametrize("method", ["bct", "lwf", "ract", "bct_ract", "triplet", "l2"])
def test_gradients_are_exact_and_the_old_model_gets_none(method, tmp_path):
    # Warm enough and few enough negatives that no finite difference crosses a kink.
    config = CompatConfig(method=method, old=tmp_path, temperature=0.5, hardest=2)
    head, old = draw(O, 6, seed=2).requires_grad_(), draw(B, 6, seed=1).requires_grad_()
    loss = CompatLoss(config, old_head=head, class_map=CLASS_MAP)
    new, logits = draw(B, 6).requires_grad_(), draw(B, K, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda new, logits: loss(new, old, LABELS, logits) + 0 * logits.sum(), (new, logits)
    )
    loss(new, old, LABELS, logits).backward()
    assert head.grad is None
    assert old.grad is None
    assert not list(loss.parameters())
    assert not loss.state_dict()


@pytest.mark.parametrize("method", ["bct", "lwf", "ract", "bct_ract", "triplet", "l2"])
def test_terms_are_computed_in_float32_under_autocast(method, tmp_path):
    config = CompatConfig(method=method, old=tmp_path)
    inputs = [x.bfloat16() for x in (draw(B, 6), draw(B, 6, seed=1), draw(B, K, seed=3))]
    loss = CompatLoss(config, old_head=draw(O, 6, seed=2).float(), class_map=CLASS_MAP)
    expected = loss(inputs[0].float(), inputs[1].float(), LABELS, inputs[2].float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(inputs[0], inputs[1], LABELS, inputs[2])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)


def test_bct_of_models_without_a_shared_class_is_lwf(tmp_path):
    config = CompatConfig(method="bct", old=tmp_path)
    head = draw(O, 6, seed=2)
    loss = CompatLoss(config, old_head=head, class_map=torch.full((K,), -1))
    new, old = draw(B, 6), draw(B, 6, seed=1)
    torch.testing.assert_close(loss(new, old, LABELS, draw(B, K)), lwf_loss(new, old, head))


@pytest.mark.parametrize(
    ("method", "head", "class_map", "message"),
    [
        ("plain", None, CLASS_MAP, "plain has no compatibility term"),
        ("bct", None, CLASS_MAP, "bct needs the old model's head"),
        ("lwf", None, CLASS_MAP, "lwf needs the old model's head"),
        ("bct", draw(3, 6), CLASS_MAP, "row 3 of an old head of 3"),
        ("bct_ract", draw(O, 6), torch.full((K,), -1), "needs a class that both models know"),
    ],
)
def test_methods_that_lack_something_are_refused(method, head, class_map, message, tmp_path):
    config = CompatConfig(method=method, old=tmp_path)
    with pytest.raises(ValueError, match=message):
        CompatLoss(config, old_head=head, class_map=class_map)


def test_classes_are_mapped_by_name():
    assert map_classes(["cat", "dog", "elk"], ["elk", "cat"]).tolist() == [1, -1, 0]
    with pytest.raises(ValueError, match="old model's class 'cat' comes twice"):
        map_classes(["cat"], ["cat", "cat"])


def test_widths_are_cut_or_padded():
    x = torch.arange(6.0).view(2, 3)
    assert fit_width(x, 2).tolist() == [[0, 1], [3, 4]]
    assert fit_width(x, 4).tolist() == [[0, 1, 2, 0], [3, 4, 5, 0]]


def _rank_losses(rank, world_size):
    rows = slice(rank * B // world_size, (rank + 1) * B // world_size)
    new, old = draw(B, 6)[rows].requires_grad_(), draw(B, 6, seed=1)[rows]
    ract = ract_loss(new, old, LABELS[rows], temperature=0.1, hardest=3)
    (gradient,) = torch.autograd.grad(ract, new)
    triplet = triplet_loss(new, old, LABELS[rows], margin=0.8, hardest=2)
    return float(ract.detach()), gradient.tolist(), float(triplet.detach())


def test_two_ranks_are_one_process():
    ranks = run_ranks(_rank_losses, 2)
    ract, gradient, triplet = _rank_losses(0, 1)
    assert sum(r[0] for r in ranks) / 2 == pytest.approx(ract, rel=1e-10)
    assert sum(r[2] for r in ranks) / 2 == pytest.approx(triplet, rel=1e-10)
    # Data-parallel training divides the sum of the ranks' gradients by their number.
    torch.testing.assert_close(torch.tensor(ranks[0][1] + ranks[1][1]) / 2, torch.tensor(gradient))

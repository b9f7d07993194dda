import pytest
import torch
import torch.nn.functional as F

from fastfill.config import ObjectiveConfig
from fastfill.objective import check_labels, class_means, fastfill_loss, pseudo_labels

B, D, K = 6, 4, 5


def case(*, per_dimension=False, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    labels = torch.tensor([0, 4, 1, 1, 3, 2])
    return draw(B, D), draw(B, D) if per_dimension else draw(B), draw(B, D), labels, draw(K, D)


def items_by_hand(z, new, labels, head, config):
    """Losses of spec 2.2, one item and one number at a time."""
    aligned, disc = [], []
    for i in range(B):
        differences = [float(new[i, d] - z[i, d]) for d in range(D)]
        if config.similarity == "mse":
            aligned.append(sum(x * x for x in differences) / D)
        elif config.similarity == "l1":
            aligned.append(sum(abs(x) for x in differences) / D)
        else:
            aligned.append(1 - float(new[i] @ z[i] / (new[i].norm() * z[i].norm())))
        logits = head @ z[i]
        log_p = logits - torch.log(torch.exp(logits).sum())
        eps = config.label_smoothing
        disc.append(float((1 - eps) * -log_p[labels[i]] + eps * -log_p.sum() / K))
    return torch.tensor(aligned).double(), torch.tensor(disc).double()


@pytest.mark.parametrize("similarity", ["mse", "l1", "cosine"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_that_of_the_paper(similarity, smoothing):
    config = ObjectiveConfig(
        similarity=similarity, label_smoothing=smoothing, mu_sim=2.0, mu_disc=0.7, mu_unc=0.4
    )
    z, s, new, labels, head = case()
    aligned, disc = items_by_hand(z, new, labels, head, config)
    item = 2.0 * aligned + 0.7 * disc
    terms = fastfill_loss(z, s, new, labels, head, config)
    expected = sum(0.5 * torch.exp(-s[i]) * item[i] + 0.4 * s[i] for i in range(B)) / B
    torch.testing.assert_close(terms.total, expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(terms.per_item, item, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(terms.similarity, aligned.mean(), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(terms.disc, disc.mean(), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(terms.log_variance, s.mean())


def test_smoothing_is_torchs():
    z, s, new, labels, head = case()
    terms = fastfill_loss(z, s, new, labels, head, ObjectiveConfig(label_smoothing=0.1))
    expected = F.cross_entropy(z @ head.T, labels, label_smoothing=0.1)
    torch.testing.assert_close(terms.disc, expected)


def test_the_four_ablations_differ_by_their_terms():
    z, s, new, labels, head = case()

    def total(*, disc, uncertainty):
        config = ObjectiveConfig(mu_disc=float(disc), uncertainty=uncertainty)
        return fastfill_loss(z, s, new, labels, head, config)

    l2, l2_disc = total(disc=False, uncertainty=False), total(disc=True, uncertainty=False)
    torch.testing.assert_close(l2.total, F.mse_loss(z, new))
    torch.testing.assert_close(l2_disc.total, l2.total + l2_disc.disc)
    assert l2.disc is None
    assert l2.log_variance is None
    l2_unc = total(disc=False, uncertainty=True)
    by_item = (z - new).square().mean(dim=1)
    torch.testing.assert_close(l2_unc.total, (0.5 * (-s).exp() * by_item + 0.5 * s).mean())
    assert total(disc=True, uncertainty=True).total > l2_unc.total


def test_without_variance_and_its_price_half_the_mean_is_left():
    z, s, new, labels, head = case()
    terms = fastfill_loss(z, 0 * s, new, labels, head, ObjectiveConfig(mu_unc=0.0))
    torch.testing.assert_close(terms.total, 0.5 * terms.per_item.mean())


def test_the_gradient_of_s_vanishes_where_the_variance_is_the_loss():
    z, s, new, labels, head = case()
    s.requires_grad_()
    terms = fastfill_loss(z, s, new, labels, head, ObjectiveConfig())
    (gradient,) = torch.autograd.grad(terms.total, s)
    torch.testing.assert_close(gradient * B, 0.5 - 0.5 * torch.exp(-s) * terms.per_item)
    best = terms.per_item.detach().log().requires_grad_()
    at_best = fastfill_loss(z, best, new, labels, head, ObjectiveConfig()).total
    (gradient,) = torch.autograd.grad(at_best, best)
    torch.testing.assert_close(gradient, torch.zeros(B).double(), atol=1e-15, rtol=0)


@pytest.mark.parametrize("per_dimension", [False, True])
@pytest.mark.parametrize("uncertainty", [False, True])
def test_gradients_are_exact(per_dimension, uncertainty):
    z, s, new, labels, head = case(per_dimension=per_dimension)
    config = ObjectiveConfig(uncertainty=uncertainty)
    inputs = (z.requires_grad_(), s.requires_grad_())
    # s plays no part without uncertainty; adding 0 * s gives it a gradient to compare.
    assert torch.autograd.gradcheck(
        lambda z, s: fastfill_loss(z, s, new, labels, head, config).total + 0 * s.sum(), inputs
    )


def test_a_variance_for_each_dimension_weighs_the_similarity_alone():
    z, s, new, labels, head = case(per_dimension=True)
    terms = fastfill_loss(z, s, new, labels, head, ObjectiveConfig(mu_disc=0.3, mu_unc=0.4))
    total = 0.0
    for i in range(B):
        for d in range(D):
            square = (new[i, d] - z[i, d]) ** 2
            total += (0.5 * torch.exp(-s[i, d]) * square + 0.4 * s[i, d]) / (B * D)
    torch.testing.assert_close(terms.total, total + 0.3 * terms.disc)


def test_new_model_and_head_get_no_gradient():
    z, s, new, labels, head = (x.requires_grad_() if x.is_floating_point() else x for x in case())
    fastfill_loss(z, s, new, labels, head, ObjectiveConfig()).total.backward()
    assert new.grad is None
    assert head.grad is None
    assert z.grad is not None
    assert s.grad is not None


def test_the_loss_is_computed_in_float32_under_autocast():
    inputs = case(dtype=torch.bfloat16)
    expected = fastfill_loss(
        *(x.float() if x.is_floating_point() else x for x in inputs), ObjectiveConfig()
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = fastfill_loss(*inputs, ObjectiveConfig())
    assert terms.total.dtype == torch.float32
    torch.testing.assert_close(terms.total, expected.total, rtol=1e-6, atol=0)


def test_pseudo_labels_are_the_new_heads_choice():
    z, s, new, labels, head = case()
    chosen = pseudo_labels(new, head)
    assert chosen.tolist() == [int((head @ row).argmax()) for row in new]
    assert chosen.tolist() != labels.tolist()
    given = fastfill_loss(z, s, new, chosen, head, ObjectiveConfig())
    pseudo = fastfill_loss(z, s, new, None, head, ObjectiveConfig(labels="pseudo"))
    torch.testing.assert_close(pseudo.total, given.total)


def test_class_means_are_means_of_classes():
    _, _, new, labels, _ = case()
    means = class_means(new, labels, K)
    for label in range(K):
        torch.testing.assert_close(means[label], new[labels == label].mean(dim=0))
    with pytest.raises(ValueError, match=r"classes without an item have no mean: \[5, 6\]"):
        class_means(new, labels, K + 2)


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        ({"head": None}, {}, "needs the new model's head"),
        ({"labels": None}, {}, "mu_disc needs labels"),
        ({"head": torch.zeros(K, D + 1)}, {}, r"the head must be \[K, 4\], got \[5, 5\]"),
        ({"new": torch.zeros(B, D + 1)}, {}, r"\[B, D\] alike, got \[6, 4\] and \[6, 5\]"),
        ({"s": torch.zeros(B, 1)}, {}, r"log-variances must be \[B\] or \[B, D\], got \[6, 1\]"),
        ({"s": torch.zeros(B, D)}, {"similarity": "cosine"}, "needs loss.similarity mse or l1"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(change, config, message):
    names = ("z", "s", "new", "labels", "head")
    given = dict(zip(names, case(dtype=torch.float32), strict=True)) | change
    with pytest.raises(ValueError, match=message):
        fastfill_loss(*given.values(), ObjectiveConfig(**config))


@pytest.mark.parametrize(
    ("labels", "message"),
    [([0, 5], r"0\.\.4, got 0\.\.5"), ([-1, 2], r"got -1\.\.2"), ([], "there are no labels")],
)
def test_labels_that_are_no_rows_of_the_head_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        check_labels(torch.tensor(labels, dtype=torch.int64), K)

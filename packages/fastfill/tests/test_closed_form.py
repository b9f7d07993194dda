import numpy as np
import pytest

from fastfill.closed_form import _CHUNK, fit_linear
from fastfill.transform import transform_all
from tenfold.keyed import generator


def pairs(rows=300, old_dim=5, new_dim=4, noise=0.1):
    draw = generator("pairs", rows, old_dim, new_dim)
    old = draw.standard_normal((rows, old_dim)) + 2
    new = old @ draw.standard_normal((old_dim, new_dim)) - 1
    return old, new + noise * draw.standard_normal(new.shape)


def affine(old, new, solve):
    """Fit with a column of ones, or the means, the plain way."""
    weight = solve(old - old.mean(axis=0), new - new.mean(axis=0))
    return weight, new.mean(axis=0) - old.mean(axis=0) @ weight


def test_linear_is_least_squares_with_an_intercept():
    old, new = pairs()
    ones = np.column_stack([old, np.ones(len(old))])
    solution = np.linalg.lstsq(ones, new, rcond=None)[0]
    fitted = fit_linear(old, new)
    np.testing.assert_allclose(fitted.weight, solution[:-1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(fitted.bias, solution[-1], rtol=1e-5, atol=1e-6)


def test_linear_is_the_smallest_map_where_a_dimension_never_changes():
    old, new = pairs()
    old[:, 2] = 3.0
    old[:, 4] = old[:, 0]
    weight, _ = affine(old, new, lambda x, y: np.linalg.pinv(x) @ y)
    np.testing.assert_allclose(fit_linear(old, new).weight, weight, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("ridge", [0.1, 50.0])
def test_ridge_has_no_gradient_left(ridge):
    old, new = pairs()
    fitted = fit_linear(old, new, kind="ridge", ridge=ridge)
    weight, bias = fitted.weight.double().numpy(), fitted.bias.double().numpy()
    residual = old @ weight + bias - new
    np.testing.assert_allclose(old.T @ residual + ridge * weight, 0, atol=2e-3)
    np.testing.assert_allclose(residual.sum(axis=0), 0, atol=1e-3)


@pytest.mark.parametrize(("old_dim", "new_dim"), [(5, 5), (5, 3), (3, 5)])
def test_procrustes_finds_a_rotation_again(old_dim, new_dim):
    draw = generator("rotation", old_dim, new_dim)
    width = max(old_dim, new_dim)
    rotation = np.linalg.qr(draw.standard_normal((width, width)))[0][:old_dim, :new_dim]
    old = draw.standard_normal((200, old_dim))
    if old_dim > new_dim:  # what is cut away must not be there
        old = old @ rotation @ rotation.T
    fitted = fit_linear(old, old @ rotation + 3, kind="procrustes")
    np.testing.assert_allclose(fitted.weight, rotation, atol=1e-5)
    np.testing.assert_allclose(fitted.bias, 3, atol=1e-5)


def test_no_rotation_is_closer_than_procrustes():
    old, new = pairs(old_dim=4)
    fitted = fit_linear(old, new, kind="procrustes")
    np.testing.assert_allclose(fitted.weight.T @ fitted.weight, np.eye(4), atol=1e-5)
    centred = old - old.mean(axis=0), new - new.mean(axis=0)
    best = np.square(centred[0] @ fitted.weight.numpy() - centred[1]).sum()
    for seed in range(30):
        other = np.linalg.qr(generator("other", seed).standard_normal((4, 4)))[0]
        assert np.square(centred[0] @ other - centred[1]).sum() > best


def test_more_pairs_than_a_chunk_and_half_precision_change_nothing():
    old, new = pairs(rows=_CHUNK + 100, old_dim=2, new_dim=2, noise=0)
    exact = fit_linear(old, new)
    np.testing.assert_allclose(old @ exact.weight.numpy() + exact.bias.numpy(), new, atol=1e-4)
    half = fit_linear(old.astype(np.float16), new.astype(np.float16))
    np.testing.assert_allclose(half.weight, exact.weight, atol=1e-2)


def test_it_transforms_a_gallery_as_h_does_without_uncertainty():
    old, new = pairs(noise=0)
    z, s = transform_all(fit_linear(old, new), old.astype(np.float32), batch=7)
    np.testing.assert_allclose(z, new, atol=1e-4)
    assert not s.any()
    with pytest.raises(ValueError, match="takes side information: none"):
        transform_all(fit_linear(old, new), old, old)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (pairs(), {"kind": "cubic"}, "kind must be linear, ridge or procrustes, got 'cubic'"),
        (pairs(), {"ridge": 0.0}, "ridge must be > 0, got 0.0"),
        ((pairs()[0], pairs()[1][1:]), {}, "of the same items"),
        ((pairs()[0][:0], pairs()[1][:0]), {}, "of the same items"),
        ((pairs()[0][0], pairs()[1]), {}, "of the same items"),
        ((pairs()[0] * np.nan, pairs()[1]), {}, "hold NaN or infinity"),
    ],
)
def test_pairs_that_make_no_map_are_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        fit_linear(*arguments, **options)

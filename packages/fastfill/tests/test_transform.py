import numpy as np
import pytest
import torch

from fastfill.transform import Chain, Transformation, of_item, transform_all
from tenfold.keyed import generator


def tiny(old_dim=3, new_dim=5, *, seed=0, **options):
    torch.manual_seed(seed)
    h = Transformation(old_dim, new_dim, inner=8, **options)
    for module in h.modules():  # statistics that differ from those of a fresh layer
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return h.eval()


def vectors(rows=7, dim=3, name="old"):
    return generator(name).standard_normal((rows, dim)).astype(np.float32)


def test_parameters_are_as_many_as_published():
    h = Transformation(128, 128, side_dim=128)
    count = {name: sum(p.numel() for p in child.parameters()) for name, child in h.named_children()}
    assert count == {
        "old_projection": 99_328,
        "side_projection": 99_328,
        "mixer": 5_513_344,
        "log_variance": 129,
    }
    assert sum(count.values()) == 5_712_129
    twice = Transformation(128, 128)
    assert sum(p.numel() for p in twice.parameters()) == 5_712_129


def block(x, linear, norm):
    x = x @ linear.weight.T
    x = (x - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
    return x.clamp(min=0)


def by_hand(h, old, side):
    p, q, m = h.old_projection, h.side_projection, h.mixer
    p = block(block(old, p[0], p[1]), p[3], p[4])
    q = block(block(side, q[0], q[1]), q[3], q[4])
    x = block(block(torch.cat([p, q], dim=1), m[0], m[1]), m[3], m[4])
    z = x @ m[6].weight.T + m[6].bias
    return z, z @ h.log_variance.weight.T + h.log_variance.bias


@pytest.mark.parametrize("per_dimension", [False, True])
@pytest.mark.parametrize("side_dim", [0, 4])
def test_h_is_two_projections_a_mixer_and_a_variance_of_z(side_dim, per_dimension):
    h = tiny(side_dim=side_dim, per_dimension=per_dimension)
    old = torch.from_numpy(vectors())
    side = torch.from_numpy(vectors(dim=4, name="side")) if side_dim else None
    z, s = h(old, side)
    z_hand, s_hand = by_hand(h, old, old if side is None else side)
    torch.testing.assert_close(z, z_hand)
    torch.testing.assert_close(s, s_hand if per_dimension else s_hand[:, 0])


def test_without_side_information_the_old_embedding_is_passed_twice():
    h, with_side = tiny(), tiny(side_dim=3)
    with_side.load_state_dict(h.state_dict())
    old = torch.from_numpy(vectors())
    assert torch.equal(h(old).z, with_side(old, old).z)


@pytest.mark.parametrize(
    ("side_dim", "old", "side", "message"),
    [
        (0, vectors(dim=4), None, r"takes old embeddings \[n, 3\], got \[7, 4\]"),
        (0, vectors()[0], None, r"takes old embeddings \[n, 3\], got \[3\]"),
        (0, vectors(), vectors(), "takes side information: none"),
        (4, vectors(), None, r"needs side information \[n, 4\], got none"),
        (4, vectors(), vectors(dim=3), r"side information: \[7, 4\], got \[7, 3\]"),
        (4, vectors(), vectors(rows=6, dim=4), r"\[7, 4\], got \[6, 4\]"),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(side_dim, old, side, message):
    h = tiny(side_dim=side_dim)
    with pytest.raises(ValueError, match=message):
        transform_all(h, old, side)
    with pytest.raises(ValueError, match=message):
        h(torch.from_numpy(old), None if side is None else torch.from_numpy(side))


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_a_gallery_is_transformed_in_batches_of_any_size(batch):
    h = tiny(side_dim=4, per_dimension=True)
    old, side = vectors().astype(np.float16), vectors(dim=4, name="side")
    z, s = transform_all(h, old, side, batch=batch)
    expected = h(torch.from_numpy(old).float(), torch.from_numpy(side))
    np.testing.assert_allclose(z, expected.z.detach(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(s, expected.s.detach().mean(dim=1), rtol=1e-5, atol=1e-6)
    assert z.dtype == s.dtype == np.float32
    assert z.flags.c_contiguous


def test_transforming_a_gallery_leaves_h_as_it_was():
    h = tiny().train()
    h.mixer.eval()
    modes = [module.training for module in h.modules()]
    before = {name: tensor.clone() for name, tensor in h.state_dict().items()}
    z, _ = transform_all(h, vectors())
    assert [module.training for module in h.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in h.state_dict().items())
    np.testing.assert_array_equal(z, transform_all(h.eval(), vectors())[0])


def test_an_empty_gallery_gives_empty_arrays():
    z, s = transform_all(tiny(), vectors(rows=0))
    assert z.shape == (0, 5)
    assert s.shape == (0,)


def test_results_that_are_not_finite_are_counted():
    old = vectors()
    old[[2, 4]] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity for 2 of 7 items, the first is row 2"):
        transform_all(tiny(), old)
    with pytest.raises(ValueError, match="batch must be >= 1, got 0"):
        transform_all(tiny(), vectors(), batch=0)


@pytest.mark.parametrize("combine", ["sum", "max"])
def test_a_chain_composes_maps_and_combines_variances(combine):
    first, second = tiny(3, 5, seed=1, per_dimension=True), tiny(5, 2, seed=2, side_dim=4)
    chain = Chain([first, second], combine=combine).eval()
    old, side = torch.from_numpy(vectors()), torch.from_numpy(vectors(dim=4, name="side"))
    z, s = chain(old, side)
    middle = first(old)
    last = second(middle.z, side)
    assert torch.equal(z, last.z)
    variances = middle.s.mean(dim=1).exp(), last.s.exp()
    together = sum(variances) if combine == "sum" else torch.maximum(*variances)
    torch.testing.assert_close(s.exp(), together)
    assert (chain.old_dim, chain.new_dim, chain.side_dim) == (3, 2, 4)
    np.testing.assert_allclose(transform_all(chain, old.numpy(), side.numpy())[1], s.detach())


@pytest.mark.parametrize(
    ("maps", "combine", "message"),
    [
        ([], "sum", "needs one map or more"),
        ([tiny(3, 5), tiny(4, 2)], "sum", "map 0 gives vectors 5 wide, but map 1 takes 4"),
        ([tiny(3, 5, side_dim=2), tiny(5, 2, side_dim=3)], "sum", r"several widths: \[2, 3\]"),
        ([tiny()], "mean", "combine must be sum or max, got 'mean'"),
    ],
)
def test_maps_that_make_no_chain_are_refused(maps, combine, message):
    with pytest.raises(ValueError, match=message):
        Chain(maps, combine=combine)


def test_log_variances_of_items_are_means_over_dimensions():
    s = torch.tensor([[1.0, 3.0], [2.0, 2.0]])
    assert of_item(s).tolist() == [2.0, 2.0]
    assert of_item(s[:, 0]).tolist() == [1.0, 2.0]


def test_a_chain_normalises_what_the_model_between_gives_normalised():
    first, second = tiny(3, 5, seed=1), tiny(5, 2, seed=2)
    chain = Chain([first, second], normalized=[True]).eval()
    old = torch.from_numpy(vectors())
    unit = first(old).z
    unit = unit / unit.norm(dim=1, keepdim=True)
    torch.testing.assert_close(chain(old).z, second(unit).z)
    assert not torch.allclose(chain(old).z, Chain([first, second]).eval()(old).z)
    with pytest.raises(ValueError, match="of the 1 models between, got 2"):
        Chain([first, second], normalized=[True, False])

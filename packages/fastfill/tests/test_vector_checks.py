import logging

import numpy as np
import pytest

from fastfill.card import check_probe, check_vectors, probe_of, vector_stats
from fastfill.vector_checks import _CHUNK
from tenfold.keyed import generator


def raw(rows=200, dim=6, name="raw"):
    return generator(name).gamma(1.0, 2.0, (rows, dim)).astype(np.float32) + 0.1


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_statistics_are_those_of_numpy_over_several_chunks():
    vectors = generator("many").standard_normal((_CHUNK + 10, 2)).astype(np.float32)
    stats = vector_stats(vectors)
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    assert stats.mean_norm == pytest.approx(norms.mean(), rel=1e-12)
    assert stats.std_norm == pytest.approx(norms.std(), rel=1e-12)
    np.testing.assert_allclose(stats.mean, vectors.mean(axis=0, dtype=np.float64), rtol=1e-9)


@pytest.mark.parametrize("vectors", [raw(name="other"), raw().astype(np.float16), raw(rows=1)])
def test_vectors_of_the_same_model_pass(vectors, caplog):
    check_vectors(vector_stats(raw()), vectors, what="gallery")
    assert not caplog.records


def with_row(value):
    vectors = raw()
    vectors[[3, 7]] = value
    return vectors


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (raw(dim=5), "gallery are 5 wide, but the map takes 6"),
        (raw()[0], r"gallery must be an array \[n, d\]"),
        (raw()[:0], "that is not empty"),
        (with_row(np.nan), "gallery: 2 of 200 vectors have NaN or infinity, the first is row 3"),
        (with_row(np.inf), "2 of 200 vectors have NaN or infinity"),
        (with_row(0.0), "2 of 200 vectors have length zero, the first is row 3"),
        (unit(raw()), "gallery are normalised .* trained on raw ones .* metric mismatch"),
    ],
)
def test_vectors_that_cannot_be_the_old_models_are_refused(vectors, message):
    with pytest.raises(ValueError, match=message):
        check_vectors(vector_stats(raw()), vectors, what="gallery")


def test_raw_vectors_are_refused_where_normalised_ones_were_trained_on():
    with pytest.raises(ValueError, match=r"are raw .* trained on normalised ones"):
        check_vectors(vector_stats(unit(raw())), raw(), what="gallery")


def test_a_mean_that_points_elsewhere_is_warned_of(caplog):
    with caplog.at_level(logging.WARNING):
        check_vectors(vector_stats(raw()), -raw(), what="gallery")
    assert "gallery point elsewhere" in caplog.text


def test_a_probe_is_the_first_sixteen_and_takes_half_precision():
    vectors = raw()
    probe = probe_of(vectors)
    assert np.asarray(probe.old).shape == (16, 6)
    check_probe(probe, vectors[:16].astype(np.float16), what="model")


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (raw()[:15], r"the probe is \(16, 6\), its new embedding \(15, 6\)"),
        (raw(name="other")[:16], "embeds 16 of 16 probe items otherwise"),
        (with_row(np.nan)[:16], "embeds 2 of 16 probe items otherwise"),
    ],
)
def test_another_model_does_not_pass_the_probe(found, message):
    with pytest.raises(ValueError, match=message):
        check_probe(probe_of(raw()), found, what="model")

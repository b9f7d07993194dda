"""Best-fit-decreasing against the quadratic search, and rows from windows of chunks."""

import numpy as np
import pytest

from dataset_decomposition.packing import (
    PADDING,
    Packer,
    best_fit_decreasing,
    document_dtype,
    run_lengths,
)


def naive_bins(lengths: list[int], capacity: int) -> list[int]:
    """Look at every bin for every chunk, longest chunk first."""
    spaces: list[int] = []
    bins = [0] * len(lengths)
    for chunk in sorted(range(len(lengths)), key=lambda n: (-lengths[n], n)):
        fits = [(space, n) for n, space in enumerate(spaces) if space >= lengths[chunk]]
        if not fits:
            fits = [(capacity, len(spaces))]
            spaces.append(capacity)
        bins[chunk] = min(fits)[1]
        spaces[bins[chunk]] -= lengths[chunk]
    return bins


@pytest.mark.parametrize("capacity", [1, 2, 9, 65, 1025])
@pytest.mark.parametrize("seed", range(4))
def test_best_fit_equals_the_quadratic_search(capacity: int, seed: int):
    rng = np.random.default_rng(seed)
    uniform = rng.integers(1, capacity + 1, 150)
    heavy = np.minimum(rng.lognormal(2.5, 1.5, 150).astype(int) + 1, capacity)
    for lengths in (uniform, heavy, uniform[:1], uniform[:0]):
        bins = best_fit_decreasing(lengths, capacity)
        assert bins.tolist() == naive_bins(lengths.tolist(), capacity)
        used = np.bincount(bins, weights=lengths) if len(bins) else np.zeros(0)
        assert used.max(initial=0) <= capacity


def test_a_gap_is_filled_by_what_fits_it_best():
    # 6 leaves 4, 7 leaves 3: the 3 goes with the 7, though the 6 was not full either.
    assert best_fit_decreasing(np.array([3, 6, 7]), 10).tolist() == [0, 1, 0]


@pytest.mark.parametrize("lengths", [[0, 3], [3, 10]])
def test_impossible_chunks_are_refused(lengths: list[int]):
    with pytest.raises(ValueError, match=f"1 to 9 tokens, got {lengths[0]} to {lengths[1]}"):
        best_fit_decreasing(np.array(lengths), 9)


@pytest.mark.parametrize("window", [1, 40, 10_000])
def test_rows_hold_every_chunk_once_and_in_order(window: int):
    rng = np.random.default_rng(7)
    chunks = [rng.integers(0, 90, size).astype(np.uint16) for size in rng.integers(1, 18, 200)]
    packer = Packer(4, window_tokens=window, fill=99)
    windows = [rows for chunk in chunks for rows in packer.push(chunk)] + list(packer.flush())
    assert list(packer.flush()) == []
    found = []
    for tokens, documents in windows:
        assert tokens.dtype == np.uint16
        assert documents.dtype == np.int16
        for row, numbers in zip(tokens, documents, strict=True):
            assert numbers[0] == 0
            assert set(np.diff(numbers[numbers >= 0])) <= {0, 1}
            assert (row[numbers == PADDING] == 99).all()
            assert (np.flatnonzero(numbers == PADDING) >= (numbers >= 0).sum()).all()
            found += [row[numbers == n].tobytes() for n in range(numbers.max() + 1)]
    assert sorted(found) == sorted(chunk.tobytes() for chunk in chunks)
    sizes = sum(len(chunk) for chunk in chunks)
    padding = sum(int((documents == PADDING).sum()) for _, documents in windows)
    assert sum(tokens.size for tokens, _ in windows) == sizes + padding
    if window == 10_000:
        bins = naive_bins([len(chunk) for chunk in chunks], 17)
        assert len(windows[0].tokens) == max(bins) + 1
        first = b"".join(c.tobytes() for c, n in zip(chunks, bins, strict=True) if n == 0)
        assert windows[0].tokens[0].tobytes().startswith(first)


def test_a_chunk_does_not_keep_its_document_in_memory():
    packer = Packer(4, window_tokens=100, fill=0)
    document = np.arange(1000, dtype=np.uint16)
    assert list(packer.push(document[-5:])) == []
    document[:] = 0
    (rows,) = packer.flush()
    assert rows.tokens[0, :5].tolist() == [995, 996, 997, 998, 999]


def test_document_numbers_have_room_for_a_row_of_single_tokens():
    assert document_dtype(14) == np.int16
    assert document_dtype(15) == np.int32
    assert np.iinfo(np.int16).max >= 2**14


def test_run_lengths_stop_at_rows_and_leave_padding_out():
    documents = np.array([[0, 0, 1, -1], [0, 0, 0, 0], [0, 1, 2, 2]])
    assert run_lengths(documents).tolist() == [2, 1, 4, 1, 1, 2]

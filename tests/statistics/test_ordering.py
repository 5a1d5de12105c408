"""Every row is handed out once, in blocks of whole segments."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magg.statistics import ordering


def handed_out(child, **options):
    """Rows, cells and counts of all blocks together."""
    found = list(ordering.order_rows(child).blocks(**options))
    rows = [
        np.arange(child.size)[segments.rows] if isinstance(segments.rows, slice) else segments.rows
        for segments in found
    ]
    return (
        np.concatenate(rows),
        np.concatenate([segments.cells for segments in found]),
        np.concatenate([segments.counts for segments in found]),
        [row.size for row in rows],
    )


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(1, 200)), min_size=1, max_size=40),
    st.sampled_from(["shuffled", "runs"]),
    st.sampled_from([np.uint16, np.uint32]),
    st.sampled_from([1, 50, 1000, 10**6]),
)
def test_rows_come_in_the_order_of_a_stable_sort(runs, layout, dtype, block_rows):
    cells, lengths = np.array(runs).T
    child = np.repeat(cells, lengths).astype(dtype)
    if layout == "shuffled":
        np.random.default_rng(child.size).shuffle(child)
    rows, found, counts, sizes = handed_out(child, block_rows=block_rows)
    np.testing.assert_array_equal(rows, np.argsort(child, kind="stable"))
    expected, expected_counts = np.unique(child, return_counts=True)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(counts, expected_counts)
    assert max(sizes) <= max(block_rows, expected_counts.max())


@pytest.mark.parametrize("band_rows", [1, 700, 5000])
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_shuffled_rows_in_several_bands_come_in_the_same_order(monkeypatch, band_rows, dtype):
    monkeypatch.setattr(ordering, "BAND_ROWS", band_rows)
    monkeypatch.setattr(ordering, "_STEP", 999)
    child = np.random.default_rng(5).integers(0, 65536, 5000) // 4000 * 4000
    child = np.minimum(child, 65535).astype(dtype)
    rows, *_ = handed_out(child, block_rows=600)
    np.testing.assert_array_equal(rows, np.argsort(child, kind="stable"))


def test_no_rows_give_no_blocks():
    assert list(ordering.order_rows(np.zeros(0, dtype=np.uint16)).blocks()) == []


def test_a_run_that_is_a_block_is_a_slice_and_needs_no_copies():
    child = np.repeat(np.array([5, 2], dtype=np.uint16), 1000)
    found = list(ordering.order_rows(child).blocks(block_rows=1000))
    assert [segments.rows for segments in found] == [slice(1000, 2000), slice(0, 1000)]


def test_the_highest_child_cell_of_a_dtype_is_found():
    for child in (np.full(100, 65535, np.uint16), np.array([65535, 0, 65535], np.uint16)):
        rows, cells, *_ = handed_out(child)
        assert cells[-1] == 65535
        np.testing.assert_array_equal(rows, np.argsort(child, kind="stable"))

"""Quantiles from digests are within 0.2 % of the ranks, and the extremes are exact."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magg.statistics import digests
from magg.statistics.order import Median, Quantile

SIZE = 60_000
RANK_ERROR = 0.002


def dataset(name, size=SIZE, seed=3):
    rng = np.random.default_rng(seed)
    return {
        "normal": lambda: rng.normal(size=size),
        "lognormal": lambda: rng.lognormal(0, 3, size),
        "pareto": lambda: rng.pareto(0.5, size),
        "sorted": lambda: np.arange(size, dtype=float),
        "descending": lambda: np.arange(size, dtype=float)[::-1],
        "two values": lambda: (rng.random(size) < 0.4).astype(float),
        "ten values": lambda: rng.integers(0, 10, size).astype(float),
        "three hundred values": lambda: rng.integers(0, 300, size).astype(float),
        "two modes": lambda: np.where(
            rng.random(size) < 0.5, rng.normal(0, 1, size), rng.normal(1000, 0.1, size)
        ),
        "terrain": lambda: (
            np.sort(rng.random(size // 15 + 1) * 1000).repeat(15)[:size] + rng.normal(size=size)
        ),
        "one value": lambda: np.full(size, 3.0),
        "one value and others": lambda: np.where(rng.random(size) < 0.7, 0, rng.random(size)),
        "infinities": lambda: rng.choice([-np.inf, 1.0, 2.0, np.inf], size),
    }[name]()


DATASETS = [
    *("normal", "lognormal", "pareto", "sorted", "descending", "two values", "ten values"),
    *("three hundred values", "two modes", "terrain", "one value", "one value and others"),
    "infinities",
]


def digest(values):
    return digests.digest_of_sample(np.sort(values), values.size)


def parts(values, number, seed=1):
    """Cut values where they lie, into parts of very different sizes."""
    cuts = np.random.default_rng(seed).integers(0, values.size, number - 1)
    return [part for part in np.split(values, np.sort(cuts)) if part.size]


def merged(some):
    return digests.merge(np.stack(some), np.array([0]))[0]


def in_a_tree(some):
    while len(some) > 1:
        some = [merged(some[index : index + 4]) for index in range(0, len(some), 4)]
    return some[0]


def one_by_one(some):
    result = some[0]
    for other in some[1:]:
        result = merged([result, other])
    return result


def rank_error(digest, values):
    """Return the farthest that a value of a rank is from that rank, as a share of all."""
    ordered = np.sort(values)
    ranks = np.linspace(0, values.size - 1, 3001)
    found = digests.at_ranks(digest, ranks)
    # What lies between two neighbours has both their ranks.
    lowest = np.searchsorted(ordered, found, "left") - 1
    highest = np.searchsorted(ordered, found, "right")
    return max(0, (lowest - ranks).max(), (ranks - highest).max()) / values.size


@pytest.mark.parametrize("name", DATASETS)
def test_values_of_ranks_are_near_those_ranks(name):
    values = dataset(name)
    assert rank_error(digest(values), values) < RANK_ERROR / 2


@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize("merge", [in_a_tree, one_by_one])
@pytest.mark.parametrize("order", ["in place", "shuffled", "by value"])
def test_values_of_ranks_are_near_after_many_merges(name, merge, order):
    values = dataset(name)
    if order == "by value":
        values = np.sort(values)
    some = [digest(part) for part in parts(values, 400)]
    if order == "shuffled":
        np.random.default_rng(5).shuffle(some)
    result = merge(some)
    assert rank_error(result, values) < RANK_ERROR
    assert result[:, 1].sum() == values.size
    ends = digests.at_ranks(result, np.array([0.0, values.size - 1.0]))
    assert ends.tolist() == [values.min(), values.max()]


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60),
    st.floats(0, 1),
    st.randoms(use_true_random=False),
)
def test_few_values_are_exact_however_they_are_merged(values, q, random):
    some = [digest(np.array([value])) for value in values]
    while len(some) > 1:
        random.shuffle(some)
        some = [merged(some[:2]), *some[2:]]
    rows = np.array([len(values)])
    for order, expected in (
        (Quantile(True, q), np.quantile(values, q)),
        (Median(True), np.median(values)),
    ):
        found = digests.order_statistic(order, some[0][None], rows)[0]
        assert found == expected


def test_few_distinct_values_are_exact_whatever_their_number():
    values = dataset("ten values")
    result = in_a_tree([digest(part) for part in parts(values, 100)])
    for q in (0.0, 0.1, 0.25, 0.5, 0.77, 1.0):
        order = Quantile(True, q)
        found = digests.order_statistic(order, result[None], np.array([values.size]))[0]
        assert found == np.quantile(values, q)


def test_a_sample_stands_for_all_values_and_keeps_the_extremes():
    values = np.sort(dataset("lognormal"))
    result = digests.digest_of_sample(values[3::7], values.size, values[[0, 5, -1]])
    assert result[:, 1].sum() == values.size
    assert rank_error(result, values) < RANK_ERROR / 2
    ends = digests.at_ranks(result, np.array([0.0, values.size - 1.0]))
    assert ends.tolist() == [values[0], values[-1]]


def test_a_digest_never_has_more_centroids_than_there_is_room_for():
    rng = np.random.default_rng(2)
    for _ in range(200):
        size = int(10 ** rng.uniform(0, 4.5))
        values = np.sort(rng.normal(size=size))
        weights = np.ceil(rng.pareto(rng.choice([0.3, 1, 5]), size)).clip(1, 1e6)
        weights[0] = weights[-1] = 1
        parts = np.zeros((-(-size // digests.CENTROIDS), digests.CENTROIDS, 2))
        parts.reshape(-1, 2)[:size] = np.stack([values, weights], axis=1)
        result = merged(list(parts))
        assert result.shape == (digests.CENTROIDS, 2)
        assert result[:, 1].sum() == weights.sum()


def test_cells_without_values_and_with_nan_give_nan_where_numpy_does():
    some = np.stack([digest(np.zeros(0)), digest(np.array([1.0, 3.0]))])
    whole, partly = Median(True), Median(False)
    assert np.isnan(digests.order_statistic(whole, some, np.array([0, 3]))).all()
    found = digests.order_statistic(partly, some, np.array([4, 3]))
    np.testing.assert_array_equal(found, [np.nan, 2.0])

"""The outlines of cells: where they run, and how they behave at poles and the antimeridian."""

from __future__ import annotations

import numpy as np
import pytest

from magg.grid import centres, locate, nested_ids, words_of
from magg.results.outlines import outlines


def some_cells(order):
    """Return ids all over the Earth, those at both poles among them."""
    rng = np.random.default_rng(order)
    corner = np.uint64(4**order)
    poles = [np.arange(4, dtype=np.uint64) * corner + corner - np.uint64(1)]
    poles.append(np.arange(8, 12, dtype=np.uint64) * corner)
    return np.unique(np.concatenate([rng.integers(0, 12 * 4**order, 500, dtype=np.uint64), *poles]))


def on_sphere(lat, lon):
    lat, lon = np.radians(lat), np.radians(lon)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)


@pytest.mark.parametrize("order", [0, 1, 5, 12, 20])
@pytest.mark.parametrize("points", [1, 8])
def test_just_within_an_outline_is_the_cell_and_just_beyond_is_another(order, points):
    ids = some_cells(order)
    words = words_of(ids, order)
    lat, lon = outlines(words, points, order)
    edge, middle = on_sphere(lat, lon), on_sphere(*centres(words))[:, np.newaxis]
    for share, expected in ((0.02, True), (-0.02, False)):
        moved = edge + share * (middle - edge)
        moved /= np.linalg.norm(moved, axis=-1, keepdims=True)
        there = np.degrees([np.arcsin(moved[..., 2]), np.arctan2(moved[..., 1], moved[..., 0])])
        found = nested_ids(locate(*there.reshape(2, -1)), order).reshape(lat.shape)
        assert ((found == ids[:, np.newaxis]) == expected).all()


def test_outlines_are_unbroken_counterclockwise_and_reach_the_pole_along_their_width():
    words = words_of(some_cells(3), 3)
    lat, lon = outlines(words, 4, 3)
    assert np.ptp(lon, axis=1).max() <= 90.0 + 1e-9
    area = np.sum(lon[:, :-1] * lat[:, 1:] - lon[:, 1:] * lat[:, :-1], axis=1)
    assert (area + lon[:, -1] * lat[:, 0] - lon[:, 0] * lat[:, -1] > 0).all()
    polar = (np.abs(lat) == 90.0).sum(axis=1)
    assert sorted(set(polar)) == [0, 2]
    assert (polar == 2).sum() == 8
    ends = np.abs(lon[polar == 2, 0] - lon[polar == 2, -1])
    np.testing.assert_allclose(ends, 90.0)

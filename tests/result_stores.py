"""Stores with values that can be worked out from their cells' ids, for tests of what shows them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.storage import LocalStore, WrapperStore

from magg import load_config
from magg.grid import Grid, children_of, locate, nested_ids, to_decimal, words_of
from magg.statistics import Statistic
from magg.store import template
from magg.store.chunks import write_chunks

GRID = Grid(6, 9)
ANTARCTIC = [(-75.2, -101.0), (-75.2, -103.5), (-76.3, -101.0), (-72.0, 60.0)]
FIJI = [(-17.5, 179.6), (-17.5, -179.6), (-18.6, 179.9)]
POLES = [(89.9, lon) for lon in (10, 100, -80, -170)] + [(-89.9, lon) for lon in (10, 100, -80)]


@dataclass(frozen=True)
class Made:
    """A store, and what is in it: its cells' ids, and values by name (NaN or 0 for none)."""

    path: str
    ids: np.ndarray
    count: np.ndarray
    h_mean: np.ndarray
    parents: np.ndarray

    @property
    def cells(self) -> list[str]:
        return [to_decimal(word) for word in self.parents]


def count_of(ids):
    """Every seventh cell has no observations."""
    return np.where(ids % 7 == 0, 0, ids % 100 + 1).astype(np.int32)


def height_of(ids):
    return np.where(ids % 7 == 0, np.nan, ids % 4096 / 8.0).astype(np.float32)


def make_store(path: Path, *places: tuple[float, float], unwritten: int = 0) -> Made:
    """Make a store of the parent cells at some (latitude, longitude), in two goes.

    The last so many parent cells are never written.
    """
    config = load_config("atl06")
    variables = {
        "count": config.statistics["count"],
        "h_mean": config.statistics["h_mean"],
        "h_low": Statistic(function="min", source="h_li", fill_value=-9999.0),
        "beams": Statistic(function="max", source="h_li", dtype="int16", fill_value=-1),
    }
    output = replace(config.output, grid=replace(config.output.grid, child_order=GRID.child_order))
    config = replace(
        config, output=output, aggregation=replace(config.aggregation, variables=variables)
    )
    lat, lon = np.array(places).T
    words = words_of(nested_ids(locate(lat, lon), GRID.parent_order), GRID.parent_order)
    words = words[np.sort(np.unique(words, return_index=True)[1])]
    # The second half is appended, so that ids do not ascend over the whole axis.
    half = len(words) // 2
    template.prepare(str(path), config, GRID, np.sort(words[half:]))
    template.prepare(str(path), config, GRID, np.sort(words))
    held = np.asarray(zarr.open_group(path, mode="r")["parent_cells"][:])
    ids = children_of(held, GRID)
    count, height = count_of(ids), height_of(ids)
    for chunk in range(len(held) - unwritten):
        part = slice(chunk * GRID.children, (chunk + 1) * GRID.children)
        values = {
            "count": count[part],
            "h_mean": height[part],
            "h_low": np.where(np.isnan(height[part]), -9999.0, height[part] - 1),
            "beams": np.where(count[part] > 0, count[part] % 7, -1),
        }
        write_chunks(str(path), GRID.child_order, chunk, values, version="1")
    if unwritten:
        count[-unwritten * GRID.children :] = 0
        height[-unwritten * GRID.children :] = np.nan
    return Made(str(path), ids, count, height, held)


class Counting(WrapperStore):
    """A store that notes the keys of the chunks that are read."""

    def __init__(self, store):
        super().__init__(store)
        self.chunks = []

    async def get(self, key, prototype, byte_range=None):
        if "/c/" in key:
            self.chunks.append(key)
        return await super().get(key, prototype, byte_range)


def counted(path: str) -> tuple[zarr.Group, list[str]]:
    """Return the root of a store, and the list of the chunks that will have been read from it."""
    store = Counting(LocalStore(path, read_only=True))
    return zarr.open_group(store, mode="r"), store.chunks


@pytest.fixture(scope="session")
def antarctic_store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("stores") / "a.zarr", *ANTARCTIC, unwritten=1)


@pytest.fixture(scope="session")
def fiji_store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("stores") / "f.zarr", *FIJI)


@pytest.fixture(scope="session")
def polar_store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("stores") / "p.zarr", *POLES)

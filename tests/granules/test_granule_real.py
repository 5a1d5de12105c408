"""Real ATL06 granules: what is read equals a plain reading with h5py and numpy."""

from __future__ import annotations

import dataclasses
import json

import h5py
import numpy as np
import pytest
from granule_files import BEAMS, GRID, assert_same, data_source, plain_cells, plain_read

from magg.granules import granule_layout, read_rows
from magg.grid import Grid, nested_ids


def test_every_cell_of_every_granule_equals_a_plain_reading(real_granules: list[str]) -> None:
    source = data_source()
    for granule in real_granules:
        for cell in granule_layout(granule, source, 6).cells():
            rows, _ = read_rows([granule], int(cell), GRID, source, ["h_li", "s_li"])
            assert_same(rows, plain_read([granule], int(cell), GRID, ["h_li", "s_li"]))


@pytest.mark.parametrize("grid", [Grid(4, 10), Grid(9, 15)])
def test_granules_of_a_cell_are_joined_in_their_order(real_granules: list[str], grid: Grid) -> None:
    source, order = data_source(), real_granules[::-1]
    cells = {int(c) for g in order for c in granule_layout(g, source, grid.parent_order).cells()}
    for cell in sorted(cells)[:12]:
        rows, reads = read_rows(order, cell, grid, source, ["h_li"])
        assert_same(rows, plain_read(order, cell, grid, ["h_li"]))
        assert [read.granule for read in reads] == order
        assert sum(read.rows_used for read in reads) == len(rows.child)


def test_layout_finds_exactly_the_cells_that_hold_rows(real_granules: list[str]) -> None:
    for granule in real_granules:
        expected = set()
        with h5py.File(granule) as file:
            for beam in (beam for beam in BEAMS if beam in file):
                segments = file[beam]["land_ice_segments"]
                ids = plain_cells(segments["latitude"][:], segments["longitude"][:], 6)
                expected |= set(ids.tolist())
        layout = granule_layout(granule, data_source(), 6)
        assert set(nested_ids(layout.cells(), 6).tolist()) == expected
        assert layout.unlocated == 0
        units = [beam.datasets["h_li"].attributes["units"] for beam in layout.beams]
        assert set(units) == {"meters"}


def test_every_row_is_read_once_and_accounted_for(real_granules: list[str]) -> None:
    source = data_source()
    for granule in real_granules:
        layout = granule_layout(granule, source, 6)
        reads = [
            read_rows([granule], int(cell), GRID, source, ["h_li", "s_li"])[1][0]
            for cell in layout.cells()
        ]
        assert sum(read.rows_read for read in reads) == sum(beam.rows for beam in layout.beams)
        for read in reads:
            assert read.rows_read == read.rows_used + sum(read.rows_dropped.values())
        assert json.loads(json.dumps(dataclasses.asdict(reads[0])))["granule"] == granule


def test_missing_beams_are_no_error(real_granules: list[str]) -> None:
    granule = next(g for g in real_granules if "11690305" in g)
    layout = granule_layout(granule, data_source(), 6)
    assert [beam.name for beam in layout.beams] == ["gt2l", "gt2r", "gt3l", "gt3r"]
    _, (read,) = read_rows([granule], int(layout.cells()[0]), GRID, data_source(), ["h_li"])
    assert set(read.beams) <= {"gt2l", "gt2r", "gt3l", "gt3r"}


def test_columns_come_in_their_stored_dtype(real_granules: list[str]) -> None:
    cell = int(granule_layout(real_granules[0], data_source(), 6).cells()[0])
    rows, _ = read_rows(real_granules, cell, GRID, data_source(), {"s_li"})
    assert rows.columns["s_li"].dtype == np.float32
    assert rows.child.dtype == np.uint16
    assert list(rows.columns) == ["s_li"]

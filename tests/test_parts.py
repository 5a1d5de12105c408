"""Parts of a run, which are made apart and are the whole together."""

from __future__ import annotations

import pytest
from remote_runs import arrays, assert_same

from magg import run
from magg.errors import ConfigError
from magg.plan import make_plan


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_parts_are_disjoint_and_the_whole_together(config, catalog, tmp_path, parts):
    store = tmp_path / "s.zarr"
    plans = [make_plan(config, catalog, store, part=f"{n + 1}/{parts}") for n in range(parts)]
    cells = [cell for plan in plans for cell in plan.cells]
    assert sorted(cells) == sorted(catalog.cells)
    sizes = [len(plan.cells) for plan in plans]
    assert max(sizes) - min(sizes) <= 1


def test_parts_make_the_same_store_as_one_run(config, catalog, tmp_path):
    store, alone = tmp_path / "s.zarr", tmp_path / "alone.zarr"
    done = [
        run(config, catalog=catalog, store=store, part=f"{n}/4", progress=False)
        for n in (3, 1, 4, 2)
    ]
    assert sum(one["total_cells"] for one in done) == len(catalog)
    assert min(one["total_cells"] for one in done) == 0  # there are three cells
    expected = arrays(alone, run(config, catalog=catalog, store=alone, progress=False))
    found, _ = arrays(store, done[0])
    assert_same((found, expected[1]), expected)


def test_a_dry_run_of_a_part_with_no_cell_says_so(config, catalog, tmp_path):
    told = run(
        config, catalog=catalog, store=tmp_path / "s.zarr", part="9/9", dry_run=True, progress=False
    )
    assert told["total_cells"] == 0


@pytest.mark.parametrize("part", ["", "3", "0/2", "3/2", "-1/2", "1/0", "a/b", "1/2/3", 2])
def test_a_part_that_is_none_is_refused(config, catalog, tmp_path, part):
    with pytest.raises(ConfigError, match="part must be such as '3/12'"):
        make_plan(config, catalog, tmp_path / "s.zarr", part=part)


def test_a_part_does_not_delete_what_others_make(config, catalog, tmp_path):
    with pytest.raises(ConfigError, match="what the other parts make"):
        make_plan(config, catalog, tmp_path / "s.zarr", part="1/2", overwrite=True)

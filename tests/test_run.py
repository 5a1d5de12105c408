from __future__ import annotations

import json
import subprocess
import sys
import time
import warnings
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import reference
import zarr

from magg import Catalog, load_config, run
from magg.errors import (
    BackendError,
    CatalogError,
    ConfigError,
    StoreMismatchError,
    UnknownCellError,
)
from magg.events import CellFinished, RunFinished, RunStarted
from magg.grid import separation
from magg.statistics import aggregate
from magg.testing import FILL, Track, simulate_granule

SUMMARY_KEYS = {
    "total_cells", "cells_with_data", "cells_empty", "cells_error", "cells_skipped", "total_obs",
    "wall_time_s", "store_path", "backend", "dry_run", "errors", "results",
}  # fmt: skip


def arrays(store, order="12"):
    """Return the variables of a store sorted by cell id."""
    group = zarr.open_group(str(store), mode="r")[order]
    by_id = np.argsort(group["cell_ids"][:])
    return {name: array[:][by_id] for name, array in group.arrays()}


def assert_matches_numpy(store, granules, parent_order=6, child_order=12):
    held = arrays(store, str(child_order))
    _, child, h, s = reference.observations(granules, parent_order, child_order)
    expected = reference.atl06_statistics(child, h, s)
    full = held["count"] > 0
    assert set(held["cell_ids"][full].tolist()) == set(expected)
    assert held["count"].sum() == len(child)
    for name in next(iter(expected.values())):
        ours = held[name][full]
        wanted = np.array([expected[int(i)][name] for i in held["cell_ids"][full]])
        if name in ("h_mean", "h_sigma", "h_variance"):
            np.testing.assert_allclose(ours, wanted, rtol=1.2e-7, atol=1e-12, err_msg=name)
        else:
            np.testing.assert_array_equal(ours, wanted.astype(ours.dtype), err_msg=name)
        if ours.dtype.kind == "f":
            assert np.isnan(held[name][~full]).all()


def test_simulated_granules_give_what_numpy_gives(config, catalog, region, tmp_path):
    summary = run(config, catalog=catalog, store=tmp_path / "s.zarr")
    assert summary["cells_error"] == 0
    assert_matches_numpy(tmp_path / "s.zarr", region)


def test_real_granules_give_what_numpy_gives(config, real_granules, tmp_path):
    summary = run(config, catalog=Catalog.from_files(real_granules), store=tmp_path / "s.zarr")
    assert summary["total_obs"] == 5_224
    assert_matches_numpy(tmp_path / "s.zarr", real_granules)


@pytest.mark.parametrize(("parent_order", "child_order"), [(5, 8), (6, 6), (8, 15)])
def test_other_orders_give_what_numpy_gives(region, tmp_path, parent_order, child_order):
    config = load_config("atl06")
    grid = replace(config.output.grid, parent_order=parent_order, child_order=child_order)
    config = replace(config, output=replace(config.output, grid=grid))
    catalog = Catalog.from_files(region[:2], parent_order=parent_order)
    run(config, catalog=catalog, store=tmp_path / "s.zarr")
    assert_matches_numpy(tmp_path / "s.zarr", region[:2], parent_order, child_order)


@pytest.mark.parametrize(
    ("latitude", "longitude"),
    [(87.9, 10.0), (-87.9, 100.0), (-75.0, 180.0), (70.0, -180.0), (0.0, 0.0), (41.8103, 45.0)],
    ids=["north", "south", "antimeridian", "antimeridian-north", "equator", "cap-edge"],
)
def test_the_hard_places_of_the_globe_give_what_numpy_gives(config, tmp_path, latitude, longitude):
    granule = simulate_granule(
        tmp_path / "granule.h5", Track(latitude, longitude, segments=1_500), bad_fraction=0.0
    )
    catalog = Catalog.from_files(granule)
    run(config, catalog=catalog, store=tmp_path / "s.zarr")
    assert_matches_numpy(tmp_path / "s.zarr", [granule])


def test_the_poles_and_seams_themselves_are_cells_like_others(config, tmp_path):
    import h5py

    places = [(90, 0), (-90, 0), (-90, 180), (0, 180), (0, -180), (-75, 180), (45, -180)]
    lat, lon = np.repeat(np.array(places, float), 3, axis=0).T
    path = tmp_path / "granule.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("gt2r/land_ice_segments")
        group["latitude"], group["longitude"] = lat, lon
        group["h_li"] = np.arange(len(lat), dtype="f4")
        group["h_li_sigma"] = np.full(len(lat), 0.1, "f4")
        group["atl06_quality_summary"] = np.zeros(len(lat), "i1")
    summary = run(config, catalog=Catalog.from_files(path), store=tmp_path / "s.zarr")
    assert summary["total_obs"] == len(lat)
    assert_matches_numpy(tmp_path / "s.zarr", [path])


def test_rows_without_value_position_or_quality_are_dropped_and_counted(config, tmp_path):
    import h5py

    path = tmp_path / "granule.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("gt1l/land_ice_segments")
        group["latitude"] = [-75.0, -75.0, -75.0, np.nan, -75.0, 95.0, -75.0]
        group["longitude"] = [10.0, 10.0, 10.0, 10.0, 10.0, 10.0, 10.0]
        group["h_li"] = np.array([1, FILL, 3, 4, np.nan, 6, 7], "f4")
        group["h_li"].attrs["_FillValue"] = FILL
        group["h_li_sigma"] = np.full(7, 0.5, "f4")
        group["atl06_quality_summary"] = np.array([0, 0, 1, 0, 0, 0, 0], "i1")
    summary = run(config, catalog=Catalog.from_files(path), store=tmp_path / "s.zarr")
    (entry,) = summary["results"]
    assert entry["observations"] == summary["total_obs"] == 2
    assert entry["rows_read"] == 5
    assert entry["rows_dropped"] == {"quality": 1, "missing": 2}
    assert summary["rows_unlocated"] == 2
    assert arrays(tmp_path / "s.zarr")["h_max"][arrays(tmp_path / "s.zarr")["count"] > 0] == [7]


def test_every_non_empty_cell_lies_within_a_cell_of_its_observations(
    config, catalog, region, tmp_path
):
    import xarray as xr
    import xdggs

    run(config, catalog=catalog, store=tmp_path / "s.zarr")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        decoded = xdggs.decode(xr.open_zarr(tmp_path / "s.zarr", group="12", consolidated=False))
        centres = decoded.dggs.cell_centers()
    assert decoded.dggs.grid_info.level == 12
    place = {
        int(i): (float(lat), float(lon))
        for i, lat, lon in zip(
            decoded["cell_ids"].values,
            centres["latitude"].values,
            centres["longitude"].values,
            strict=True,
        )
    }
    full = decoded["count"].values > 0
    assert full.sum() > 100
    lat, lon, child = observed_positions(region)
    apart = separation(*np.array([place[i] for i in child.tolist()]).T, lat, lon)
    assert apart.max() * 111.2 < 1.6
    assert set(child.tolist()) >= set(decoded["cell_ids"].values[full].tolist())


def observed_positions(granules):
    import h5py
    from healpix_geo.nested import lonlat_to_healpix

    lats, lons = [], []
    for granule in granules:
        with h5py.File(granule) as file:
            for beam in reference.BEAMS:
                if beam in file:
                    lats.append(file[f"{beam}/land_ice_segments/latitude"][:])
                    lons.append(file[f"{beam}/land_ice_segments/longitude"][:])
    lat, lon = np.concatenate(lats), np.concatenate(lons)
    return lat, lon, lonlat_to_healpix(lon, lat, 12, ellipsoid="WGS84")


def test_the_summary_is_plain_data_with_the_promised_keys(config, catalog, tmp_path):
    summary = run(config, catalog=catalog, store=tmp_path / "s.zarr")
    assert set(summary) >= SUMMARY_KEYS
    json.dumps(summary)
    assert summary["total_cells"] == len(catalog) == len(summary["results"])
    assert summary["cells_with_data"] + summary["cells_empty"] == summary["total_cells"]
    assert summary["total_obs"] == sum(entry["observations"] for entry in summary["results"])
    assert summary["backend"] == "local"
    assert summary["dry_run"] is False
    assert summary["store_path"] == str(tmp_path / "s.zarr")


def test_running_twice_gives_the_same_store(config, catalog, tmp_path):
    first = run(config, catalog=catalog, store=tmp_path / "s.zarr")
    before = arrays(tmp_path / "s.zarr")
    second = run(config, catalog=catalog, store=tmp_path / "s.zarr")
    after = arrays(tmp_path / "s.zarr")
    assert second["total_cells"] == first["total_cells"]
    for name, values in before.items():
        np.testing.assert_array_equal(after[name], values, err_msg=name)


def test_the_order_of_granules_and_cells_does_not_matter(config, catalog, tmp_path):
    other = Catalog(6, dict(reversed([(c, tuple(reversed(g))) for c, g in catalog.cells.items()])))
    run(config, catalog=catalog, store=tmp_path / "a.zarr", max_workers=1)
    run(config, catalog=other, store=tmp_path / "b.zarr", max_workers=3)
    ours, theirs = arrays(tmp_path / "a.zarr"), arrays(tmp_path / "b.zarr")
    for name, values in ours.items():
        np.testing.assert_array_equal(theirs[name], values, err_msg=name)


def test_catalog_and_store_may_stand_in_the_config_or_in_files(config, catalog, tmp_path):
    path = catalog.save(tmp_path / "catalog.json")
    config = replace(
        config, catalog=str(path), output=replace(config.output, store=str(tmp_path / "c.zarr"))
    )
    assert run(config)["store_path"] == str(tmp_path / "c.zarr")
    assert run(config, store=tmp_path / "d.zarr", catalog=path)["total_obs"] > 0


def test_one_failing_cell_never_stops_the_others(config, catalog, region, tmp_path):
    cells = dict(catalog.cells)
    doomed = next(iter(cells))
    cells[doomed] = (*cells[doomed], str(tmp_path / "lost.h5"))
    summary = run(config, catalog=Catalog(6, cells), store=tmp_path / "s.zarr")
    assert summary["cells_error"] == 1
    assert summary["cells_with_data"] == len(catalog) - 1
    (error,) = summary["errors"]
    assert error["cell"] == doomed
    assert error["type"] == "GranuleNotFoundError"
    assert "lost.h5" in error["message"]


def test_threads_aggregate_one_cell_at_a_time(config, catalog, tmp_path, monkeypatch):
    inside, most = [], []

    def watched(*arguments):
        inside.append(None)
        most.append(len(inside))
        time.sleep(0.02)
        result = aggregate(*arguments)
        inside.pop()
        return result

    monkeypatch.setattr("magg.cell.aggregate", watched)
    run(config, catalog=catalog, store=tmp_path / "s.zarr", max_workers=4)
    assert len(most) == len(catalog)
    assert max(most) == 1


def test_a_process_forked_while_a_cell_is_aggregated_does_not_wait_for_it():
    script = """
import os
import magg.cell
with magg.cell._aggregating:
    child = os.fork()
    if not child:
        os._exit(0 if magg.cell._aggregating.acquire(blocking=False) else 1)
    raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_max_cells_bounds_the_work_but_not_the_axis(config, catalog, tmp_path):
    summary = run(config, catalog=catalog, store=tmp_path / "s.zarr", max_cells=2)
    assert summary["total_cells"] == 2
    assert len(arrays(tmp_path / "s.zarr")["count"]) == 4096 * len(catalog)
    run(config, catalog=catalog, store=tmp_path / "s.zarr")
    assert (arrays(tmp_path / "s.zarr")["count"] > 0).any()


@pytest.mark.parametrize("as_int", [False, True])
def test_morton_cell_chooses_one_cell(config, catalog, tmp_path, as_int):
    cell = list(catalog.cells)[-1]
    wanted = int(cell) if as_int else cell
    summary = run(config, catalog=catalog, store=tmp_path / "s.zarr", morton_cell=wanted)
    assert [entry["cell"] for entry in summary["results"]] == [cell]


def test_an_unknown_cell_is_refused_before_anything_is_written(config, catalog, tmp_path):
    with pytest.raises(UnknownCellError, match="the nearest are"):
        run(config, catalog=catalog, store=tmp_path / "s.zarr", morton_cell="1111111")
    assert not (tmp_path / "s.zarr").exists()


def test_a_dry_run_reports_and_touches_nothing(config, catalog, tmp_path):
    cells = {cell: (*granules, "/no/such/granule.h5") for cell, granules in catalog.cells.items()}
    summary = run(config, catalog=Catalog(6, cells), store=tmp_path / "s.zarr", dry_run=True)
    assert summary["dry_run"] is True
    assert set(summary) >= SUMMARY_KEYS
    counts = [len(granules) for granules in cells.values()]
    assert summary["granules_per_cell_min"] == min(counts)
    assert summary["granules_per_cell_max"] == max(counts)
    assert summary["granules_per_cell_mean"] == pytest.approx(np.mean(counts))
    assert summary["output_bytes"] == len(cells) * 4096 * (8 + 8 + 4 + 8 * 4)
    assert summary["max_workers"] == 4
    assert summary["results"] == []
    assert not (tmp_path / "s.zarr").exists()
    json.dumps(summary)


def test_a_dry_run_on_a_store_says_how_much_is_done(config, catalog, tmp_path):
    run(config, catalog=catalog, store=tmp_path / "s.zarr", max_cells=2)
    summary = run(config, catalog=catalog, store=tmp_path / "s.zarr", dry_run=True)
    assert summary["cells_skipped"] == 2


def test_a_store_of_another_config_is_refused_also_in_a_dry_run(config, catalog, tmp_path):
    run(config, catalog=catalog, store=tmp_path / "s.zarr", max_cells=1)
    variables = {name: s for name, s in config.statistics.items() if name != "h_max"}
    other = replace(config, aggregation=replace(config.aggregation, variables=variables))
    for dry_run in (True, False):
        with pytest.raises(StoreMismatchError, match="h_max"):
            run(other, catalog=catalog, store=tmp_path / "s.zarr", dry_run=dry_run)
    run(other, catalog=catalog, store=tmp_path / "s.zarr", overwrite=True)
    assert "h_max" not in arrays(tmp_path / "s.zarr")


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"catalog": None}, ConfigError, "catalog="),
        ({"store": None}, ConfigError, "store="),
        ({"max_cells": 0}, ConfigError, "at least 1"),
        ({"max_workers": 0}, BackendError, "at least 1"),
        ({"max_workers": 2.5}, BackendError, "whole number"),
        ({"backend": "lamda"}, BackendError, "unknown backend 'lamda'"),
        ({"executor": "threads"}, BackendError, "Executor"),
        ({"catalog": "none.json"}, FileNotFoundError, "no catalog"),
    ],
)
def test_bad_arguments_are_refused_before_any_work(
    config, catalog, tmp_path, arguments, error, words
):
    good = {"catalog": catalog, "store": tmp_path / "s.zarr"}
    with pytest.raises(error, match=words):
        run(config, **(good | arguments))
    assert not (tmp_path / "s.zarr").exists()


def test_a_path_in_place_of_a_config_says_how_to_load_one(catalog, tmp_path):
    with pytest.raises(ConfigError, match="load_config"):
        run("atl06.yaml", catalog=catalog, store=tmp_path / "s.zarr")


def test_a_catalog_of_another_parent_order_is_refused(config, region, tmp_path):
    other = Catalog.from_files(region, parent_order=5)
    with pytest.raises(CatalogError, match="parent order 5, the config says 6"):
        run(config, catalog=other, store=tmp_path / "s.zarr")


def test_a_listener_hears_every_cell_and_the_end(config, catalog, tmp_path):
    heard = []
    summary = run(config, catalog=catalog, store=tmp_path / "s.zarr", progress=heard.append)
    assert isinstance(heard[0], RunStarted)
    assert isinstance(heard[-1], RunFinished)
    cells = [event for event in heard if isinstance(event, CellFinished)]
    assert sum(event.observations for event in cells) == summary["total_obs"]
    assert {event.cell for event in cells} == set(catalog.cells)


class Broken(Executor):
    """Breaks down for good after some submissions."""

    def __init__(self, good):
        self._good, self._inner = good, ThreadPoolExecutor(1)

    def submit(self, fn, /, *args, **kwargs):
        if self._good == 0:
            raise RuntimeError("the cluster is gone")
        self._good -= 1
        return self._inner.submit(fn, *args, **kwargs)


@pytest.mark.parametrize("good", [0, 2])
def test_an_executor_that_breaks_down_loses_no_cell_from_the_summary(
    config, catalog, tmp_path, good
):
    summary = run(config, catalog=catalog, store=tmp_path / "s.zarr", executor=Broken(good))
    assert len(summary["results"]) == len(catalog)
    assert summary["cells_error"] == len(catalog) - good
    assert "the cluster is gone" in summary["errors"][0]["message"]


class Interrupting(Executor):
    """Behaves as if the user pressed Ctrl-C while the second cell runs."""

    def __init__(self):
        self.submitted = []

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        self.submitted.append(future)
        if len(self.submitted) == 2:
            future.set_exception(KeyboardInterrupt())
        elif len(self.submitted) == 1:
            future.set_result(fn(*args, **kwargs))
        return future


def test_an_interrupt_cancels_what_waits_and_keeps_what_is_done(config, catalog, tmp_path):
    executor, heard = Interrupting(), []
    with pytest.raises(KeyboardInterrupt):
        run(
            config,
            catalog=catalog,
            store=tmp_path / "s.zarr",
            executor=executor,
            max_workers=2,
            progress=heard.append,
        )
    assert all(future.cancelled() for future in executor.submitted[2:])
    assert isinstance(heard[-1], RunFinished)
    assert heard[-1].summary["cells_with_data"] == 1
    assert (arrays(tmp_path / "s.zarr")["count"] > 0).any()

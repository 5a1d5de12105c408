"""What others read from exports: values and places, cell by cell and pixel by pixel."""

from __future__ import annotations

import json
import sys

import geopandas
import numpy as np
import pyarrow.parquet as pq
import pyproj
import pytest
import rasterio
import shapely
from result_stores import GRID

import magg
from magg.errors import MissingExtraError, StoreError
from magg.exports import source
from magg.grid import centres, locate, nested_ids, words_of


def full(made):
    return made.count > 0


def centred(made, crs):
    lat, lon = centres(words_of(made.ids, GRID.child_order))
    return pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(lon, lat)


# --- GeoParquet ------------------------------------------------------------------------------


def test_each_cell_with_a_value_is_a_row_with_its_values(antarctic_store, tmp_path):
    path = magg.export(antarctic_store.path, tmp_path / "cells.parquet")
    frame = geopandas.read_parquet(path)
    has = full(antarctic_store)
    np.testing.assert_array_equal(frame["cell_ids"], antarctic_store.ids[has])
    np.testing.assert_array_equal(frame["count"], antarctic_store.count[has])
    np.testing.assert_array_equal(frame["h_mean"], antarctic_store.h_mean[has])
    np.testing.assert_array_equal(frame["h_low"], antarctic_store.h_mean[has] - 1)
    assert list(frame.columns) == ["cell_ids", "beams", "count", "h_low", "h_mean", "geometry"]
    assert frame.crs == pyproj.CRS("OGC:CRS84")


@pytest.mark.parametrize("crs", [None, "EPSG:4326", "EPSG:3031"])
def test_each_polygon_is_that_of_its_cell(antarctic_store, tmp_path, crs):
    path = magg.export(antarctic_store.path, tmp_path / "cells.parquet", crs=crs)
    frame = geopandas.read_parquet(path)
    assert frame.crs == pyproj.CRS(crs or "OGC:CRS84")
    has = full(antarctic_store)
    x, y = (v[has] for v in centred(antarctic_store, frame.crs))
    assert shapely.contains_xy(frame.geometry.values, x, y).all()
    assert frame.geometry.is_valid.all()
    # Their areas are equal on the ellipsoid: that of the Earth by the number of cells.
    equal_area = frame.to_crs("+proj=laea +lat_0=-90 +ellps=WGS84")
    np.testing.assert_allclose(
        equal_area.area, 510_065_621.724e6 / (12 * 4**GRID.child_order), rtol=2e-3
    )


def test_a_cell_across_the_antimeridian_is_cut_in_two(fiji_store, tmp_path):
    frame = geopandas.read_parquet(magg.export(fiji_store.path, tmp_path / "cells.parquet"))
    bounds = frame.bounds
    assert (bounds.minx >= -180).all()
    assert (bounds.maxx <= 180).all()
    lon = centres(words_of(fiji_store.ids[full(fiji_store)], GRID.child_order))[1]
    whole = frame.geom_type == "Polygon"
    assert (~whole).any()
    assert ((bounds.maxx - bounds.minx)[whole] < 1).all()
    assert (np.abs(lon[~whole]) > 179.8).all()
    assert frame.geometry.is_valid.all()
    areas = shapely.area(frame.geometry.values)
    np.testing.assert_allclose(areas[~whole], np.median(areas[whole]), rtol=0.05)
    told = json.loads(pq.read_metadata(tmp_path / "cells.parquet").metadata[b"geo"])
    assert told["columns"]["geometry"]["geometry_types"] == ["MultiPolygon", "Polygon"]


@pytest.mark.parametrize(("crs", "pole"), [("EPSG:3413", 90), ("EPSG:3031", -90)])
def test_around_a_pole_polygons_leave_no_gap(polar_store, tmp_path, crs, pole):
    part = (-180, min(pole, 0.9 * pole), 180, max(pole, 0.9 * pole))
    path = magg.export(polar_store.path, tmp_path / "p.parquet", crs=crs, within=part)
    frame = geopandas.read_parquet(path)
    assert len(frame)
    assert (frame.geom_type == "Polygon").all()
    plain = geopandas.read_parquet(
        magg.export(polar_store.path, tmp_path / "q.parquet", within=part)
    )
    assert plain.geometry.is_valid.all()
    np.testing.assert_allclose(plain.to_crs(crs).area, frame.area, rtol=0.05)


def test_a_cell_that_lacks_one_of_the_variables_has_null_there(antarctic_store, tmp_path):
    import shutil

    import zarr

    path = shutil.copytree(antarctic_store.path, tmp_path / "s.zarr")
    first = int(np.flatnonzero(full(antarctic_store))[0])
    group = zarr.open_group(path, mode="r+")["9"]
    group["h_mean"][first], group["beams"][first] = np.nan, -1
    table = pq.read_table(magg.export(path, tmp_path / "cells.parquet"))
    assert table["h_mean"][0].as_py() is None
    assert table["beams"][0].as_py() is None
    assert table["count"][0].as_py() == antarctic_store.count[first]
    assert table["h_mean"].null_count == 1


def test_batches_do_not_show_in_a_file(antarctic_store, tmp_path, monkeypatch):
    whole = pq.read_table(magg.export(antarctic_store.path, tmp_path / "a.parquet"))
    monkeypatch.setattr(source, "CELLS_AT_ONCE", 64)
    parts = magg.export(antarctic_store.path, tmp_path / "b.parquet")
    assert pq.ParquetFile(parts).num_row_groups == 3
    assert pq.read_table(parts).equals(whole)


def test_columns_say_what_they_are(antarctic_store, tmp_path):
    schema = pq.read_schema(magg.export(antarctic_store.path, tmp_path / "cells.parquet"))
    assert schema.field("h_mean").metadata[b"units"] == b"m"
    assert b"order 9" in schema.field("cell_ids").metadata[b"long_name"]


# --- GeoTIFF ---------------------------------------------------------------------------------


def expected_at(made, file):
    """Return the value of the cell at each pixel's centre, worked out pixel by pixel."""
    rows, columns = np.mgrid[: file.height, : file.width]
    step = file.transform
    x, y = step.c + (columns + 0.5) * step.a, step.f + (rows + 0.5) * step.e
    to_degrees = pyproj.Transformer.from_crs(file.crs, "EPSG:4326", always_xy=True)
    lon, lat = to_degrees.transform(x, y)
    lon = (np.asarray(lon) + 180) % 360 - 180
    ids = nested_ids(locate(np.ravel(lat), np.ravel(lon)), GRID.child_order)
    value = dict(zip(made.ids.tolist(), made.h_mean.tolist(), strict=True))
    found = [value.get(i, np.nan) for i in ids.tolist()]
    return np.array(found, dtype=np.float32).reshape(rows.shape)


@pytest.mark.parametrize(
    ("crs", "resolution"),
    [(None, None), ("EPSG:3031", 7_000), ("EPSG:4326", 0.07), ("EPSG:3412", None)],
)
def test_each_pixel_has_the_value_of_the_cell_at_its_centre(
    antarctic_store, tmp_path, crs, resolution
):
    path = magg.export(
        antarctic_store.path,
        tmp_path / "m.tif",
        variables=["h_mean"],
        crs=crs,
        resolution=resolution,
        within=(-106, -78, -98, -74),
    )
    with rasterio.open(path) as file:
        assert file.crs == rasterio.CRS.from_user_input(crs or "EPSG:3031")
        assert resolution is None or file.res == pytest.approx((resolution, resolution))
        np.testing.assert_array_equal(file.read(1), expected_at(antarctic_store, file))


def test_every_cell_has_a_pixel_at_the_usual_resolution(antarctic_store, tmp_path):
    path = magg.export(antarctic_store.path, tmp_path / "m.tif", within="antarctica")
    with rasterio.open(path) as file:
        assert file.res == (5_000, 5_000)
        assert file.descriptions == ("beams", "count", "h_low", "h_mean")
        assert file.units[3] == "m"
        assert np.isnan(file.nodata)
        count, height = file.read(2), file.read(4)
        lefts = np.array([file.bounds.left, file.bounds.top]) % 5_000
    assert (lefts == 0).all()
    seen = np.unique(height[np.isfinite(height)])
    has = full(antarctic_store)
    np.testing.assert_array_equal(seen, np.unique(antarctic_store.h_mean[has]))
    np.testing.assert_array_equal(np.isnan(count), np.isnan(height))
    np.testing.assert_array_equal(
        np.unique(count[np.isfinite(count)]), np.unique(antarctic_store.count[has])
    )


def test_a_part_has_no_pixel_of_the_cells_around_it(antarctic_store, tmp_path):
    cell = antarctic_store.cells[1] + "2"
    path = magg.export(antarctic_store.path, tmp_path / "m.tif", within=cell, resolution=500)
    with rasterio.open(path) as file:
        count = file.read(file.descriptions.index("count") + 1)
        heights = file.read(file.descriptions.index("h_mean") + 1)
        everywhere = expected_at(antarctic_store, file)
    inside = slice(GRID.children + 16, GRID.children + 32)
    assert set(np.unique(heights[np.isfinite(heights)])) <= set(antarctic_store.h_mean[inside])
    assert np.isfinite(count).sum() < np.isfinite(everywhere).sum()


def test_data_across_the_antimeridian_stay_together(fiji_store, tmp_path):
    path = magg.export(fiji_store.path, tmp_path / "m.tif", variables=["h_mean"])
    with rasterio.open(path) as file:
        assert file.crs.to_epsg() == 4326
        assert file.bounds.left < 180 < file.bounds.right < 185
        heights = file.read(1)
        np.testing.assert_array_equal(heights, expected_at(fiji_store, file))
    seen = np.unique(heights[np.isfinite(heights)])
    np.testing.assert_array_equal(seen, np.unique(fiji_store.h_mean[full(fiji_store)]))


def test_around_a_pole_no_pixel_is_missed(polar_store, tmp_path):
    part = (-180, 89.5, 180, 90)
    path = magg.export(polar_store.path, tmp_path / "m.tif", variables=["h_mean"], within=part)
    with rasterio.open(path) as file:
        assert file.crs.to_epsg() == 3413
        assert file.bounds.left < 0 < file.bounds.right
        row, column = file.index(1.0, 1.0)
        around = expected_at(polar_store, file)[row - 4 : row + 4, column - 4 : column + 4]
        np.testing.assert_array_equal(
            file.read(1)[row - 4 : row + 4, column - 4 : column + 4], around
        )
    assert np.isfinite(around).any()


def test_windows_do_not_show_in_a_file(antarctic_store, tmp_path, monkeypatch):
    from magg.exports import geotiff

    options = {"variables": ["h_mean"], "within": (-106, -78, -98, -74), "resolution": 1_000}
    with rasterio.open(magg.export(antarctic_store.path, tmp_path / "a.tif", **options)) as file:
        whole = file.read(1)
    monkeypatch.setattr(geotiff, "PIXELS_ASIDE", 64)
    with rasterio.open(magg.export(antarctic_store.path, tmp_path / "b.tif", **options)) as file:
        np.testing.assert_array_equal(file.read(1), whole)


# --- what cannot be --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("cells.shp", {}, "GeoParquet"),
        ("cells.parquet", {"resolution": 100}, "resolution"),
        ("m.tif", {"resolution": -1}, "resolution"),
        ("m.tif", {"resolution": 1e-3}, "pixels are too many"),
        ("m.tif", {"crs": "EPSG:999999"}, "no coordinate reference system"),
        ("m.tif", {"within": "greenland"}, "nothing to export"),
        ("cells.parquet", {"within": "greenland"}, "nothing to export"),
        ("cells.parquet", {"variables": ["h_none"]}, r"has \['beams', 'count'"),
        ("cells.parquet", {"crs": "+proj=ortho +lat_0=80"}, "no place"),
    ],
)
def test_what_cannot_be_exported_is_an_error_and_leaves_no_file(
    antarctic_store, tmp_path, name, options, told
):
    with pytest.raises((ValueError, StoreError), match=told):
        magg.export(antarctic_store.path, tmp_path / name, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("package", "name"), [("pyarrow", "c.parquet"), ("rasterio", "m.tif")])
def test_without_a_library_the_error_names_the_extra(
    antarctic_store, tmp_path, monkeypatch, package, name
):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"magg-healpix\[export\]"):
        magg.export(antarctic_store.path, tmp_path / name)


def test_the_command_line_exports_what_the_function_does(antarctic_store, tmp_path, capsys):
    from magg.cli import main

    arguments = ["export", antarctic_store.path, "-o", str(tmp_path / "m.tif")]
    arguments += ["--variables", "h_mean,count", "--crs", "EPSG:3031", "--resolution", "5000"]
    assert main([*arguments, "--order", "9", "--bbox=-106,-78,-98,-74"]) == 0
    assert "wrote" in capsys.readouterr().err
    with rasterio.open(tmp_path / "m.tif") as file:
        assert file.descriptions == ("h_mean", "count")
        np.testing.assert_array_equal(file.read(1), expected_at(antarctic_store, file))
    assert main(["export", antarctic_store.path, "-o", str(tmp_path / "m.png")]) == 2
    assert "GeoTIFF" in capsys.readouterr().err

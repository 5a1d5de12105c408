"""Maps of a store: what is drawn, where, and how it is labelled."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.collections import PolyCollection
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.path import Path as MplPath

from magg.errors import MissingExtraError, StoreError, StoreNotFoundError
from magg.grid import centres, locate, nested_ids, words_of
from magg.maps import plot
from magg.maps.cells import Cells, Variable, coarsened
from magg.projections import Plate, Polar, graticule, place_label, projection_for, side_km, wrap

LABELS = {"h_mean": ("mean land-ice height", "m"), "count": ("number of segments", "1")}


def store_of(path: Path, ids: np.ndarray, order: int = 12, empty: int = 0) -> Path:
    """Write a store of these cells, the last ``empty`` of them without data; return its path."""
    ids = np.asarray(ids, dtype=np.uint64)
    height = np.linspace(100, 200, ids.size).astype(np.float32)
    count = np.arange(1, ids.size + 1, dtype=np.int32)
    height[ids.size - empty :], count[ids.size - empty :] = np.nan, 0
    group = zarr.open_group(path, mode="w").create_group(str(order))
    group.attrs["dggs"] = {"name": "healpix", "refinement_level": order}
    columns = {"cell_ids": ids, "morton": words_of(ids, order), "h_mean": height, "count": count}
    for name, values in columns.items():
        array = group.create_array(
            name,
            shape=values.shape,
            dtype=values.dtype,
            chunks=(4096,),
            fill_value=np.nan if name == "h_mean" else 0,
        )
        array[:] = values
        if name in LABELS:
            array.attrs.update(zip(("long_name", "units"), LABELS[name], strict=True))
    return path


def around(latitude: float, longitude: float, cells: int, order: int = 12) -> np.ndarray:
    """Return the ids of cells on a short way east and north from a point."""
    step = 0.02 * np.arange(4 * cells)
    lon = wrap(np.asarray(longitude + step / np.cos(np.radians(latitude))))
    lat = latitude + 0.3 * step
    return np.unique(nested_ids(locate(lat, lon), order))[:cells]


def polygons(figure: Figure, panel: int = 0) -> np.ndarray:
    """Return the outlines of a panel, shape (cells, vertices, 2)."""
    found = [c for c in panels(figure)[panel].collections if isinstance(c, PolyCollection)]
    assert len(found) == 1
    return np.array([p.vertices for p in found[0].get_paths()])


def panels(figure: Figure) -> list:
    return [axes for axes in figure.axes if axes.get_title(loc="left")]


def words_in(figure: Figure) -> list[str]:
    texts = list(figure.texts)
    for axes in figure.axes:
        texts += axes.texts
    return [text.get_text() for text in texts]


@pytest.fixture
def antarctic(tmp_path: Path) -> Path:
    return store_of(tmp_path / "store.zarr", around(-75.2, -101.0, 40), empty=7)


# --- what is drawn ---------------------------------------------------------------------------


def test_every_cell_with_data_is_one_polygon_in_each_panel(antarctic: Path) -> None:
    figure = plot(antarctic)
    assert [axes.get_title(loc="left") for axes in panels(figure)] == ["h_mean", "count"]
    assert len(figure.axes) == 4  # with a colour bar each
    assert [len(polygons(figure, panel)) for panel in (0, 1)] == [33, 33]
    assert any("33 cells with data  ·  561 observations" in text for text in words_in(figure))


def test_polygons_are_around_the_centres_of_their_cells_and_have_their_area(
    antarctic: Path,
) -> None:
    outlines = polygons(plot(antarctic))
    group = zarr.open_group(antarctic)["12"]
    x, y = Polar(-1).forward(*centres(group["morton"][:33]))
    offset = outlines[:, :-1].mean(axis=1) - np.stack([x, y], axis=-1)
    assert np.abs(offset).max() < 0.05 * side_km(12)
    px, py = outlines[..., 0], outlines[..., 1]
    area = np.abs(np.sum(px[:, :-1] * py[:, 1:] - px[:, 1:] * py[:, :-1], axis=1)) / 2
    # Areas are equal on the ellipsoid; the map takes its latitudes for those of a sphere.
    assert area == pytest.approx(side_km(12) ** 2, rel=0.01)


def test_colours_and_bars_say_what_is_shown(antarctic: Path) -> None:
    figure = plot(antarctic)
    height, count = (axes.collections[0] for axes in panels(figure))
    assert (height.get_cmap().name, count.get_cmap().name) == ("viridis", "plasma")
    assert isinstance(count.norm, LogNorm)
    values = zarr.open_group(antarctic)["12/h_mean"][:33]
    assert (height.norm.vmin, height.norm.vmax) == pytest.approx(np.percentile(values, [2, 98]))
    bars = [axes.get_xlabel() for axes in figure.axes if not axes.get_title(loc="left")]
    assert bars == ["Mean land-ice height (m)", "Number of segments"]


def test_a_variable_that_fewer_cells_have_is_drawn_where_it_is(antarctic: Path) -> None:
    zarr.open_group(antarctic)["12/h_mean"][:3] = np.nan
    figure = plot(antarctic)
    assert [len(polygons(figure, panel)) for panel in (0, 1)] == [30, 33]


def test_one_variable_or_one_cell_is_enough(tmp_path: Path) -> None:
    store = store_of(tmp_path / "store.zarr", around(-75.2, -101.0, 1))
    figure = plot(store, variables=["h_mean"])
    assert len(figure.axes) == 2
    assert len(polygons(figure)) == 1
    assert any(text.startswith("1 cell with data") for text in words_in(figure))
    x0, x1 = panels(figure)[0].get_xlim()
    assert x1 - x0 > 5 * side_km(12)  # something of its surroundings


def test_an_open_group_is_drawn_as_well(antarctic: Path) -> None:
    assert len(polygons(plot(zarr.open_group(antarctic, mode="r")))) == 33


def test_no_cells_with_data_is_said_and_not_an_error(tmp_path: Path) -> None:
    store = store_of(tmp_path / "store.zarr", around(-75.2, -101.0, 5), empty=5)
    figure = plot(store, tmp_path / "map.png")
    assert words_in(figure) == ["No cells with data\nh_mean, count at order 12"]
    assert (tmp_path / "map.png").stat().st_size > 1_000


# --- images ----------------------------------------------------------------------------------


def test_many_cells_become_an_image_that_shows_each_of_them(tmp_path: Path) -> None:
    first = nested_ids(locate([70.0], [-45.0]), 5)[0] << np.uint64(14)
    store = store_of(tmp_path / "store.zarr", first + np.arange(25_000, dtype=np.uint64))
    figure = plot(store, variables=["count"])
    (image,) = panels(figure)[0].images
    shown = image.get_array()
    assert np.unique(shown.compressed()).size >= 0.999 * 25_000
    assert "drawn as pixels" in " ".join(words_in(figure))
    # The image lies where its cells are: the middle one is found at its place.
    x, y = Polar(1).forward(*centres(zarr.open_group(store)["12/morton"][12_500:12_501]))
    west, east, south, north = image.get_extent()
    row = int((north - y[0]) / (north - south) * shown.shape[0])
    column = int((x[0] - west) / (east - west) * shown.shape[1])
    assert shown[row, column] == 12_501


def test_cells_smaller_than_pixels_are_drawn_as_coarser_ones(tmp_path: Path) -> None:
    # One cell in 32, far apart: looking cells up pixel by pixel would miss most of them.
    ids = nested_ids(locate([70.0], [-45.0]), 2)[0] << np.uint64(20)
    store = store_of(tmp_path / "store.zarr", ids + np.arange(0, 4**10, 32, dtype=np.uint64))
    figure = plot(store, dpi=60)
    (image,) = panels(figure)[0].images
    assert image.get_array().count() > 0.3 * image.get_array().size
    assert any("drawn as pixels, means over cells of order 9" in t for t in words_in(figure))


def test_coarser_cells_have_the_mean_of_the_cells_that_have_a_value() -> None:
    ids = np.array([0, 1, 2, 3, 9, 12], dtype=np.uint64)
    values = np.array([1.0, np.nan, 3.0, np.nan, np.nan, 7.0])
    cells = Cells(5, words_of(ids, 5), [Variable("v", "V", values, counts=False)], None)
    coarse = coarsened(cells, 4)
    assert (coarse.order, nested_ids(coarse.words, 4).tolist()) == (4, [0, 2, 3])
    assert coarse.variables[0].values.tolist() == pytest.approx([2.0, np.nan, 7.0], nan_ok=True)


# --- places ----------------------------------------------------------------------------------


def test_the_antimeridian_is_no_edge(tmp_path: Path) -> None:
    store = store_of(tmp_path / "store.zarr", around(-20.0, 179.8, 30))
    figure = plot(store)
    outlines = polygons(figure)
    assert np.ptp(outlines, axis=1).max() < 3 * side_km(12)
    assert np.ptp(outlines[..., 0]) < 300  # not once around the Earth
    assert "180°" in words_in(figure)
    longitude = centres(zarr.open_group(store)["12/morton"][:])[1]
    assert longitude.min() < 0 < longitude.max()


@pytest.mark.parametrize("pole", [-90.0, 90.0])
def test_cells_at_a_pole_are_whole(tmp_path: Path, pole: float) -> None:
    lon = np.arange(-180.0, 180.0, 5.0)
    lat = np.repeat([pole * 0.9999, pole * 0.999], lon.size)
    ids = np.unique(nested_ids(locate(lat, np.tile(lon, 2)), 12))
    outlines = polygons(plot(store_of(tmp_path / "store.zarr", ids)))
    assert len(outlines) == ids.size
    assert np.ptp(outlines, axis=1).max() < 3 * side_km(12)


def test_the_whole_globe_is_drawn_within_its_edges(tmp_path: Path) -> None:
    figure = plot(store_of(tmp_path / "store.zarr", np.arange(12 * 4**3), order=3))
    assert panels(figure)[0].get_xlim() == pytest.approx((-20_015, 20_015), rel=1e-3)
    assert {"90°W", "0°", "90°E", "60°N", "60°S"} <= set(words_in(figure))
    assert not any(text.endswith("km") and text[0].isdigit() for text in words_in(figure))


@pytest.mark.parametrize(
    ("projection", "latitude", "longitude", "direction"),
    [
        (Polar(-1), -80.0, 0.0, (0, 1)),  # as EPSG:3031
        (Polar(-1), -80.0, 90.0, (1, 0)),
        (Polar(1), 80.0, -45.0, (0, -1)),  # as EPSG:3413
        (Polar(1), 80.0, 45.0, (1, 0)),
        (Plate(0.0, 170.0), 0.0, -170.0, (1, 0)),
        (Plate(0.0, 0.0), 20.0, 0.0, (0, 1)),
    ],
)
def test_maps_are_turned_as_usual(projection, latitude, longitude, direction) -> None:
    xy = np.array(projection.forward(np.array(latitude), np.array(longitude)))
    assert xy / np.linalg.norm(xy) == pytest.approx(direction, abs=1e-9)


@given(
    projection=st.sampled_from([Polar(1), Polar(-1), Plate(10.0, 0.0), Plate(-40.0, 175.0)]),
    latitude=st.floats(-89.0, 89.0),
    longitude=st.floats(-180.0, 179.9),
)
@settings(max_examples=200, deadline=None)
def test_projections_invert(projection, latitude: float, longitude: float) -> None:
    lat, lon = projection.inverse(*projection.forward(np.array(latitude), np.array(longitude)))
    assert float(lat) == pytest.approx(latitude, abs=1e-6)
    assert float(wrap(lon - longitude)) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("latitude", "longitude", "expected"),
    [
        ([-70.0, -80.0], [0.0, 90.0], Polar(-1)),
        ([60.0, 83.0], [-60.0, -20.0], Polar(1)),
        ([-70.0, 70.0], [0.0, 10.0], Plate(0.0, 5.0)),
        ([40.0, 50.0], [170.0, -170.0], Plate(45.0, -180.0)),
        ([40.0, 50.0], [-10.0, 10.0], Plate(45.0, 0.0)),
    ],
)
def test_the_map_suits_its_data(latitude, longitude, expected) -> None:
    assert projection_for(np.array(latitude), np.array(longitude)) == expected


def test_the_graticule_is_at_round_degrees_and_labelled_at_the_edges() -> None:
    x, y = Polar(-1).forward(np.array([-75.2]), np.array([-101.0]))
    view = (x[0] - 200, x[0] + 200, y[0] - 200, y[0] + 200)
    lines = graticule(Polar(-1), view)
    labels = {line.label for line in lines}
    assert {"100°W", "105°W", "74°S", "75°S", "76°S"} <= labels
    for line in lines:
        edge, lx, ly = place_label(line, view)
        gap = {"left": lx - view[0], "right": view[1] - lx, "bottom": ly - view[2]}
        assert abs(gap.get(edge, view[3] - ly)) < 5


def test_parallels_around_the_pole_are_labelled_inside() -> None:
    view = (-500.0, 500.0, -500.0, 500.0)
    places = {line.label: place_label(line, view) for line in graticule(Polar(1), view)}
    assert places["88°N"][0] == "inside"
    assert places["30°W"][0] == places["60°W"][0] == "bottom"  # 45 degrees west is down
    assert places["120°E"][0] == "top"


def test_cells_at_the_edges_of_the_map_show_on_both_and_leave_no_gap(tmp_path: Path) -> None:
    figure = plot(store_of(tmp_path / "store.zarr", np.arange(12 * 4**2), order=2))
    outlines = polygons(figure)
    west, east = panels(figure)[0].get_xlim()
    south, north = panels(figure)[0].get_ylim()
    assert len(outlines) > 12 * 4**2
    x, y = np.meshgrid(np.linspace(west, east, 60)[1:-1], np.linspace(south, north, 40)[1:-1])
    covered = np.zeros(x.shape, dtype=bool)
    for outline in outlines:
        covered |= MplPath(outline).contains_points(np.c_[x.ravel(), y.ravel()]).reshape(x.shape)
    assert covered.mean() > 0.995  # sides are drawn as eight straight pieces


# --- parts and rows --------------------------------------------------------------------------


def test_a_part_of_the_earth_is_drawn_and_counted_alone(antarctic: Path) -> None:
    store = zarr.open_group(antarctic, mode="r")
    lon = centres(store["12/morton"][:33])[1]
    figure = plot(antarctic, within=(-102.0, -77.0, float(np.median(lon)), -74.0))
    shown = len(polygons(figure))
    assert 15 <= shown <= 20
    assert any(text.startswith(f"{shown} cells with data") for text in words_in(figure))
    assert words_in(plot(antarctic, within="greenland")) == [
        "No cells with data\nh_mean, count at order 12"
    ]


def test_more_than_three_variables_go_into_rows(antarctic_store) -> None:
    figure = plot(antarctic_store.path, variables=["h_mean", "count", "h_low", "beams"])
    boxes = [axes.get_position() for axes in panels(figure)]
    assert len({round(box.y0, 3) for box in boxes}) == 2
    assert boxes[3].x0 == boxes[0].x0
    assert boxes[3].y1 < boxes[0].y0


def test_the_command_line_draws_parts_and_orders(antarctic: Path, tmp_path: Path, capsys) -> None:
    from magg.cli import main

    picture = tmp_path / "map.png"
    arguments = ["plot", str(antarctic), "-o", str(picture), "--variables", "h_mean"]
    assert main([*arguments, "--variable", "count", "--bbox=-102,-77,-100,-74"]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main([*arguments, "--order", "11"]) == 2
    assert "it has the orders [12]" in capsys.readouterr().err


# --- files, errors, manners ------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".pdf", b"%PDF")])
def test_the_file_is_of_the_kind_of_its_suffix(antarctic: Path, suffix: str, magic: bytes) -> None:
    path = antarctic.with_name("map" + suffix)
    plot(antarctic, path, title="West Antarctica")
    assert path.read_bytes().startswith(magic)


def test_a_missing_variable_is_named_beside_those_there_are(antarctic: Path) -> None:
    with pytest.raises(StoreError, match=r"no variable h_median; it has \['count', 'h_mean'\]"):
        plot(antarctic, variables=["h_mean", "h_median"])


def test_a_missing_order_or_store_is_an_error_that_says_so(antarctic: Path) -> None:
    with pytest.raises(StoreError, match=r"no cells of order 9; it has the orders \[12\]"):
        plot(antarctic, order=9)
    with pytest.raises(StoreNotFoundError):
        plot(antarctic.with_name("elsewhere.zarr"))
    with pytest.raises(ValueError, match="at least one variable"):
        plot(antarctic, variables=[])


def test_without_matplotlib_the_error_names_the_extra(antarctic: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(MissingExtraError, match=r"magg-healpix\[plot\]"):
        plot(antarctic)


def test_the_finest_order_is_drawn_unless_another_is_asked_for(antarctic: Path) -> None:
    root = zarr.open_group(antarctic)
    other = store_of(antarctic.with_name("coarse.zarr"), around(-75.2, -101.0, 3, 9), order=9)
    coarse = zarr.open_group(other)["9"]
    copy = root.create_group("9")
    for name, array in coarse.arrays():
        made = copy.create_array(
            name, shape=array.shape, dtype=array.dtype, fill_value=array.fill_value
        )
        made[:] = array[:]
    assert len(polygons(plot(antarctic))) == 33
    assert len(polygons(plot(antarctic, order=9))) == 3


def test_the_users_backend_and_settings_are_left_alone(antarctic: Path) -> None:
    script = (
        # Plain access to rcParams["backend"] would import pyplot by itself; copies do not.
        "import sys, matplotlib; before = matplotlib.rcParams.copy()\n"
        "from magg.maps import plot\n"
        "plot(sys.argv[1], sys.argv[1] + '.png')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert matplotlib.rcParams.copy() == before\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", script, str(antarctic)], check=True)

"""The simulated granules: where they fly, what they hold, and how they are laid out."""

from __future__ import annotations

import re
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magg.grid import separation
from magg.testing import (
    BEAMS,
    FILL,
    Track,
    granule_name,
    simulate_beam,
    simulate_granule,
    simulate_region,
    surface_height,
)

WEST_ANTARCTICA = Track(-75.2, -101.0, segments=3_000)
NAMES = {
    "latitude",
    "longitude",
    "h_li",
    "h_li_sigma",
    "atl06_quality_summary",
    "delta_time",
    "segment_id",
}


def steps_m(columns: dict) -> np.ndarray:
    """Return the metres from each position to the next, straight, on the WGS84 ellipsoid."""
    phi, lam = np.radians(columns["latitude"]), np.radians(columns["longitude"])
    e2 = 0.00669437999014
    normal = 6_378_137.0 / np.sqrt(1 - e2 * np.sin(phi) ** 2)
    x, y = normal * np.cos(phi) * np.cos(lam), normal * np.cos(phi) * np.sin(lam)
    z = normal * (1 - e2) * np.sin(phi)
    return np.linalg.norm(np.diff([x, y, z], axis=1), axis=0)


def read(path: Path, beam: str) -> dict:
    with h5py.File(path) as file:
        group = file[beam]["land_ice_segments"]
        return {name: group[name][:] for name in NAMES}


def runs(mask: np.ndarray) -> int:
    return int(np.count_nonzero(np.diff(mask.astype(int)) == 1))


# --- ground tracks ---------------------------------------------------------------------------


@pytest.mark.parametrize("latitude", [0.0, 45.0, -75.2, 88.0])
@pytest.mark.parametrize("ascending", [True, False])
def test_segments_are_twenty_metres_apart(latitude: float, ascending: bool) -> None:
    columns = simulate_beam(Track(latitude, 12.0, ascending=ascending, segments=2_000), "gt2r")
    assert np.abs(steps_m(columns) - 20.0).max() < 0.2


@given(
    latitude=st.floats(-88.0, 88.0),
    longitude=st.floats(-180.0, 180.0),
    ascending=st.booleans(),
    beam=st.sampled_from(BEAMS),
)
@settings(max_examples=60, deadline=None)
def test_every_track_passes_its_point_within_the_inclination(
    latitude: float, longitude: float, ascending: bool, beam: str
) -> None:
    track = Track(latitude, longitude, ascending=ascending, segments=801)
    rows = simulate_beam(track, beam)
    assert np.abs(rows["latitude"]).max() < 88.0 + 0.04  # the outer beams are 3.3 km off
    assert np.abs(rows["longitude"]).max() <= 180.0
    offset_m = separation(rows["latitude"][400], rows["longitude"][400], latitude, longitude)
    assert offset_m * 111_195 < 3_400
    assert np.isfinite(rows["latitude"]).all()


def test_a_whole_orbit_reaches_88_degrees_and_no_further() -> None:
    track = Track(60.0, 0.0, segments=1_000_000)
    rows = simulate_beam(track, "gt2l")
    assert rows["latitude"].max() == pytest.approx(88.0, abs=0.001)


def test_ascending_tracks_go_north_and_descending_ones_south() -> None:
    for ascending in (True, False):
        track = Track(-75.0, 10.0, ascending=ascending, segments=100)
        assert np.all((np.diff(simulate_beam(track, "gt1l")["latitude"]) > 0) == ascending)


def test_beams_lie_in_three_pairs_from_left_to_right() -> None:
    beams = [simulate_beam(WEST_ANTARCTICA, beam) for beam in BEAMS]
    middle = {c: np.array([rows[c][1_500] for rows in beams]) for c in ("latitude", "longitude")}
    gaps = steps_m(middle)
    assert gaps[0::2] == pytest.approx([90.0] * 3, rel=0.01)
    assert gaps[1::2] == pytest.approx([3_210.0] * 2, rel=0.01)
    # Flying north, left is west.
    assert np.all(np.diff(middle["longitude"]) > 0)


def test_a_beam_wanders_by_metres() -> None:
    columns = simulate_beam(Track(0.0, 0.0, inclination=90.0, segments=20_000), "gt2r")
    across = columns["longitude"] * 111_195
    assert 3.0 < np.ptp(across) < 25.0


@pytest.mark.parametrize("pole", [90.0, -90.0])
def test_a_track_of_inclination_90_goes_over_the_pole(pole: float) -> None:
    columns = simulate_beam(Track(pole, 30.0, inclination=90.0, segments=2_001), "gt2l")
    assert np.abs(columns["latitude"]).max() > 89.999
    assert np.abs(columns["longitude"]).max() <= 180.0
    assert np.abs(steps_m(columns) - 20.0).max() < 0.2
    assert np.ptp(columns["longitude"]) > 170  # in along one meridian, out along the opposite


def test_a_track_crosses_the_antimeridian_without_a_seam() -> None:
    columns = simulate_beam(Track(-70.0, 180.0, segments=5_000, inclination=98.0), "gt2l")
    longitude = columns["longitude"]
    assert longitude.min() < -179.0
    assert longitude.max() > 179.0
    assert np.abs(longitude).max() <= 180.0
    assert np.abs(steps_m(columns) - 20.0).max() < 0.2
    heights = surface_height(columns["latitude"], longitude)
    assert np.abs(np.diff(heights)).max() < 0.2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"latitude": 89.0}, "reaches latitudes up to 88"),
        ({"latitude": float("nan")}, "reaches latitudes"),
        ({"longitude": float("inf")}, "longitude must be finite"),
        ({"segments": -1}, "segments must be >= 0"),
        ({"rgt": 1388}, "rgt 1 to 1387"),
    ],
)
def test_an_impossible_track_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Track(**{"latitude": 0.0, "longitude": 0.0} | arguments)


@pytest.mark.parametrize(
    ("latitude", "ascending", "region"),
    [
        (10, True, 1),
        (70, True, 3),
        (85, False, 4),
        (70, False, 5),
        (-70, False, 10),
        (-85, True, 11),
        (-70, True, 12),
        (-10, True, 14),
    ],
)
def test_names_follow_the_convention(latitude: float, ascending: bool, region: int) -> None:
    track = Track(latitude, 0.0, ascending=ascending)
    assert granule_name(track) == f"ATL06_20190416093911_027703{region:02d}_007_01.h5"


# --- the surface and the measurements --------------------------------------------------------


def test_the_surface_is_one_value_at_a_pole_and_does_not_see_the_antimeridian() -> None:
    longitude = np.linspace(-180, 180, 37)
    for pole in (-90.0, 90.0):
        assert np.ptp(surface_height(pole, longitude)) < 1e-6
    latitude = np.linspace(-90, 90, 181)
    assert surface_height(latitude, 180.0) == pytest.approx(surface_height(latitude, -180.0))
    heights = surface_height(latitude[:, None], longitude)
    assert heights.shape == (181, 37)
    assert 0 < heights.min() < heights.max() < 4_500


def test_good_segments_recover_the_surface_within_their_standard_errors() -> None:
    rows = simulate_beam(Track(-75.2, -101.0, segments=40_000), "gt1r", seed=5)
    good = (rows["atl06_quality_summary"] == 0) & (rows["h_li"] != FILL)
    assert good.sum() > 25_000
    truth = surface_height(rows["latitude"], rows["longitude"])
    scaled = ((rows["h_li"] - truth) / rows["h_li_sigma"])[good]
    assert scaled.mean() == pytest.approx(0.0, abs=0.03)
    assert scaled.std() == pytest.approx(1.0, abs=0.03)
    sigma = rows["h_li_sigma"][good]
    assert np.float32(0.01) <= sigma.min() < 0.02
    assert 0.25 < sigma.max() <= np.float32(0.3)


def test_without_noise_good_segments_are_the_surface() -> None:
    rows = simulate_beam(WEST_ANTARCTICA, "gt1l", noise=False, bad_fraction=0, fill_fraction=0)
    truth = surface_height(rows["latitude"], rows["longitude"])
    assert np.array_equal(rows["h_li"], truth.astype(np.float32))


def test_bad_segments_come_in_stretches_and_are_far_off() -> None:
    rows = simulate_beam(Track(-75.2, -101.0, segments=100_000), "gt3l", bad_fraction=0.2)
    bad = rows["atl06_quality_summary"] == 1
    assert bad.mean() == pytest.approx(0.2, abs=0.04)
    assert bad.sum() / runs(bad) == pytest.approx(60, rel=0.25)
    truth = surface_height(rows["latitude"], rows["longitude"])
    shown = bad & (rows["h_li"] != FILL)
    assert (rows["h_li"] - truth)[shown].min() > 10


def test_fill_values_come_in_stretches_in_both_columns_also_among_good_segments() -> None:
    rows = simulate_beam(Track(-75.2, -101.0, segments=100_000), "gt3r", fill_fraction=0.1)
    missing = rows["h_li"] == FILL
    assert np.array_equal(missing, rows["h_li_sigma"] == FILL)
    assert missing.mean() == pytest.approx(0.1, abs=0.03)
    assert missing.sum() / runs(missing) == pytest.approx(30, rel=0.25)
    assert np.any(missing & (rows["atl06_quality_summary"] == 0))


@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.995, 1.0])
def test_fractions_are_kept_to_their_ends(fraction: float) -> None:
    rows = simulate_beam(Track(0, 0, segments=200_000), "gt1l", bad_fraction=fraction)
    assert rows["atl06_quality_summary"].mean() == pytest.approx(fraction, abs=0.03)
    assert fraction not in (0.0, 1.0) or rows["atl06_quality_summary"].mean() == fraction


def test_segments_are_numbered_and_timed_along_the_track() -> None:
    rows = simulate_beam(WEST_ANTARCTICA, "gt1l")
    assert np.all(np.diff(rows["segment_id"]) == 1)
    assert rows["delta_time"][0] == 40_642_751.0  # 2019-04-16T09:39:11 since 2018-01-01
    assert np.diff(rows["delta_time"]) == pytest.approx(0.0028, abs=1e-6)


# --- files -----------------------------------------------------------------------------------


def test_a_granule_holds_what_was_simulated(tmp_path: Path) -> None:
    path = simulate_granule(tmp_path / "a.h5", WEST_ANTARCTICA, seed=3)
    with h5py.File(path) as file:
        assert set(BEAMS) < set(file)
        assert file["orbit_info/rgt"][0] == 277
    for beam in ("gt1l", "gt3r"):
        rows = read(path, beam)
        for name, expected in simulate_beam(WEST_ANTARCTICA, beam, seed=3).items():
            assert rows[name].dtype == expected.dtype
            assert rows[name].tobytes() == expected.tobytes()


def test_equal_arguments_give_equal_files(tmp_path: Path) -> None:
    a, b, c = (
        simulate_granule(tmp_path / f"{n}.h5", WEST_ANTARCTICA, seed=seed)
        for n, seed in enumerate((7, 7, 8))
    )
    assert a.read_bytes() == b.read_bytes() != c.read_bytes()


def test_beams_differ_and_do_not_depend_on_which_are_written(tmp_path: Path) -> None:
    whole = simulate_granule(tmp_path / "whole.h5", WEST_ANTARCTICA)
    part = simulate_granule(tmp_path / "part.h5", WEST_ANTARCTICA, beams=["gt3r", "gt2l"])
    with h5py.File(part) as file:
        assert [name for name in file if name.startswith("gt")] == ["gt2l", "gt3r"]
    assert np.array_equal(read(whole, "gt3r")["h_li"], read(part, "gt3r")["h_li"])
    assert not np.array_equal(read(whole, "gt3l")["h_li"], read(whole, "gt3r")["h_li"])


def test_beams_may_be_empty_or_of_other_length(tmp_path: Path) -> None:
    path = simulate_granule(tmp_path / "a.h5", WEST_ANTARCTICA, lengths={"gt1l": 0, "gt2r": 17})
    sizes = {beam: read(path, beam)["h_li"].size for beam in BEAMS}
    assert sizes == dict.fromkeys(BEAMS, 3_000) | {"gt1l": 0, "gt2r": 17}


def test_all_segments_may_be_bad(tmp_path: Path) -> None:
    path = simulate_granule(tmp_path / "a.h5", WEST_ANTARCTICA, bad_fraction=1)
    assert all(read(path, beam)["atl06_quality_summary"].all() for beam in BEAMS)


def test_unknown_beams_and_fractions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown beams \['gt4l'\]"):
        simulate_granule(tmp_path / "a.h5", WEST_ANTARCTICA, beams=["gt4l"])
    with pytest.raises(ValueError, match="between 0 and 1"):
        simulate_granule(tmp_path / "a.h5", WEST_ANTARCTICA, bad_fraction=1.5)


def chunk_owners(path: Path) -> list[str]:
    """Return the names of datasets of gt2l, of 8 bytes a row, in the order of their chunks."""
    owners = []
    with h5py.File(path) as file:
        for name in ("latitude", "longitude"):
            dataset = file["gt2l/land_ice_segments"][name].id
            infos = (dataset.get_chunk_info(i) for i in range(dataset.get_num_chunks()))
            owners += [(info.byte_offset, name) for info in infos]
    return [name for _, name in sorted(owners)]


def test_chunks_of_the_datasets_alternate_unless_paged(tmp_path: Path) -> None:
    track = Track(-75.2, -101.0, segments=25_000)
    classic = simulate_granule(tmp_path / "classic.h5", track, beams=["gt2l"])
    paged = simulate_granule(tmp_path / "paged.h5", track, beams=["gt2l"], paged=True)
    assert chunk_owners(classic) == ["latitude", "longitude"] * 3
    assert chunk_owners(paged) in (
        ["latitude"] * 3 + ["longitude"] * 3,
        ["longitude"] * 3 + ["latitude"] * 3,
    )
    with h5py.File(paged) as file:
        plist = file.id.get_create_plist()
        assert plist.get_file_space_strategy()[0] == h5py.h5f.FSPACE_STRATEGY_PAGE
        assert plist.get_file_space_page_size() == 8 * 2**20
    rows = read(classic, "gt2l")
    assert all(np.array_equal(v, rows[name]) for name, v in read(paged, "gt2l").items())


def test_extra_datasets_pad_every_beam(tmp_path: Path) -> None:
    path = simulate_granule(tmp_path / "a.h5", WEST_ANTARCTICA, extra_datasets=3)
    with h5py.File(path) as file:
        extra = file["gt1r/land_ice_segments/extra"]
        assert [(d.dtype, d.shape) for d in extra.values()] == [(np.float32, (3_000,))] * 3


def test_a_region_is_crossed_by_ascending_and_descending_tracks(tmp_path: Path) -> None:
    paths = simulate_region(
        tmp_path / "new", latitude=-75.2, longitude=179.0, granules=6, segments=3_000, width_km=200
    )
    assert [p.name for p in paths] == sorted({p.name for p in paths})
    convention = re.compile(r"ATL06_\d{14}_\d{4}\d{2}(10|12)_007_01\.h5")
    assert all(convention.fullmatch(p.name) for p in paths)
    northward = []
    for number, path in enumerate(paths):
        with h5py.File(path) as file:
            beams = [name for name in file if name.startswith("gt")]
        assert beams == list(BEAMS[2:] if number == 1 else BEAMS)
        rows = read(path, "gt2l")
        northward.append(bool(rows["latitude"][-1] > rows["latitude"][0]))
        middle = rows["latitude"][1_500], rows["longitude"][1_500]
        assert separation(*middle, -75.2, 179.0) * 111.2 < 105
    assert northward == [True, False] * 3


def test_a_region_passes_options_on_and_is_deterministic(tmp_path: Path) -> None:
    a, b = (
        simulate_region(
            tmp_path / name, latitude=70, longitude=-50, granules=2, segments=200, beams=["gt1l"]
        )
        for name in "ab"
    )
    assert [p.name for p in a] == [p.name for p in b]
    assert [p.read_bytes() for p in a] == [p.read_bytes() for p in b]
    with h5py.File(a[1]) as file:
        assert "gt1l" in file
        assert "gt2l" not in file


# --- against a real granule ------------------------------------------------------------------

REAL = Path(__file__).parents[3] / "shared/atl06/processed_ATL06_20190416093911_02770303_002_01.h5"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory):
    if not REAL.exists():
        pytest.skip("no real ATL06 granules beside the repository")
    path = simulate_granule(tmp_path_factory.mktemp("pair") / "a.h5", Track(71.0, -50.0))
    with h5py.File(REAL) as real, h5py.File(path) as ours:
        yield real, ours


def attributes(target: h5py.Dataset | h5py.Group) -> dict:
    """Return the attributes but for prose and the references of dimension scales."""
    left_out = {"description", "Description", "DIMENSION_LIST", "REFERENCE_LIST", "NAME", "CLASS"}
    return {
        name: (value.dtype, value.tolist())
        for name, value in target.attrs.items()
        if name not in left_out
    }


@pytest.mark.parametrize("name", sorted(NAMES))
def test_datasets_are_stored_as_in_a_real_granule(pair, name: str) -> None:
    real, ours = (file["gt1l/land_ice_segments"][name] for file in pair)
    assert attributes(ours) == attributes(real)
    for property_ in ("dtype", "chunks", "maxshape", "compression", "compression_opts"):
        assert getattr(ours, property_) == getattr(real, property_)
    assert (ours.shuffle, ours.fillvalue) == (real.shuffle, real.fillvalue)
    assert ("DIMENSION_LIST" in ours.attrs) == ("DIMENSION_LIST" in real.attrs)


@pytest.mark.parametrize("beam", BEAMS)
def test_beams_are_described_as_in_a_real_granule(pair, beam: str) -> None:
    real, ours = (file[beam] for file in pair)
    assert attributes(ours) == attributes(real)


def test_segment_ids_are_those_of_a_real_granule_at_the_same_latitude(pair) -> None:
    real, ours = (file["gt1l/land_ice_segments"] for file in pair)
    at = np.searchsorted(ours["latitude"][:], real["latitude"][900])
    # The ellipsoid and the rotation of the Earth, which tracks leave out, shift them a little.
    assert ours["segment_id"][at] == pytest.approx(real["segment_id"][900], rel=0.01)

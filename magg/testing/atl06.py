"""How ATL06 granules are laid out in HDF5: groups, attributes, chunks and filters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from magg.testing.tracks import Track

if TYPE_CHECKING:
    import h5py

BEAMS = ("gt1l", "gt1r", "gt2l", "gt2r", "gt3l", "gt3r")
FILL = np.float32(3.4028235e38)  # the largest float32: what ATL06 writes where there is no value
CHUNK_ROWS = 10_000
PAGE_BYTES = 8 << 20  # of the cloud-optimised files since release 007

Columns = dict[str, NDArray[Any]]


def write_header(file: h5py.File, track: Track) -> None:
    """Write what describes the granule as a whole: its attributes and those of its orbit."""
    file.attrs.update(
        {
            "Conventions": np.bytes_("CF-1.6"),
            "short_name": np.bytes_("ATL06"),
            "level": np.bytes_("3A"),
            "title": np.bytes_("Simulated ATLAS/ICESat-2 L3A Land Ice Height"),
            "source": np.bytes_("magg.testing.simulate_granule"),
        }
    )
    for name, value, attributes in (
        ("ancillary_data/atlas_sdp_gps_epoch", 1_198_800_018.0, _GPS_EPOCH),
        ("ancillary_data/start_delta_time", track.seconds, _START),
        ("orbit_info/rgt", np.int16(track.rgt), _RGT),
        ("orbit_info/cycle_number", np.int8(track.cycle), _CYCLE),
        ("orbit_info/sc_orient", np.int8(0), _ORIENTATION),
    ):
        dataset = file.create_dataset(name, data=np.array([value]), maxshape=(None,), chunks=(1,))
        _set(dataset, attributes)


def write_beam(file: h5py.File, beam: str, columns: Columns, *, interleave: bool) -> None:
    """Write the rows of a beam, chunked and compressed as in real files.

    Parameters
    ----------
    file : h5py.File
        Open for writing, without a chunk cache where the order of the chunks matters.
    beam : str
        One of `BEAMS`.
    columns : dict of str to ndarray, shape (n,)
        Datasets of ``land_ice_segments``, among them ``delta_time``.
    interleave : bool
        Write the first chunk of every dataset, then the second of every dataset and so on;
        otherwise dataset by dataset.
    """
    number = BEAMS.index(beam)
    _set(
        file.create_group(beam),
        {
            "groundtrack_id": beam,
            "atlas_beam_type": ("strong", "weak")[number % 2],  # flying backward, as sc_orient 0
            "atlas_pce": f"pce{number // 2 + 1}",
            "atlas_spot_number": str(number + 1),
            "atmosphere_profile": f"profile_{number // 2 + 1}",
            "sc_orientation": "Backward",
        },
    )
    group = file[beam].create_group("land_ice_segments")
    n = columns["delta_time"].size
    datasets = {}
    for name, values in columns.items():
        attributes = _ATTRIBUTES.get(name, _EXTRA)
        datasets[name] = group.create_dataset(
            name,
            shape=(n,),
            maxshape=(None,),
            chunks=(CHUNK_ROWS,),
            dtype=values.dtype,
            compression="gzip",
            compression_opts=6,
            shuffle=values.dtype.kind == "i",  # real files shuffle integers only
            fillvalue=attributes.get("_FillValue"),
        )
        _set(datasets[name], attributes)
    datasets["delta_time"].make_scale()
    for name, dataset in datasets.items():
        if name != "delta_time":
            dataset.dims[0].attach_scale(datasets["delta_time"])

    step = CHUNK_ROWS if interleave else max(n, 1)
    for start in range(0, n, step):
        for name, dataset in datasets.items():
            dataset[start : start + step] = columns[name][start : start + step]


def _set(target: h5py.Group | h5py.Dataset, attributes: dict[str, Any]) -> None:
    """Set attributes, strings as fixed-length bytes like those of real files."""
    for name, value in attributes.items():
        target.attrs[name] = np.bytes_(value) if isinstance(value, str) else value


_SECONDS = "seconds since 2018-01-01"
_PHYSICAL, _QUALITY, _REFERENCE = (
    "physicalMeasurement",
    "qualityInformation",
    "referenceInformation",
)
_ALL = "delta_time latitude longitude"
# Attributes of the datasets as in real files, without their long descriptions.
_ATTRIBUTES: dict[str, dict[str, Any]] = {
    "delta_time": {
        "contentType": _REFERENCE,
        "coordinates": "latitude longitude",
        "long_name": "Elapsed GPS seconds",
        "source": "section 4.4",
        "standard_name": "time",
        "units": _SECONDS,
    },
    "latitude": {
        "contentType": _PHYSICAL,
        "coordinates": "delta_time longitude",
        "long_name": "Latitude",
        "source": "section 3.10",
        "standard_name": "latitude",
        "units": "degrees_north",
        "valid_min": -90.0,
        "valid_max": 90.0,
    },
    "longitude": {
        "contentType": _PHYSICAL,
        "coordinates": "delta_time latitude",
        "long_name": "Longitude",
        "source": "section 3.10",
        "standard_name": "longitude",
        "units": "degrees_east",
        "valid_min": -180.0,
        "valid_max": 180.0,
    },
    "h_li": {
        "_FillValue": FILL,
        "contentType": _PHYSICAL,
        "coordinates": _ALL,
        "long_name": "Land Ice height",
        "source": "section 4.4",
        "units": "meters",
    },
    "h_li_sigma": {
        "_FillValue": FILL,
        "contentType": _QUALITY,
        "coordinates": _ALL,
        "long_name": "Expected RMS segment misfit",
        "source": "section 4.4",
        "units": "meters",
    },
    "atl06_quality_summary": {
        "contentType": _QUALITY,
        "coordinates": _ALL,
        "flag_meanings": "best_quality potential_problem",
        "flag_values": np.array([0, 1], dtype=np.int8),
        "long_name": "ATL06_Quality_Summary",
        "source": "section 4.3",
        "units": "1",
        "valid_min": np.int8(0),
        "valid_max": np.int8(1),
    },
    "segment_id": {
        "_FillValue": np.int32(0),
        "contentType": _REFERENCE,
        "coordinates": _ALL,
        "long_name": "Reference Point, m",
        "source": "section 3.1.2.1",
        "units": "1",
    },
}
_EXTRA = {"_FillValue": FILL, "coordinates": _ALL, "long_name": "Padding", "units": "1"}
_GPS_EPOCH = {
    "long_name": "ATLAS Epoch Offset",
    "units": "seconds since 1980-01-06T00:00:00.000000Z",
}
_START = {"long_name": "ATLAS Start Time (Actual)", "units": _SECONDS}
_RGT = {"long_name": "Reference Ground track", "units": "counts"}
_CYCLE = {"long_name": "Cycle Number", "units": "counts"}
_ORIENTATION = {"long_name": "Spacecraft Orientation", "units": "1"}

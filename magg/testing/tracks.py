"""Ground tracks like ICESat-2's over a surface that is known everywhere."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import ArrayLike, NDArray

SPACING_M = 20.0  # ATL06 segments are 40 m long and overlap by half
SEGMENT_SECONDS = 0.0028  # 20 m at 7 km/s over the ground
EPOCH = datetime(2018, 1, 1, tzinfo=UTC)  # of delta_time
EARTH_RADIUS_M = 6_371_007.2  # sphere of the same area as WGS84
SEGMENTS_PER_ORBIT = round(2 * math.pi * EARTH_RADIUS_M / SPACING_M)


@dataclass(frozen=True, slots=True)
class Track:
    """The reference ground track of one granule: a piece of a great circle.

    Parameters
    ----------
    latitude, longitude : float
        Degrees of the point that the middle of the track passes.
    ascending : bool
        Whether the satellite flies north there.
    segments : int
        Rows of every beam, 20 m apart.
    inclination : float
        Degrees between the orbit and the equator. 92 for ICESat-2, which so never comes closer
        to a pole than two degrees; 90 for a track over the pole itself.
    start : datetime
        Time of the first segment; UTC if it has no time zone.
    rgt, cycle : int
        Number of the reference ground track (1 to 1387) and of its repetition (1 to 99).

    Raises
    ------
    ValueError
        If no orbit of this inclination passes the point, or a number is out of range.

    Notes
    -----
    Latitudes on the sphere are used as geodetic ones, which leaves the segments within 0.7 % of
    20 m apart on the ellipsoid. The rotation of the Earth under the orbit is left out.
    """

    latitude: float
    longitude: float
    ascending: bool = True
    segments: int = 10_000
    inclination: float = 92.0
    start: datetime = datetime(2019, 4, 16, 9, 39, 11, tzinfo=UTC)
    rgt: int = 277
    cycle: int = 3

    def __post_init__(self) -> None:
        highest = min(self.inclination, 180.0 - self.inclination)
        if not abs(self.latitude) <= highest:
            raise ValueError(
                f"a track of inclination {self.inclination} reaches latitudes up to {highest}, "
                f"not {self.latitude}"
            )
        if not math.isfinite(self.longitude):
            raise ValueError(f"longitude must be finite, not {self.longitude}")
        if self.segments < 0 or not 1 <= self.rgt <= 1387 or not 1 <= self.cycle <= 99:
            raise ValueError("segments must be >= 0, rgt 1 to 1387, cycle 1 to 99")

    @property
    def region(self) -> int:
        """ATL06 region of the passed point: 1 to 14, counted along the orbit from the equator."""
        band = sum(abs(self.latitude) >= edge for edge in (27.0, 60.0, 80.0))
        if self.latitude >= 0:
            return 1 + band if self.ascending else 7 - band
        return 14 - band if self.ascending else 8 + band

    @property
    def seconds(self) -> float:
        """Time of the first segment, in seconds since 2018-01-01 (as ``delta_time``)."""
        start = self.start if self.start.tzinfo else self.start.replace(tzinfo=UTC)
        return (start - EPOCH).total_seconds()


def granule_name(track: Track, *, release: int = 7, version: int = 1) -> str:
    """Return a granule's file name, ``ATL06_YYYYMMDDhhmmss_ttttccss_rrr_vv.h5``."""
    return (
        f"ATL06_{EPOCH + timedelta(seconds=track.seconds):%Y%m%d%H%M%S}"
        f"_{track.rgt:04d}{track.cycle:02d}{track.region:02d}_{release:03d}_{version:02d}.h5"
    )


def surface_height(latitude: ArrayLike, longitude: ArrayLike) -> NDArray[np.float64]:
    """Return the height of the simulated ice sheet: a dome on each pole, gently undulating.

    Parameters
    ----------
    latitude, longitude : array_like of float
        Degrees, of shapes that broadcast; any longitude, any latitude in [-90, 90].

    Returns
    -------
    ndarray of float64
        Metres. Smooth everywhere, also at the poles and across the antimeridian, being a
        function of the unit vector: a polynomial of its third component plus plane waves 140 to
        900 km long. Slopes stay below 1 %, and a plane fits it to millimetres over 1.6 km, so
        that a mean over a cell of order 12 is the height at the mean position.
    """
    phi, lam = np.broadcast_arrays(np.radians(latitude), np.radians(longitude))
    x, y, z = np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)
    height = 600.0 + 3_000.0 * z**4
    waves = (
        (240.0, 900e3, (0.60, -0.64, 0.48)),
        (70.0, 420e3, (-0.80, 0.36, 0.48)),
        (25.0, 250e3, (0.28, 0.96, 0.0)),
        (8.0, 140e3, (0.64, 0.48, -0.60)),
    )
    for amplitude, wavelength, (kx, ky, kz) in waves:
        phase = 2 * math.pi * EARTH_RADIUS_M / wavelength * (kx * x + ky * y + kz * z)
        height = height + amplitude * np.sin(phase)
    return np.asarray(height)


def ground_track(
    track: Track, along: NDArray[np.float64], across: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """Return latitudes, longitudes and the first segment id (counted from the equator).

    ``along`` and ``across`` are metres from the passed point, forwards and to the right.
    """
    phi, lam = math.radians(track.latitude), math.radians(track.longitude)
    point = np.array([math.cos(phi) * math.cos(lam), math.cos(phi) * math.sin(lam), math.sin(phi)])
    north = np.array(
        [-math.sin(phi) * math.cos(lam), -math.sin(phi) * math.sin(lam), math.cos(phi)]
    )
    east = np.array([-math.sin(lam), math.cos(lam), 0.0])
    # Clairaut: cos(inclination) = cos(latitude) * sin(azimuth). The sine of the complement is
    # exactly 0 for an inclination of 90 degrees, where both cosines vanish at the pole.
    sine = math.sin(math.radians(90.0 - track.inclination)) / math.cos(phi)
    sine = min(1.0, max(-1.0, sine))
    cosine = math.sqrt(1.0 - sine * sine) * (1.0 if track.ascending else -1.0)
    forward = sine * east + cosine * north
    right = np.cross(forward, point)

    s, c = (along / EARTH_RADIUS_M)[:, None], (across / EARTH_RADIUS_M)[:, None]
    unit = np.cos(c) * (np.cos(s) * point + np.sin(s) * forward) + np.sin(c) * right
    latitude = np.degrees(np.arctan2(unit[:, 2], np.hypot(unit[:, 0], unit[:, 1])))
    longitude = np.degrees(np.arctan2(unit[:, 1], unit[:, 0]))
    passed = math.atan2(point[2], forward[2]) * EARTH_RADIUS_M  # metres since the ascending node
    return latitude, longitude, round((passed + (along[0] if along.size else 0.0)) / SPACING_M)

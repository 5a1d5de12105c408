"""The two map projections that maps of a store use, between degrees and kilometres.

Data of high latitudes go on a Lambert azimuthal equal-area map about the pole, with the
orientation of EPSG:3031 (Greenwich up) in the south and of EPSG:3413 (45 degrees west down) in
the north; anything else on an equirectangular map, true to scale at its middle latitude. Both
treat the Earth as a sphere (Snyder 1987, Map Projections: A Working Manual, USGS Professional
Paper 1395, pp. 90-91 and 182-190).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

EARTH_RADIUS_KM = 6371.0072  # sphere of the same area as WGS84
POLAR_MEDIAN, POLAR_LEAST = 58.0, 45.0  # degrees: what makes data polar
_KM_PER_DEGREE = math.pi * EARTH_RADIUS_KM / 180.0

Floats = NDArray[np.float64]
View = tuple[float, float, float, float]  # west, east, south, north of a map in kilometres


@dataclass(frozen=True, slots=True)
class Polar:
    """Lambert azimuthal equal-area about a pole.

    Parameters
    ----------
    pole : int
        1 for the north, -1 for the south.
    """

    pole: int

    @property
    def name(self) -> str:
        """What a caption calls it."""
        return (
            f"Lambert azimuthal equal-area about the {'north' if self.pole > 0 else 'south'} pole"
        )

    def forward(self, lat: Floats, lon: Floats) -> tuple[Floats, Floats]:
        """Return x and y in kilometres of points in degrees."""
        rho = 2 * EARTH_RADIUS_KM * np.sin(np.radians(90.0 - self.pole * lat) / 2)
        theta = np.radians(lon + self._turn)
        return rho * np.sin(theta), -self.pole * rho * np.cos(theta)

    def inverse(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Return latitude and longitude in degrees; NaN beyond the map."""
        sine = np.hypot(x, y) / (2 * EARTH_RADIUS_KM)
        colatitude = 2 * np.degrees(np.arcsin(np.where(sine <= 1.0, sine, np.nan)))
        theta = np.degrees(np.arctan2(x, -self.pole * y))
        return self.pole * (90.0 - colatitude), wrap(theta - self._turn)

    def close_up(self, x: Floats, _middle: Floats) -> Floats:
        """Return x of outlines, shape (n, vertices), unbroken: there is no seam in this map."""
        return x

    def copies(self, x: Floats) -> tuple[NDArray[np.int64], Floats]:
        """Return which outlines are drawn, and how far aside: each where it is."""
        return np.arange(len(x)), np.zeros(len(x))

    @property
    def extent(self) -> View:
        """The whole map."""
        edge = 2 * EARTH_RADIUS_KM
        return -edge, edge, -edge, edge

    def distortion(self, view: View) -> float:
        """Return how many times longer a kilometre is at one place of a view than at another."""
        x, y = (max(map(abs, pair)) for pair in (view[:2], view[2:]))
        # With c the colatitude, scales are 1 / cos(c / 2) along a parallel and cos(c / 2) along
        # a meridian; x and y are those of the corner farthest from the pole.
        cosine_squared = 1.0 - (x * x + y * y) / (2 * EARTH_RADIUS_KM) ** 2
        return 1.0 / max(cosine_squared, 1e-9)

    @property
    def _turn(self) -> float:
        return 45.0 if self.pole > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Plate:
    """Equirectangular about a meridian.

    Parameters
    ----------
    lat0 : float
        Degrees of the parallel that is true to scale.
    lon0 : float
        Degrees of the meridian in the middle.
    """

    lat0: float
    lon0: float

    name: ClassVar[str] = "equirectangular"

    def forward(self, lat: Floats, lon: Floats) -> tuple[Floats, Floats]:
        """Return x and y in kilometres of points in degrees."""
        return wrap(lon - self.lon0) * self._km_x, lat * _KM_PER_DEGREE

    def inverse(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Return latitude and longitude in degrees; NaN beyond the map."""
        lat, offset = y / _KM_PER_DEGREE, x / self._km_x
        beyond = (np.abs(lat) > 90.0) | (np.abs(offset) > 180.0)
        return np.where(beyond, np.nan, lat), wrap(self.lon0 + offset)

    def close_up(self, x: Floats, middle: Floats) -> Floats:
        """Return x of outlines, shape (n, vertices), unbroken by the seam at the map's edge.

        They are put about the middles of their cells, shape (n, 1).
        """
        period = 360.0 * self._km_x
        return x - period * np.round((x - middle) / period)

    def copies(self, x: Floats) -> tuple[NDArray[np.int64], Floats]:
        """Return which outlines are drawn, and how far aside: those at the seam on both edges."""
        half = 180.0 * self._km_x
        east, west = (np.flatnonzero(over) for over in (x.max(1) > half, x.min(1) < -half))
        shifts = [np.zeros(len(x)), np.full(east.size, -2 * half), np.full(west.size, 2 * half)]
        return np.concatenate([np.arange(len(x)), east, west]), np.concatenate(shifts)

    @property
    def extent(self) -> View:
        """The whole map."""
        half, top = 180.0 * self._km_x, 90.0 * _KM_PER_DEGREE
        return -half, half, -top, top

    def distortion(self, view: View) -> float:
        """Return how many times longer a kilometre is at one place of a view than at another."""
        south, north = (math.radians(y / _KM_PER_DEGREE) for y in view[2:])
        ends = math.cos(south), math.cos(north)
        widest = 1.0 if south < 0 < north else max(ends)
        return widest / max(min(ends), 1e-9)

    @property
    def _km_x(self) -> float:
        return _KM_PER_DEGREE * math.cos(math.radians(self.lat0))


Projection = Polar | Plate


def projection_for(lat: Floats, lon: Floats, side: float = 0.0) -> Projection:
    """Return the projection that suits cells of so many kilometres.

    Their centres are given in degrees, shape (n,) with n > 0.
    """
    far = np.abs(lat)
    if np.median(far) >= POLAR_MEDIAN and far.min() >= POLAR_LEAST and lat.min() * lat.max() > 0:
        return Polar(1 if lat[0] > 0 else -1)
    # The widest gap between longitudes is where the map is best cut open.
    around = np.sort(lon % 360.0)
    gaps = np.diff(around, append=around[0] + 360.0)
    widest = int(np.argmax(gaps))
    is_gap = gaps[widest] > max(20.0, 2 * side / _KM_PER_DEGREE)
    lon0 = float(around[widest] + gaps[widest] / 2) + 180.0 if is_gap else 0.0
    return Plate(float(lat.min() + lat.max()) / 2, float(wrap(np.array(lon0))))


def wrap(lon: Floats) -> Floats:
    """Return longitudes in [-180, 180)."""
    return (lon + 180.0) % 360.0 - 180.0


def side_km(order: int) -> float:
    """Return the kilometres that a HEALPix cell measures: the square root of its area."""
    return EARTH_RADIUS_KM * math.sqrt(math.pi / 3) / 2.0**order


def distance(km: float) -> str:
    """Return a distance to three digits, with its unit."""
    return f"{km:,.0f} km" if km >= 100 else f"{km:.3g} km" if km >= 1 else f"{1000 * km:.3g} m"


# --- graticule -------------------------------------------------------------------------------

_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 45.0, 90.0)
_ORDER_OF_EDGES = {"meridian": ("bottom", "left", "top", "right")} | {
    "parallel": ("left", "bottom", "right", "top")
}


@dataclass(frozen=True, slots=True)
class GridLine:
    """A meridian or a parallel on a map.

    Parameters
    ----------
    kind : {"meridian", "parallel"}
    label : str
        Such as ``"75°S"``.
    x, y : ndarray of float64, shape (n,)
        Kilometres; parts of the line may lie outside the view.
    """

    kind: str
    label: str
    x: Floats
    y: Floats


def graticule(projection: Projection, view: View) -> list[GridLine]:
    """Return about six meridians and six parallels, at round degrees, that cross a view."""
    west, east, south, north = view
    x, y = np.meshgrid(np.linspace(west, east, 200), np.linspace(south, north, 200))
    lat, lon = projection.inverse(x, y)
    lat, lon = lat[np.isfinite(lat)], lon[np.isfinite(lat)]
    around_pole = isinstance(projection, Polar) and west < 0 < east and south < 0 < north
    if around_pole:
        first, last, most = -180.0, 179.9, 12
    else:
        middle = lon[lon.size // 2] if isinstance(projection, Polar) else projection.lon0
        offset = wrap(lon - middle)
        first, last, most = middle + offset.min(), middle + offset.max(), 6

    lines = []
    for value in _round_degrees(first, last, most):
        along = np.linspace(lat.min(), lat.max(), 1_000)
        label = _degrees(float(wrap(np.array(value))), "EW")
        lines.append(
            GridLine("meridian", label, *projection.forward(along, np.full_like(along, value)))
        )
    for value in _round_degrees(float(lat.min()), float(lat.max()), 6):
        if abs(value) == 90.0:
            continue
        along = np.linspace(first, last, 4_000)
        lines.append(
            GridLine(
                "parallel",
                _degrees(value, "NS"),
                *projection.forward(np.full_like(along, value), along),
            )
        )
    return lines


def place_label(line: GridLine, view: View) -> tuple[str, float, float] | None:
    """Return where a line is labelled: an edge of the view or ``"inside"``, and the point.

    None if the line does not show.
    """
    west, east, south, north = view
    # A hair inside the edges, for lines that end there.
    hair = 1e-3 * max(east - west, north - south)
    inside = (line.x > west + hair) & (line.x < east - hair)
    inside &= (line.y > south + hair) & (line.y < north - hair)
    found: dict[str, tuple[float, float]] = {}
    for at in np.flatnonzero(inside[1:] != inside[:-1]):
        x, y = (line.x[at] + line.x[at + 1]) / 2, (line.y[at] + line.y[at + 1]) / 2
        distances = {"left": x - west, "right": east - x, "bottom": y - south, "top": north - y}
        edge = min(distances, key=lambda name: abs(distances[name]))
        found.setdefault(edge, (float(x), float(y)))
    for edge in _ORDER_OF_EDGES[line.kind]:
        if edge in found:
            return edge, *found[edge]
    if inside.any():  # a circle around the pole
        middle = int(np.flatnonzero(inside)[inside.sum() // 8])
        return "inside", float(line.x[middle]), float(line.y[middle])
    return None


def _round_degrees(first: float, last: float, most: int) -> list[float]:
    """Return at most so many multiples of a round step between two degrees."""
    step = next((step for step in _STEPS if (last - first) / step <= most), _STEPS[-1])
    multiples = range(math.ceil(first / step), math.floor(last / step) + 1)
    return [round(multiple * step, 6) for multiple in multiples]


def _degrees(value: float, signs: str) -> str:
    """Return degrees with their hemisphere, which 0 and 180 do not have."""
    hemisphere = "" if abs(value) in (0.0, 180.0) else signs[value < 0]
    return f"{abs(value):g}°{hemisphere}"

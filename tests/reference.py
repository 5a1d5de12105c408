"""What magg computes, computed again with h5py, plain NumPy in float64 and healpix-geo."""

from __future__ import annotations

import h5py
import numpy as np
from healpix_geo.nested import lonlat_to_healpix

BEAMS = ("gt1l", "gt1r", "gt2l", "gt2r", "gt3l", "gt3r")
GROUP = "land_ice_segments"


def observations(granules, parent_order=6, child_order=12):
    """Return the good rows of ATL06 granules: parent and child NESTED ids, h_li, h_li_sigma."""
    parts = []
    for granule in sorted(map(str, granules)):
        with h5py.File(granule) as file:
            for beam in BEAMS:
                if f"{beam}/{GROUP}" not in file:
                    continue
                group = file[f"{beam}/{GROUP}"]
                names = ("latitude", "longitude", "h_li", "h_li_sigma", "atl06_quality_summary")
                lat, lon, h, s, quality = (group[name][:] for name in names)
                placed = (np.abs(lat) <= 90) & (lon >= -180) & (lon <= 360)
                fill = np.float32(3.4028235e38)
                good = placed & (quality == 0) & (h != fill) & (s != fill)
                good &= np.isfinite(h) & np.isfinite(s)
                parts.append((lat[good], lon[good], h[good], s[good]))
    lat, lon, h, s = (np.concatenate(column) for column in zip(*parts, strict=True))
    child = lonlat_to_healpix(lon, lat, child_order, ellipsoid="WGS84").astype(np.uint64)
    parent = child >> np.uint64(2 * (child_order - parent_order))
    return parent, child, h.astype(np.float64), s.astype(np.float64)


def atl06_statistics(child, h, s):
    """Return, for each child id that has observations, the statistics of ``atl06.yaml``."""
    found = {}
    for cell in np.unique(child):
        here = child == cell
        x, w = h[here], 1.0 / s[here] ** 2
        q25, q50, q75 = np.quantile(x, [0.25, 0.5, 0.75])
        found[int(cell)] = {
            "count": x.size,
            "h_min": x.min(),
            "h_max": x.max(),
            "h_mean": np.sum(x * w) / np.sum(w),
            "h_sigma": 1.0 / np.sqrt(np.sum(w)),
            "h_variance": np.var(x),
            "h_q25": q25,
            "h_q50": q50,
            "h_q75": q75,
        }
    return found

"""A simulator of ICESat-2 ATL06 granules, for demonstrations, tests and benchmarks.

The files have the groups, data types, attributes, chunks and filters of real ATL06 files, and
ground tracks like ICESat-2's; the heights come from a surface that is known everywhere
(`surface_height`), so what is computed from them can be checked against the truth.

They are stricter than real files in one way: fill values and the quality flag are independent
of each other, so that code which forgets either of the two gives a visibly wrong answer.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from magg.testing.atl06 import BEAMS, FILL, PAGE_BYTES, Columns, write_beam, write_header
from magg.testing.tracks import (
    EARTH_RADIUS_M,
    SEGMENT_SECONDS,
    SEGMENTS_PER_ORBIT,
    SPACING_M,
    Track,
    granule_name,
    ground_track,
    surface_height,
)

_PAIR_OFFSET_M, _BEAM_OFFSET_M = 3_300.0, 45.0  # pairs from the middle, beams from their pair


def simulate_beam(
    track: Track,
    beam: str,
    *,
    seed: int = 0,
    segments: int | None = None,
    bad_fraction: float = 0.15,
    fill_fraction: float = 0.03,
    noise: bool = True,
) -> Columns:
    """Return the rows of one beam as arrays; `simulate_granule` says what the arguments mean.

    Returns
    -------
    dict of str to ndarray, shape (segments,)
        ``latitude``, ``longitude`` (float64 degrees, longitude in [-180, 180]), ``h_li``,
        ``h_li_sigma`` (float32 metres), ``atl06_quality_summary`` (int8, 0 is good),
        ``delta_time`` (float64 seconds since 2018-01-01), ``segment_id`` (int32).
    """
    number = BEAMS.index(beam)
    n = track.segments if segments is None else segments
    rng = np.random.default_rng([seed, number])
    along = SPACING_M * (np.arange(n, dtype=np.float64) - (n - 1) / 2)
    # The pointing of the satellite wanders by metres over some ten kilometres, for all beams.
    turn = 2 * math.pi * np.random.default_rng([seed, len(BEAMS)]).random(2)
    across = 6.0 * np.sin(along / 9e3 + turn[0]) + 2.5 * np.sin(along / 2.3e3 + turn[1])
    across += (number // 2 - 1) * _PAIR_OFFSET_M + (number % 2 * 2 - 1) * _BEAM_OFFSET_M
    latitude, longitude, first_id = ground_track(track, along, across)

    # Standard errors between 1 and 30 cm: slow swings of the terrain, times scatter.
    swing = 0.5 + 0.35 * np.sin(along / 4e3 + rng.uniform(0, 2 * math.pi))
    sigma = 0.01 * 30.0 ** np.clip(swing + rng.normal(0.0, 0.07, n), 0.0, 1.0)
    sigma = np.clip(sigma, 0.01, 0.3).astype(np.float32)
    height = surface_height(latitude, longitude)
    errors = rng.standard_normal(n) * sigma
    if noise:
        height = height + errors
    bad = _stretches(rng, n, bad_fraction, mean_length=60.0)
    # Returns from clouds: always too high, so that they do not cancel in a mean.
    height = height + np.where(bad, rng.uniform(15.0, 250.0, n), 0.0)
    missing = _stretches(rng, n, fill_fraction, mean_length=30.0)
    return {
        "latitude": latitude,
        "longitude": longitude,
        "h_li": np.where(missing, FILL, height.astype(np.float32)),
        "h_li_sigma": np.where(missing, FILL, sigma),
        "atl06_quality_summary": bad.astype(np.int8),
        "delta_time": track.seconds + np.arange(n) * SEGMENT_SECONDS,
        "segment_id": ((first_id + np.arange(n)) % SEGMENTS_PER_ORBIT + 1).astype(np.int32),
    }


def simulate_granule(
    path: str | Path,
    track: Track,
    *,
    seed: int = 0,
    beams: Sequence[str] = BEAMS,
    lengths: Mapping[str, int] | None = None,
    bad_fraction: float = 0.15,
    fill_fraction: float = 0.03,
    noise: bool = True,
    paged: bool = False,
    extra_datasets: int = 0,
) -> Path:
    """Write one simulated ATL06 granule; an existing file is replaced.

    Parameters
    ----------
    path : str or Path
        The file to write; `granule_name` gives a conventional name.
    track : Track
        Where it flies.
    seed : int
        Equal arguments give equal data. A beam does not depend on which others are written.
    beams : sequence of str
        The beams in the file; the others are absent.
    lengths : mapping of str to int, optional
        Rows of single beams where they differ from ``track.segments``; 0 makes an empty beam.
    bad_fraction : float
        Share of segments, in stretches of about 60, whose quality flag is 1 and whose height is
        15 to 250 m too high; 1 leaves nothing to aggregate.
    fill_fraction : float
        Share of segments, in stretches of about 30, without height and standard error.
    noise : bool
        Whether heights scatter about the surface by ``h_li_sigma``.
    paged : bool
        Lay the file out in pages of 8 MiB, metadata apart from data, as NSIDC's cloud-optimised
        files are; otherwise chunks of all datasets of a beam follow each other in turn.
    extra_datasets : int
        Further float32 datasets in each beam (``land_ice_segments/extra/extra_00``...), to
        spread the others over the file as the 60 datasets of real beams do.

    Returns
    -------
    Path
        The path.

    Raises
    ------
    ValueError
        If a beam is unknown or a fraction is not in [0, 1].
    """
    import h5py

    if unknown := sorted({*beams, *(lengths or {})} - set(BEAMS)):
        raise ValueError(f"unknown beams {unknown}; there are {list(BEAMS)}")
    path = Path(path)
    layout: dict[str, Any] = {"libver": ("v108", "v110")}  # superblock 2, as in real files
    if paged:
        layout |= {"fs_strategy": "page", "fs_page_size": PAGE_BYTES}
    # Without a chunk cache every chunk is written where the file stands, hence in this order.
    with h5py.File(path, "w", rdcc_nbytes=0, **layout) as file:
        write_header(file, track)
        for beam in (name for name in BEAMS if name in beams):
            columns = simulate_beam(
                track,
                beam,
                seed=seed,
                segments=(lengths or {}).get(beam),
                bad_fraction=bad_fraction,
                fill_fraction=fill_fraction,
                noise=noise,
            )
            rng = np.random.default_rng([seed, BEAMS.index(beam), 1])
            for number in range(extra_datasets):
                steps = rng.normal(0.0, 0.05, columns["h_li"].size)
                columns[f"extra/extra_{number:02d}"] = np.cumsum(steps).astype(np.float32)
            write_beam(file, beam, columns, interleave=not paged)
    return path


def simulate_region(
    folder: str | Path,
    *,
    latitude: float,
    longitude: float,
    granules: int = 12,
    segments: int = 20_000,
    width_km: float = 300.0,
    seed: int = 0,
    missing_beams_in: Collection[int] = (1,),
    **options: Any,
) -> list[Path]:
    """Write granules whose ascending and descending tracks cross each other over a region.

    Parameters
    ----------
    folder : str or Path
        Where the granules go; made if it does not exist.
    latitude, longitude : float
        Degrees of the middle of the region, within 88 degrees of the equator.
    granules : int
        How many; every other one descends.
    segments : int
        Rows of every beam, 20 m apart.
    width_km : float
        How far apart, from west to east, the outermost tracks pass the middle latitude.
    seed : int
        Equal arguments give equal names and data.
    missing_beams_in : collection of int
        Which of the granules, counted from 0, lack the beams gt1l and gt1r, as some real ones.
    **options
        Passed to `simulate_granule`: ``bad_fraction``, ``paged``, ``extra_datasets``...

    Returns
    -------
    list of Path
        In order of time, which is the order of their names.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, 2**16])
    # Tracks of one orbit repeat in longitude. Even spacing with some jitter leaves no two alike.
    shifts = (np.arange(granules) + rng.uniform(0.2, 0.8, granules)) / max(granules, 1) - 0.5
    degrees = math.degrees(width_km * 1e3 / (EARTH_RADIUS_M * math.cos(math.radians(latitude))))
    rgts = rng.permutation(np.arange(1, 1388))
    paths = []
    for number in range(granules):
        track = Track(
            latitude,
            longitude + float(shifts[number]) * min(degrees, 360.0),
            ascending=number % 2 == 0,
            segments=segments,
            start=datetime(2019, 4, 1, 6, tzinfo=UTC) + timedelta(days=number, minutes=97 * number),
            rgt=int(rgts[number % rgts.size]),
        )
        beams = BEAMS[2:] if number in missing_beams_in else BEAMS
        path = folder / granule_name(track)
        paths.append(
            simulate_granule(
                path, track, seed=seed * 100_003 + number, **{"beams": beams} | options
            )
        )
    return paths


def _stretches(
    rng: np.random.Generator, n: int, fraction: float, *, mean_length: float
) -> NDArray[np.bool_]:
    """Return a mask that is true for about a fraction of n rows, in runs of geometric length."""
    if not 0.0 <= fraction <= 1.0:
        raise ValueError(f"fractions must be between 0 and 1, not {fraction}")
    if fraction in (0.0, 1.0):
        return np.full(n, bool(fraction))
    inside = max(mean_length, fraction / (1.0 - fraction))  # runs between are >= 1 row as well
    outside = inside * (1.0 - fraction) / fraction
    runs = rng.geometric([1.0 / outside, 1.0 / inside], size=(n // 2 + 1, 2))
    if rng.random() < fraction:
        runs = runs[:, ::-1]
        return ~_alternate(runs.ravel(), n)
    return _alternate(runs.ravel(), n)


def _alternate(runs: NDArray[np.int64], n: int) -> NDArray[np.bool_]:
    """Return n values that change at the end of every run and begin with false."""
    flips = np.zeros(n, dtype=np.uint8)
    ends = np.cumsum(runs)
    flips[ends[ends < n]] = 1
    return np.asarray(np.cumsum(flips) % 2 == 1)

"""The demonstration: the whole job on simulated granules, compared with the surface they measure.

The config is the built-in ``atl06`` with two statistics more, the weighted mean position of the
observations of a cell. A surface that is nearly plane over a cell has its mean where the
observations have theirs, so h_mean should meet the analytic surface there to within h_sigma.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from magg import report, wire
from magg.catalog import Catalog
from magg.config import Column, PipelineConfig, load_config
from magg.runner import run
from magg.statistics import Statistic
from magg.store.inspect import open_group

LATITUDE, LONGITUDE = -75.5, -101.0
GRANULES, SEGMENTS, WIDTH_KM = 16, 16_000, 260.0


def run_demo(folder: str | Path = "magg-demo") -> dict[str, Any]:
    """Simulate granules, catalog them, aggregate them, check the result and draw a map.

    Parameters
    ----------
    folder : str or Path, default "magg-demo"
        Where granules, catalog, config, store and map go; what a demonstration left there before
        is replaced.

    Returns
    -------
    dict
        The summary of the run, with ``fit`` (see `fit`) and ``map_path``.
    """
    import yaml
    from rich.console import Console

    from magg.maps import plot
    from magg.testing import simulate_region

    console = Console()
    place = Path(folder).resolve()
    place.mkdir(parents=True, exist_ok=True)
    console.print(f"[bold]1[/]  simulating {GRANULES} granules of ATL06 over West Antarctica")
    granules = simulate_region(
        place / "granules",
        latitude=LATITUDE,
        longitude=LONGITUDE,
        granules=GRANULES,
        segments=SEGMENTS,
        width_km=WIDTH_KM,
    )
    config = demo_config()
    text = yaml.safe_dump(wire.unstructure(config), sort_keys=False)
    (place / "config.yaml").write_text(text, encoding="utf-8")

    console.print("[bold]2[/]  finding the cells that each granule crosses")
    catalog = Catalog.from_files(granules, parent_order=6, config=config)
    console.print(report.of_catalog(catalog, catalog.save(place / "catalog.json")))

    console.print("[bold]3[/]  aggregating")
    store = place / "store.zarr"
    summary = run(config, catalog=catalog, store=store, overwrite=True)
    console.print(report.of_summary(summary))

    console.print("[bold]4[/]  comparing with the surface that was simulated")
    summary["fit"] = fit(store)
    console.print(_fit_report(summary["fit"]))

    picture = place / "map.png"
    plot(store, picture)
    summary["map_path"] = str(picture)
    console.print(f"[bold]5[/]  map of h_mean and count: {picture}")
    return summary


def demo_config() -> PipelineConfig:
    """Return the built-in config ``atl06`` with the mean position of the observations added."""
    config = load_config("atl06")
    source, aggregation = config.data_source, config.aggregation
    columns = {
        "lat": Column(source.coordinates.latitude),
        "lon": Column(source.coordinates.longitude),
    }
    weights: dict[str, str | int | float | bool] = {"weights": "1.0 / s_li**2"}
    positions = {
        f"{name}_mean": Statistic(
            function="average",
            source=name,
            params=weights,
            dtype="float64",
            attrs={"long_name": f"weighted mean {about} of the observations", "units": units},
        )
        for name, about, units in (
            ("lat", "latitude", "degrees_north"),
            ("lon", "longitude", "degrees_east"),
        )
    }
    return replace(
        config,
        data_source=replace(source, variables={**source.variables, **columns}),
        aggregation=replace(aggregation, variables={**aggregation.variables, **positions}),
    )


def fit(store: str | Path) -> dict[str, float]:
    """Compare h_mean with the simulated surface at the mean position of the observations.

    Returns
    -------
    dict
        ``cells`` compared, ``bias_m`` and ``rms_m`` of h_mean minus the surface, ``relief_m``
        (from the lowest to the highest cell), ``median_sigma_m`` (of the stated standard errors)
        and ``within_3_sigma`` (share of the cells).
    """
    from magg.testing import surface_height

    group = open_group(store)["12"]
    held = {name: group[name][:] for name in ("count", "h_mean", "h_sigma", "lat_mean", "lon_mean")}
    full = held["count"] > 0
    mean, sigma, lat, lon = (
        held[name][full].astype(np.float64)
        for name in ("h_mean", "h_sigma", "lat_mean", "lon_mean")
    )
    off = mean - surface_height(lat, lon)
    return {
        "cells": int(np.count_nonzero(full)),
        "bias_m": float(np.mean(off)),
        "rms_m": float(np.sqrt(np.mean(off**2))),
        "median_sigma_m": float(np.median(sigma)),
        "within_3_sigma": float(np.mean(np.abs(off) < 3 * sigma)),
        "relief_m": float(np.ptp(mean)),
    }


def _fit_report(found: dict[str, float]) -> str:
    return (
        f"over {found['cells']:,} child cells, {found['relief_m']:.0f} m from lowest to highest, "
        f"h_mean is {found['bias_m'] * 100:+.2f} cm off on average and "
        f"{found['rms_m'] * 100:.2f} cm RMS; {found['within_3_sigma']:.1%} lie within three "
        f"standard errors (median h_sigma {found['median_sigma_m'] * 100:.2f} cm)"
    )

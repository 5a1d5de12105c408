"""The commands that show results: plot and export."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

DEFAULT_VARIABLES = ("h_mean", "count")


def add_commands(commands: Any, add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands to a parser.

    Parameters
    ----------
    commands
        What `argparse.ArgumentParser.add_subparsers` returned.
    add : callable
        Adds one command: commands, name, function, what it does, examples.
    """
    plot = add(
        commands,
        "plot",
        _plot,
        "draw maps of a store, the granules of a catalog, or what a run did",
        "magg plot out.zarr -o map.png --variables h_mean,count\n"
        "magg plot out.zarr --bbox=-105,-76,-95,-74 --order 11\n"
        "magg plot catalog.json -o granules.png\n"
        "magg run atl06 ... --json > summary.json; magg plot summary.json --summary -o run.png\n"
        "magg plot out.zarr --summary -o run.png",
    )
    plot.add_argument(
        "store", help="a store, or a catalog's JSON file; with --summary a store or a summary"
    )
    plot.add_argument("-o", "--output", default="map.png", help="picture file (default: map.png)")
    plot.add_argument(
        "--summary",
        action="store_true",
        help="draw the cells of a run over time, from its summary or the records of a store",
    )
    _add_selection(plot)
    export = add(
        commands,
        "export",
        _export,
        "write the cells of a store as GeoParquet or GeoTIFF",
        "magg export out.zarr -o cells.parquet\n"
        "magg export out.zarr -o heights.tif --variables h_mean --crs EPSG:3031 --resolution 1000",
    )
    export.add_argument("store", help="a store")
    export.add_argument(
        "-o", "--output", required=True, help="file; .parquet or .tif says which kind"
    )
    export.add_argument("--crs", help="such as EPSG:3031 (default: one that suits the data)")
    export.add_argument(
        "--resolution", type=float, help="of the pixels of a GeoTIFF, in the unit of the CRS"
    )
    _add_selection(export)


def _add_selection(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--variables",
        "--variable",
        type=lambda text: text.split(","),
        action="extend",
        metavar="NAMES",
        help="which, with commas between them; may be given again",
    )
    command.add_argument("--order", type=int, help="one of the store's orders (default: finest)")
    part = command.add_mutually_exclusive_group()
    part.add_argument(
        "--bbox",
        dest="within",
        type=lambda text: [float(edge) for edge in text.split(",")],
        help="west,south,east,north in degrees (write --bbox=-60,...)",
    )
    part.add_argument(
        "--within", help="a GeoJSON file, antarctica, greenland, or a decimal Morton cell"
    )
    command.add_argument("--region", default="us-west-2", help="AWS region of the store's bucket")


def _plot(arguments: argparse.Namespace) -> int:
    from magg.catalog import Catalog
    from magg.maps import plot, plot_catalog, plot_summary

    path = Path(arguments.store)
    if arguments.summary:
        told = _summary_of(path) if path.is_file() else arguments.store
        plot_summary(told, arguments.output, region=arguments.region)
    elif path.is_file():
        plot_catalog(Catalog.load(path), arguments.output)
    else:
        plot(
            arguments.store,
            arguments.output,
            variables=arguments.variables or DEFAULT_VARIABLES,
            order=arguments.order,
            within=arguments.within,
            region=arguments.region,
        )
    sys.stderr.write(f"drew {arguments.output}\n")
    return 0


def _summary_of(path: Path) -> dict[str, Any]:
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); magg run --json prints it") from None
    if not isinstance(summary, dict):
        raise ValueError(f"{path} is no summary of a run; magg run --json prints one")
    return summary


def _export(arguments: argparse.Namespace) -> int:
    from magg.exports import export

    path = export(
        arguments.store,
        arguments.output,
        variables=arguments.variables,
        order=arguments.order,
        within=arguments.within,
        crs=arguments.crs,
        resolution=arguments.resolution,
        region=arguments.region,
    )
    sys.stderr.write(f"wrote {path} ({path.stat().st_size / 1e6:,.1f} MB)\n")
    return 0

"""The command line: thin over the Python API."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from magg import __version__, cli_results
from magg.credentials import redact
from magg.errors import MaggError

CELLS_FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
GRANULES_FAILED = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; those of the process where left out.

    Returns
    -------
    int
        0 if all went well, 1 if a cell failed, 2 for bad input, 130 after Ctrl-C.
    """
    arguments = _parser().parse_args(argv)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("magg").setLevel(logging.INFO)  # and not what others find worth telling
    try:
        status: int = arguments.command(arguments)
    except KeyboardInterrupt:
        _complain("interrupted; what is finished is kept, and the same command continues")
        return INTERRUPTED
    except (MaggError, OSError, ValueError) as error:
        if arguments.debug:
            raise
        _complain(f"magg: {redact(str(error))}")
        return BAD_INPUT
    except BrokenPipeError:
        return 0
    return status


def _complain(message: str) -> None:
    sys.stderr.write(f"{message}\n")


def _run(arguments: argparse.Namespace) -> int:
    from magg import report
    from magg.config import load_config
    from magg.runner import run

    summary = run(
        load_config(arguments.config or arguments.named_config),
        catalog=arguments.catalog,
        store=arguments.store,
        backend=arguments.backend,
        max_cells=arguments.max_cells,
        morton_cell=arguments.morton_cell,
        part=arguments.part,
        max_workers=arguments.max_workers,
        overwrite=arguments.overwrite,
        dry_run=arguments.dry_run,
        on_granule_error=arguments.on_granule_error,
        backups=arguments.backups,
        index=arguments.index,
        function_name=arguments.function_name,
        region=arguments.region,
        progress=False if arguments.quiet or arguments.json else None,
    )
    _tell(report.of_summary(summary), summary, arguments.json)
    return CELLS_FAILED if summary["cells_error"] else 0


def _catalog_files(arguments: argparse.Namespace) -> int:
    from magg import report
    from magg.catalog import Catalog

    catalog = Catalog.from_files(arguments.granules, arguments.parent_order, arguments.config)
    path = catalog.save(arguments.output)
    _tell(report.of_catalog(catalog, path), catalog.metadata, as_json=False)
    return 0


def _catalog_cmr(arguments: argparse.Namespace) -> int:
    from magg import report
    from magg.catalog import Catalog

    catalog = Catalog.from_cmr(
        arguments.short_name,
        version=arguments.version,
        start_date=arguments.start_date,
        end_date=arguments.end_date,
        cycle=arguments.cycle,
        polygon=arguments.polygon,
        bbox=arguments.bbox,
        parent_order=arguments.parent_order,
    )
    path = catalog.save(arguments.output)
    _tell(report.of_catalog(catalog, path), catalog.summary(), arguments.json)
    return 0


def _catalog_index(arguments: argparse.Namespace) -> int:
    from magg import report
    from magg.indexing import build_index

    summary = build_index(
        arguments.catalog,
        arguments.config,
        backend=arguments.backend,
        max_workers=arguments.max_workers,
        function_name=arguments.function_name,
        region=arguments.region,
        overwrite=arguments.overwrite,
        progress=False if arguments.quiet or arguments.json else None,
    )
    _tell(report.of_index(summary), summary, arguments.json)
    return GRANULES_FAILED if summary["errors"] else 0


def _check(arguments: argparse.Namespace) -> int:
    from magg.checkup import as_table, check

    findings = check(arguments.region, arguments.function_name, arguments.store)
    _tell(as_table(findings), [vars(one) for one in findings], arguments.json)
    return 0


def _info(arguments: argparse.Namespace) -> int:
    from magg import report
    from magg.catalog import Catalog
    from magg.store.inspect import describe

    if Path(arguments.path).is_file():
        catalog = Catalog.load(arguments.path)
        _tell(report.of_catalog(catalog, Path(arguments.path)), catalog.cells, arguments.json)
    else:
        store = describe(arguments.path, arguments.region)
        _tell(report.of_store(store), store, arguments.json)
    return 0


def _pyramid(arguments: argparse.Namespace) -> int:
    from magg import report
    from magg.store import build_pyramid

    made = build_pyramid(
        arguments.store, coarsest_order=arguments.coarsest_order, region=arguments.region
    )
    _tell(report.of_pyramid(made), made, arguments.json)
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from magg.demo import run_demo

    return CELLS_FAILED if run_demo(arguments.folder)["cells_error"] else 0


def _deploy(arguments: argparse.Namespace) -> int:
    from magg.deploy.command import execute

    return execute(arguments)


def _tell(text: Any, data: Any, as_json: bool) -> None:
    """Print a rich renderable, or the data behind it as JSON."""
    from rich.console import Console

    if as_json:
        sys.stdout.write(json.dumps(data, indent=2) + "\n")
    else:
        Console().print(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="magg",
        description="Aggregate sparse point observations on a HEALPix grid.",
        epilog="magg COMMAND --help shows examples.",
    )
    parser.add_argument("--version", action="version", version=f"magg {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_run(commands)
    _add_catalog(commands)
    info = _add(
        commands, "info", _info, "show what a store or a catalog holds", "magg info out.zarr"
    )
    info.add_argument("path", help="a store, or a catalog's JSON file")
    info.add_argument("--region", default="us-west-2", help="AWS region of the store's bucket")
    info.add_argument("--json", action="store_true", help="print JSON")
    pyramid = _add(
        commands,
        "pyramid",
        _pyramid,
        "add coarser orders to a store, or repair them, without its granules",
        "magg pyramid out.zarr\nmagg pyramid out.zarr --coarsest-order 6",
    )
    pyramid.add_argument("store", help="a local path or s3://bucket/prefix")
    pyramid.add_argument("--coarsest-order", type=int, default=0, help="default: 0")
    pyramid.add_argument("--region", default="us-west-2", help="AWS region of the store's bucket")
    pyramid.add_argument("--json", action="store_true", help="print JSON")
    demo = _add(
        commands,
        "demo",
        _demo,
        "make granules, aggregate them, check the result and draw a map; needs no data",
        "magg demo\nmagg demo somewhere/else",
    )
    demo.add_argument("folder", nargs="?", default="magg-demo", help="where to put it all")
    cli_results.add_commands(commands, _add)
    check = _add(
        commands,
        "check",
        _check,
        "say what is set up and what is missing, and how to mend it",
        "magg check\nmagg check --store s3://bucket/prefix",
    )
    check.add_argument("--store", help="a store that results should go to")
    _add_function(check)
    check.add_argument("--json", action="store_true", help="print JSON")
    from magg.deploy.command import EXAMPLES, add_arguments

    about = "set up AWS Lambda and Step Functions in your account, look at them, or remove them"
    add_arguments(_add(commands, "deploy", _deploy, about, EXAMPLES))
    return parser


def _add_function(command: Any) -> None:
    command.add_argument(
        "--function-name",
        default=os.environ.get("MAGG_LAMBDA_FUNCTION_NAME"),
        help="function of a cloud backend (default: $MAGG_LAMBDA_FUNCTION_NAME), or the ARN of a "
        "state machine (default: $MAGG_STATE_MACHINE_ARN)",
    )
    command.add_argument("--region", default="us-west-2", help="AWS region (default: us-west-2)")


def _add_run(commands: Any) -> None:
    run = _add(
        commands,
        "run",
        _run,
        "aggregate the granules of a catalog into a store",
        "magg run atl06 --catalog catalog.json --store out.zarr\n"
        "magg run my.yaml --catalog catalog.json --store out.zarr --dry-run\n"
        "magg run atl06 --catalog catalog.json --store out.zarr --backend processes",
    )
    config = run.add_mutually_exclusive_group(required=True)
    config.add_argument(
        "config", nargs="?", help="a YAML file, or a built-in config (atl06, atl08)"
    )
    config.add_argument("--config", dest="named_config", metavar="CONFIG", help="the same")
    run.add_argument("--catalog", help="catalog JSON, a path or URL (overrides the config)")
    run.add_argument("--store", help="local path or s3://bucket/prefix (overrides the config)")
    run.add_argument(
        "--backend",
        default="local",
        help="local, processes, lambda, sfn, lithops, or an installed backend",
    )
    run.add_argument("--max-cells", type=int, help="work on the first so many cells only")
    run.add_argument("--morton-cell", help="work on this cell only, such as -6134114")
    run.add_argument("--part", help="work on a part of the cells only, such as 3/12")
    run.add_argument("--max-workers", type=int, help="cells at once")
    run.add_argument("--overwrite", action="store_true", help="start an existing store again")
    run.add_argument("--dry-run", action="store_true", help="say what would be done, and stop")
    run.add_argument(
        "--on-granule-error",
        choices=("fail", "skip"),
        default="fail",
        help="what a granule that cannot be read does (default: fail its cells)",
    )
    run.add_argument("--backups", action="store_true", help="submit stragglers a second time")
    run.add_argument(
        "--index",
        choices=("auto", "build", "off"),
        default="auto",
        help="use the granule index beside the catalog if there is one (default), make or complete "
        "it first, or use none",
    )
    _add_function(run)
    run.add_argument("--quiet", action="store_true", help="show no progress")
    run.add_argument("--json", action="store_true", help="print the summary as JSON")


def _add_catalog(commands: Any) -> None:
    catalog = commands.add_parser("catalog", help="make catalogs of granules")
    kinds = catalog.add_subparsers(required=True, metavar="KIND")
    files = _add(
        kinds,
        "files",
        _catalog_files,
        "make a catalog of local granules by where their rows really are",
        "magg catalog files granules/*.h5 -o catalog.json\n"
        "magg catalog files granules/ -o catalog.json --config atl08",
    )
    files.add_argument("granules", nargs="+", help="granules, or folders of them")
    files.add_argument("-o", "--output", default="catalog.json", help="where to write it")
    files.add_argument(
        "--parent-order", type=int, default=6, help="order of the cells (default: 6)"
    )
    files.add_argument("--config", default="atl06", help="says where the coordinates are")
    _add_catalog_cmr(kinds)
    _add_catalog_index(kinds)


def _add_catalog_index(kinds: Any) -> None:
    index = _add(
        kinds,
        "index",
        _catalog_index,
        "make the granule index beside a catalog, or bring it up to date: where in each granule "
        "the datasets are that a config needs, and which rows lie in which cell",
        "magg catalog index catalog.json\n"
        "magg catalog index catalog.json --config my.yaml --backend processes\n"
        "magg catalog index s3://bucket/catalog.json --backend lambda",
    )
    index.add_argument("catalog", help="the catalog's JSON, a path or s3:// URL")
    index.add_argument(
        "--config", default="atl06", help="says which datasets runs will need (default: atl06)"
    )
    index.add_argument(
        "--backend",
        default="local",
        help="local, processes, lambda, sfn, lithops, or an installed backend",
    )
    index.add_argument("--max-workers", type=int, help="granules at once")
    index.add_argument(
        "--overwrite", action="store_true", help="forget what the index holds, and make it anew"
    )
    _add_function(index)
    index.add_argument("--quiet", action="store_true", help="show no progress")
    index.add_argument("--json", action="store_true", help="print the summary as JSON")


def _add_catalog_cmr(kinds: Any) -> None:
    cmr = _add(
        kinds,
        "cmr",
        _catalog_cmr,
        "make a catalog of what NASA's CMR knows, by the footprints of the granules",
        "magg catalog cmr ATL06 --cycle 22 --polygon antarctica -o catalog.json\n"
        "magg catalog cmr ATL06 --start-date 2023-01-01 --end-date 2023-03-31 \\\n"
        "    --polygon glacier.geojson\n"
        "magg catalog cmr ATL06 --cycle 22 --bbox=-60,60,-20,84",
    )
    cmr.add_argument("short_name", help="the product, such as ATL06")
    cmr.add_argument("--version", help="of the product, such as 007 (default: the newest)")
    cmr.add_argument("--start-date", help="first day, such as 2023-01-01")
    cmr.add_argument("--end-date", help="last day, included")
    cmr.add_argument("--cycle", type=int, help="ICESat-2 cycle, in place of dates")
    area = cmr.add_mutually_exclusive_group()
    area.add_argument(
        "--polygon", help="GeoJSON file, or antarctica or greenland (coarse outlines drawn by hand)"
    )
    area.add_argument(
        "--bbox",
        type=lambda text: [float(edge) for edge in text.split(",")],
        help="west,south,east,north in degrees (write --bbox=-60,...)",
    )
    cmr.add_argument("-o", "--output", default="catalog.json", help="where to write it")
    cmr.add_argument("--parent-order", type=int, default=6, help="order of the cells (default: 6)")
    cmr.add_argument("--json", action="store_true", help="print a summary as JSON")


def _add(commands: Any, name: str, function: Any, about: str, examples: str) -> Any:
    parser = commands.add_parser(
        name,
        help=about,
        description=f"{about[0].upper()}{about[1:]}.",
        epilog="examples:\n  " + examples.replace("\n", "\n  "),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.set_defaults(command=function)
    return parser

"""The Python of every page of the documentation runs, from top to bottom.

Each page runs in a folder of its own, with what `magg demo` leaves there. Pages about NASA and AWS
run against the services of the tests.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
from docs_blocks import PAGES, ROOT, all_blocks, blocks
from test_earthdata_run import footprint

from magg import Catalog
from magg.cli import main
from magg.worker import FUNCTIONS

FUNCTION = "process-morton-cell"
# Blocks that do not always run, each with the reason that its title gives.
CONDITIONS = {"needs lonboard": lambda: importlib.util.find_spec("lonboard") is not None}
CELLS = 2


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """Return the folder of a demonstration of few and small granules."""
    pytest.importorskip("matplotlib")
    from magg import demo

    folder = tmp_path_factory.mktemp("documentation") / "magg-demo"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "GRANULES", 6)
        patch.setattr(demo, "SEGMENTS", 6_000)
        patch.setattr(demo, "WIDTH_KM", 60.0)
        assert demo.run_demo(folder)["cells_error"] == 0
    return folder


@pytest.fixture
def folder(demo, tmp_path, monkeypatch):
    """Return the folder that a page runs in."""
    (tmp_path / "magg-demo").symlink_to(demo)
    (tmp_path / "granules").symlink_to(demo / "granules")
    (tmp_path / "lithops_config").symlink_to(ROOT / "lithops_config")
    whole = Catalog.load(demo / "catalog.json")
    few = sorted(whole.cells, key=lambda cell: len(whole.cells[cell]))[-CELLS:]
    whole.subset(cells=few).save(tmp_path / "catalog.json")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("magg.statistics.registry._registered", {})
    return tmp_path


@pytest.fixture
def at_nasa(folder, earthdata):
    """Serve the granules at Earthdata, and put there the files that pages name."""
    days = ("2023-01-05", "2024-02-01")  # that of earthdata.md, and one of cycle 22
    for number, path in enumerate(sorted((folder / "granules").glob("*.h5"))):
        cycle_22 = re.sub(r"(_\d{4})\d\d(\d\d_)", r"\g<1>22\2", path.name)
        (folder / cycle_22).symlink_to(path.resolve())
        earthdata.serve(
            folder / cycle_22,
            start=f"{days[number % 2]}T00:00:00Z",
            end=f"{days[number % 2]}T00:05:00Z",
            extent=footprint(path),
        )
    west, south, east, north = -104, -77, -98, -74
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    (folder / "glacier.geojson").write_text(
        str({"type": "Polygon", "coordinates": [ring]}).replace("'", '"')
    )
    (folder / "last-year.json").write_bytes((folder / "catalog.json").read_bytes())


@pytest.fixture
def at_aws(folder, lambda_service, s3_server, aws_environment, monkeypatch):
    """Put granules into a bucket, and a function beside it."""
    aws_environment()
    monkeypatch.setenv("AWS_ENDPOINT_URL_LAMBDA", lambda_service.endpoint)
    bucket = s3_server.bucket("my-bucket")
    catalog = Catalog.load(folder / "catalog.json")
    for granule in catalog.granules:
        bucket.put(Path(granule).name, Path(granule))
    cells = {
        cell: tuple(bucket.url(Path(name).name) for name in granules)
        for cell, granules in catalog.cells.items()
    }
    Catalog(catalog.parent_order, cells, catalog.metadata).save(folder / "catalog.json")
    task = folder / "task"
    task.mkdir()
    lambda_service.deploy(
        FUNCTION,
        "magg.aws.handler.lambda_handler",
        folder=task,
        timeout=300.0,
        memory_mb=2_000,
        concurrency=2,
        environment=s3_server.environment() | {"PYTHONPATH": str(ROOT)},
    )
    yield lambda_service
    lambda_service.remove(FUNCTION)
    bucket.store().delete(bucket.keys())


@pytest.fixture
def at_step_functions(at_aws, sfn_service, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_SFN", sfn_service.endpoint)
    yield sfn_service
    sfn_service.clear()


@pytest.fixture
def with_lithops(folder, lithops_home, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return lithops_home


NEEDS = {
    "README.md": "at_nasa",
    "earthdata.md": "at_nasa",
    "lambda.md": "at_aws",
    "stepfunctions.md": "at_step_functions",
    "lithops.md": "with_lithops",
    "results.md": "folder",
}
# Pages that only run with what their extras install.
PACKAGES = {
    "README.md": ("earthaccess", "xdggs", "matplotlib"),
    "earthdata.md": ("earthaccess",),
    "lambda.md": ("boto3", "awslambdaric"),
    "stepfunctions.md": ("boto3", "awslambdaric"),
    "lithops.md": ("lithops",),
    "quick-start.md": ("xdggs", "matplotlib"),
    "results.md": ("xdggs", "matplotlib", "rasterio", "geopandas", "IPython"),
}
# Pages whose blocks are modules, whose guarded part would read from standard input.
MODULES = {"backends.md"}


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda p: p.name)
def test_the_python_of_a_page_runs(page, request):
    for package in PACKAGES.get(page.name, ()):
        if importlib.util.find_spec(package) is None:  # lithops must not be imported yet
            pytest.skip(f"{package} is not installed")
    request.getfixturevalue(NEEDS.get(page.name, "folder"))
    name = "documentation" if page.name in MODULES else "__main__"
    namespace = {"__name__": name}
    for block in blocks(page, "python"):
        if CONDITIONS.get(block.title, lambda: True)():
            # Line numbers of tracebacks are those of the page.
            lines = "\n" * block.line + block.code
            exec(compile(lines, str(page), "exec", dont_inherit=True), namespace)  # noqa: S102
    for check in CHECKS.get(page.name, ()):
        check(namespace)


def check_lambda(names):
    """Call the functions that the page only defines."""
    assert names["summary"]["cells_error"] == 0
    names["FUNCTIONS"] = FUNCTIONS  # which a later block of the page gives another meaning
    summary = names["run_at_our_price"]("catalog.json", "s3://my-bucket/priced.zarr")
    assert summary["cells_error"] == 0
    expected = summary["gb_seconds"] * 0.0000125 + summary["lambda_calls"] * 0.18e-6
    assert summary["estimated_cost_usd"] == pytest.approx(expected)


def check_step_functions(names):
    assert names["made"]["stateMachineArn"].endswith(":stateMachine:magg")
    assert names["summary"]["cells_error"] == 0
    assert names["summary"]["cells_with_data"] > 0


def check_quick_start(names):
    assert names["summary"]["cells_error"] == 0
    assert Path("heights.png").stat().st_size > 1_000


def check_results(names):
    made = {"map.png", "run.png", "history.png", "cells.parquet", "heights.tif"}
    assert made <= {path.name for path in Path().iterdir()}
    assert len(names["frame"])


CHECKS = {
    "lambda.md": [check_lambda],
    "results.md": [check_results],
    "stepfunctions.md": [check_step_functions],
    "quick-start.md": [check_quick_start],
}


def test_no_block_is_left_out_but_those_named_here():
    assert {block.title for block in all_blocks("python")} - {""} == CONDITIONS.keys()
    left_out = [block for block in all_blocks("python") if block.title]
    assert len(left_out) == 1


# Pages whose commands need nothing but what the demonstration leaves, and what they do not: the
# demonstration itself is run by `make demo`. With how many commands there are at least.
LOCAL_PAGES = {"README.md": 2, "quick-start.md": 2, "results.md": 8, "catalogs.md": 2}
ELSEWHERE = {("demo",), ("check",), ("catalog", "cmr")}


def local_commands(page):
    """Return the arguments of each local command of magg on a page, and where its output goes."""
    found = []
    for block in blocks(page, "console"):
        for line in block.code.splitlines():
            command, _, target = line.partition(">")
            words = shlex.split(command, comments=True)
            if words[:1] == ["magg"] and "..." not in words and "--help" not in words:
                found.append((words[1:], target.strip()))
    return [
        (words, target)
        for words, target in found
        if not {tuple(words[:1]), tuple(words[:2])} & ELSEWHERE
    ]


@pytest.mark.parametrize("name", LOCAL_PAGES)
def test_the_local_commands_of_a_page_run(name, folder, capsys):
    page = next(page for page in PAGES if page.name == name)
    commands = local_commands(page)
    assert len(commands) >= LOCAL_PAGES[name]
    for words, target in commands:
        capsys.readouterr()
        assert main(words) == 0, f"{name}: magg {' '.join(words)}"
        if target:
            Path(target).write_text(capsys.readouterr().out)

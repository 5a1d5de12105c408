"""The notebooks of `examples/` run from top to bottom, without network.

With the variable ``MAGG_KEEP_EXAMPLES`` set they are written back with their outputs.
"""

from __future__ import annotations

import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
from example_runs import EXAMPLES, ROOT, environment, execute, keep, outputs
from services.moto import empty_account
from test_earthdata_run import footprint

from magg.testing import Track, granule_name, simulate_granule

NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
HANDLER = "magg.aws.handler.lambda_handler"
FUNCTION = "process-morton-cell"
KIB = 1024


@pytest.fixture(scope="session")
def archived(tmp_path_factory):
    """Return simulated granules of three months, each with its first and last moment."""
    folder = tmp_path_factory.mktemp("archive")
    made = []
    for number in range(15):
        month, visit = 4 + number // 5, number % 5
        start = datetime(2019, month, 3 + 5 * visit, 6, tzinfo=UTC)
        track = Track(
            -75.5,
            -102.2 + 0.6 * visit + 0.13 * (month - 4),
            ascending=visit % 2 == 0,
            segments=4_000,
            start=start,
            rgt=100 + 7 * number,
        )
        path = simulate_granule(folder / granule_name(track), track, seed=number)
        made.append((path, f"{start:%Y-%m-%dT%H}:00:00.000Z", f"{start:%Y-%m-%dT%H}:00:12.000Z"))
    return made


@pytest.fixture
def nasa(earthdata, archived):
    """Return the variables that lead to Earthdata with these granules, and let one log in."""
    for path, start, end in archived:
        earthdata.serve(path, extent=footprint(path), start=start, end=end)
    kept = ("proxy", "CA_BUNDLE", "CERT_FILE", "EARTHDATA_")
    known = earthdata.environment()
    yield {n: v for n, v in known.items() if any(part.lower() in n.lower() for part in kept)}
    assert not earthdata.strangers


@pytest.fixture
def amazon(lambda_service, moto_server, nasa, tmp_path):
    """Return a function that deploys magg's handler and gives the variables that lead there."""
    empty_account(moto_server)
    (tmp_path / "task").mkdir()

    def lead_to(s3):
        reached = nasa | {
            "AWS_ENDPOINT_URL": moto_server,
            "AWS_ENDPOINT_URL_LAMBDA": lambda_service.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-west-2",
            "AWS_DEFAULT_REGION": "us-west-2",
            "AWS_ACCESS_KEY_ID": lambda_service.access_key,
            "AWS_SECRET_ACCESS_KEY": lambda_service.secret_key,
        }
        reached |= s3
        hidden = ("EARTHDATA_", "AWS_ENDPOINT_URL_LAMBDA")
        workers = {n: v for n, v in reached.items() if not n.startswith(hidden)}
        lambda_service.deploy(
            FUNCTION,
            HANDLER,
            folder=tmp_path / "task",
            timeout=900.0,
            memory_mb=2048,
            concurrency=None,
            architecture="arm64",
            environment=workers | {"PYTHONPATH": str(ROOT)},
        )
        return reached

    yield lead_to
    if FUNCTION in lambda_service.account.functions:
        lambda_service.remove(FUNCTION)


@pytest.fixture
def hub(amazon, s3_server):
    """A hub: its operator has set everything in the environment."""
    s3_server.bucket("scratch")
    known = {
        "AWS_ENDPOINT_URL_S3": s3_server.endpoint,
        "AWS_ACCESS_KEY_ID": s3_server.access_key,
        "AWS_SECRET_ACCESS_KEY": s3_server.secret_key,
    }
    return amazon(known) | {"SCRATCH_BUCKET": "s3://scratch/you"}


@pytest.fixture
def account(amazon, tiny_package, moto_server):
    """An account that is empty before and after, and a package that needs not be built."""
    known = amazon({})
    yield known | {"MAGG_PACKAGE": str(tiny_package)}
    boto3 = pytest.importorskip("boto3")

    keys = dict.fromkeys(("aws_access_key_id", "aws_secret_access_key"), "x")
    session = boto3.session.Session(region_name="us-west-2", **keys)

    def client(service):
        return session.client(service, endpoint_url=moto_server)

    assert client("s3").list_buckets()["Buckets"] == []
    assert client("lambda").list_functions()["Functions"] == []
    assert client("cloudformation").describe_stacks()["Stacks"] == []


@pytest.fixture
def alone():
    """Nothing but this machine."""
    return {}


PLACES = {"02": "hub", "03": "account", "06": "nasa"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path, request, tmp_path):
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    place = request.getfixturevalue(PLACES.get(path.name[:2], "alone"))
    # A short name, so that tables need not break it.
    with tempfile.TemporaryDirectory(prefix="m-") as name:
        folder = Path(name).resolve()
        done = execute(path, folder, environment(tmp_path, **place))
        assert {each.name for each in folder.iterdir()} <= {"magg-examples"}
        if os.environ.get("MAGG_KEEP_EXAMPLES"):
            keep(done, path, folder)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_with_its_outputs_small_and_clean(path):
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert path.stat().st_size < 200 * KIB
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for output in outputs(notebook):
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.text
    text = path.read_text(encoding="utf-8")
    assert "/tmp/" not in text  # noqa: S108
    assert "/home/" not in text


def test_the_examples_are_named_in_their_readme():
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert NOTEBOOKS
    assert [path.name for path in NOTEBOOKS if f"({path.name})" not in text] == []

"""The drivers for cron and Slurm under scripts/, run as these run them."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from remote_runs import arrays, assert_same

from magg import Catalog, run
from magg.store.inspect import describe

ROOT = Path(__file__).parents[1]
CRON, SLURM = ROOT / "scripts" / "cron_month.sh", ROOT / "scripts" / "slurm_array.sh"
PATIENCE_S = 500


def environment(**variables):
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("MAGG_", "SLURM_"))}
    command = {"MAGG": f"{sys.executable} -m magg", "PYTHONPATH": str(ROOT)}
    return kept | command | {name: str(value) for name, value in variables.items()}


def start(script, **variables):
    return subprocess.Popen(
        ["bash", str(script)],
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process):
    try:
        told = process.communicate(timeout=PATIENCE_S)[0]
    finally:
        process.kill()
    return process.returncode, told


@pytest.fixture
def month(region, tmp_path):
    """Return the variables of a month whose granules are on disk."""
    return {
        "MAGG_STORES": tmp_path / "stores",
        "MAGG_MONTH": "2023-01",
        "MAGG_GRANULES": region[0].parent,
        "MAGG_WORK": tmp_path / "work",
    }


def test_cron_makes_the_store_of_the_month_and_a_second_time_skips_all(
    month, config, region, tmp_path
):
    status, told = ended(start(CRON, **month))
    assert status == 0, told
    assert "2023-01: ended with status 0" in told
    store = tmp_path / "stores" / "ATL06-2023-01.zarr"
    catalog = Catalog.from_files(region)
    again = run(config, catalog=catalog, store=store, progress=False)
    assert again["cells_skipped"] == again["total_cells"] == len(catalog)
    status, told = ended(start(CRON, **month))
    assert (status, "ended with status 0" in told) == (0, True)


def test_cron_tells_of_failure_by_its_status(month, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    status, told = ended(start(CRON, **month | {"MAGG_GRANULES": empty}))
    assert status != 0, told
    assert not (tmp_path / "stores").exists()


def test_cron_does_a_month_once_at_a_time(month, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    with (work / "ATL06-2023-01.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        status, told = ended(start(CRON, **month))
    assert (status, "is being done already" in told) == (0, True)
    assert not (tmp_path / "stores").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [({"MAGG_MONTH": "2023-13"}, "which is no month"), ({"MAGG_STORES": ""}, "set MAGG_STORES")],
)
def test_cron_refuses_what_makes_no_sense(month, change, words):
    status, told = ended(start(CRON, **month | change))
    assert status != 0
    assert words in told


def test_cron_asks_cmr_for_the_last_month_that_is_over(tmp_path):
    fake = tmp_path / "magg"
    fake.write_text('#!/bin/sh\necho "$@"\n')
    fake.chmod(0o755)
    variables = {"MAGG": fake, "MAGG_STORES": "s3://b/m/", "MAGG_WORK": tmp_path}
    status, told = ended(start(CRON, **variables, MAGG_OPTIONS="--backend lambda"))
    assert status == 0, told
    first, last, area = re.search(
        r"catalog cmr ATL06 --start-date (\S+) --end-date (\S+) (.*) -o", told
    ).groups()
    assert (first[-2:], first[:7], area) == ("01", last[:7], "--polygon antarctica")
    assert 28 <= int(last[-2:]) <= 31
    assert f"--store s3://b/m/ATL06-{first[:7]}.zarr --quiet --backend lambda" in told


def array(catalog, store, **variables):
    return {
        "MAGG_CATALOG": catalog,
        "MAGG_STORE": store,
        "SLURM_CPUS_PER_TASK": 2,
        **variables,
    }


def test_the_jobs_of_an_array_make_one_store_together(config, catalog, tmp_path):
    path, store = catalog.save(tmp_path / "catalog.json"), tmp_path / "s.zarr"
    parts = len(catalog) + 1  # the last has nothing to do
    jobs = [
        start(SLURM, **array(path, store), SLURM_ARRAY_TASK_ID=number, SLURM_ARRAY_TASK_MAX=parts)
        for number in range(1, parts + 1)
    ]
    for status, told in [ended(job) for job in jobs]:
        assert status == 0, told
    alone = tmp_path / "alone.zarr"
    expected = arrays(alone, run(config, catalog=catalog, store=alone, progress=False))
    again = run(config, catalog=catalog, store=store, progress=False)
    assert again["cells_skipped"] == len(catalog)
    found, _ = arrays(store, again)
    assert_same((found, expected[1]), expected)


def test_some_jobs_of_an_array_can_be_done_again(catalog, tmp_path):
    path, store = catalog.save(tmp_path / "catalog.json"), tmp_path / "s.zarr"
    job = array(path, store, MAGG_PARTS=len(catalog), SLURM_ARRAY_TASK_ID=2)
    status, told = ended(start(SLURM, **job, SLURM_ARRAY_TASK_MAX=2))
    assert status == 0, told
    cells = describe(str(store))["cells"]
    assert cells["data"] + cells["empty"] == 1
    assert cells["missing"] == len(catalog) - 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"SLURM_ARRAY_TASK_ID": ""}, "run this with sbatch"),
        ({"MAGG_STORE": ""}, "set MAGG_STORE"),
        ({"SLURM_ARRAY_TASK_ID": "5"}, "part must be such as '3/12'"),
    ],
)
def test_a_job_refuses_what_makes_no_sense(catalog, tmp_path, change, words):
    path = catalog.save(tmp_path / "catalog.json")
    job = array(path, tmp_path / "s.zarr", SLURM_ARRAY_TASK_ID=1, SLURM_ARRAY_TASK_MAX=4)
    status, told = ended(start(SLURM, **job | change))
    assert status != 0
    assert words in told
    assert not (tmp_path / "s.zarr").exists()

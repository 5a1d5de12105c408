"""Runs over granules that lie at Earthdata: the same numbers as from disk, by either way."""

from __future__ import annotations

import gzip
import json
import logging
import pickle
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from catalog.orbits import gpolygon
from services.earthdata import BUCKET, DATA, HANG_UP, S3, SIGNED, Answer

from magg import Catalog, run, wire
from magg.cell import CellTask
from magg.credentials import Access, BearerToken, Earthdata, S3Credentials, Secret
from magg.errors import CatalogError, CredentialsError, GranuleError, PayloadError
from magg.events import IndexStarted
from magg.executors import CloudExecutor, offload
from magg.executors.retry import Policy
from magg.granules import open_source, use_access
from magg.plan import make_plan
from magg.store.template import Chunks

CELLS = 2


def footprint(path):
    """Return a footprint of few vertices, as CMR has it."""
    sides = []
    with h5py.File(path) as file:
        for beam in [
            name for name in ("gt1l", "gt2l", "gt3r") if f"{name}/land_ice_segments" in file
        ][::1]:
            group = file[f"{beam}/land_ice_segments"]
            rows = np.linspace(0, group["latitude"].size - 1, 4).astype(int)
            sides.append(np.column_stack([group["longitude"][:][rows], group["latitude"][:][rows]]))
    return gpolygon(np.concatenate([sides[0], sides[-1][::-1], sides[0][:1]]))


@pytest.fixture
def archive(earthdata, region, monkeypatch):
    """Return Earthdata with six granules."""
    monkeypatch.setattr("magg.runner.POLICY", Policy(base_s=0.01))
    for path in region:
        earthdata.serve(path, extent=footprint(path))
    return earthdata


@pytest.fixture
def found(archive):
    return Catalog.from_cmr("ATL06", bbox=(-104, -77, -98, -74))


@pytest.fixture
def cells(catalog):
    """Return the cells with the fewest granules, for speed."""
    return sorted(catalog.cells, key=lambda cell: len(catalog.cells[cell]))[:CELLS]


def with_access(config, access):
    return replace(config, data_source=replace(config.data_source, access=access))


def numbers(summary):
    return sorted((r["cell"], r["observations"], r["children"]) for r in summary["results"])


@pytest.fixture
def expected(config, catalog, cells, tmp_path):
    return numbers(run(config, catalog=catalog.subset(cells=cells), store=tmp_path / "local.zarr"))


def test_the_catalog_from_cmr_lacks_no_granule_that_has_rows_in_a_cell(found, catalog):
    for cell, granules in catalog.cells.items():
        names = {granule.rpartition("/")[2] for granule in found.cells[cell]}
        assert {granule.rpartition("/")[2] for granule in granules} <= names


@pytest.mark.parametrize("access", ["direct", "external"])
def test_granules_at_earthdata_give_the_numbers_of_those_on_disk(
    config, archive, found, cells, expected, tmp_path, access, caplog
):
    caplog.set_level(logging.INFO, "magg")
    summary = run(
        with_access(config, access), catalog=found.subset(cells=cells), store=tmp_path / "out.zarr"
    )
    assert not summary["errors"]
    assert numbers(summary) == expected
    assert f"data_source.access is {access}" in caplog.text
    assert bool(archive.requests_to(S3)) == (access == "direct")
    assert bool(archive.requests_to(SIGNED)) == (access == "external")
    assert not archive.strangers


def test_the_bearer_token_goes_to_earthdata_alone(config, archive, found, cells, tmp_path):
    run(
        with_access(config, "external"),
        catalog=found.subset(cells=cells[:1]),
        store=tmp_path / "out.zarr",
    )
    bearer = f"Bearer {archive.token}"
    told = {one.host for one in archive.asked if bearer in one.headers.values()}
    assert told == {DATA}
    assert not archive.strangers
    assert archive.requests_to(SIGNED)


def test_hosts_that_are_not_earthdatas_and_other_buckets_are_told_nothing(
    archive, region, monkeypatch
):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "of-the-user")
    mine = Earthdata()
    credentials = mine.s3(f"https://{DATA}/s3credentials")
    use_access(Access({BUCKET: credentials}, mine.token()))
    for url in (f"https://{SIGNED}/a.h5", f"https://{S3}/a.h5", "s3://of-the-user/a.h5"):
        with pytest.raises(GranuleError):
            open_source(url)
    told = [one for one in archive.asked if one.host in (SIGNED, S3)]
    assert len(told) >= 3
    shown = json.dumps([one.headers for one in told])
    assert not [secret for secret in archive.secrets if secret in shown]


def test_a_rerun_by_the_other_way_has_nothing_to_do(config, found, cells, tmp_path):
    part = found.subset(cells=cells[:1])
    run(with_access(config, "direct"), catalog=part, store=tmp_path / "out.zarr")
    again = run(with_access(config, "external"), catalog=part, store=tmp_path / "out.zarr")
    assert again["cells_skipped"] == 1


def test_worker_processes_get_what_they_need_with_their_tasks(
    config, archive, found, cells, expected, tmp_path
):
    summary = run(
        with_access(config, "direct"),
        catalog=found.subset(cells=cells),
        store=tmp_path / "out.zarr",
        backend="processes",
        max_workers=1,
    )
    assert not summary["errors"]
    assert numbers(summary) == expected
    assert len(archive.requests_to(DATA, "/s3credentials")) == 1


def test_refused_credentials_are_replaced_and_the_cell_done_again(
    config, archive, found, cells, expected, tmp_path
):
    issue = archive.issue

    def first_is_refused():
        answer = issue()
        if len(archive.issued) == 1:
            archive.refused_keys.add(answer["accessKeyId"])
        return answer

    archive.issue = first_is_refused
    summary = run(
        with_access(config, "direct"),
        catalog=found.subset(cells=cells),
        store=tmp_path / "out.zarr",
    )
    assert not summary["errors"]
    assert numbers(summary) == expected
    assert summary["retries"] >= 1
    assert len(archive.issued) == 2


def test_a_refusal_that_new_credentials_do_not_mend_ends_after_one_more_attempt(
    config, archive, found, cells, tmp_path
):
    issue = archive.issue

    def refused():
        answer = issue()
        archive.refused_keys.add(answer["accessKeyId"])
        return answer

    archive.issue = refused
    summary = run(
        with_access(config, "direct"),
        catalog=found.subset(cells=cells[:1]),
        store=tmp_path / "out.zarr",
    )
    assert summary["retries"] == 1
    assert len(archive.issued) == 2
    assert "direct S3 works in us-west-2 alone" in summary["errors"][0]["message"]


def test_credentials_that_expired_in_a_worker_are_replaced(
    config, archive, found, cells, expected, tmp_path
):
    issue = archive.issue

    def first_expires():
        archive.lifetime_s = 3600.0 if archive.issued else -5.0
        answer = issue()
        return answer | {"expiration": "2099-01-01 00:00:00+00:00"}

    archive.issue = first_expires
    summary = run(
        with_access(config, "direct"),
        catalog=found.subset(cells=cells),
        store=tmp_path / "out.zarr",
    )
    assert not summary["errors"]
    assert numbers(summary) == expected


def test_a_retry_for_another_reason_keeps_the_credentials(config, archive, found, tmp_path):
    plan = make_plan(with_access(config, "direct"), found, tmp_path / "out.zarr")
    first = plan.reach.of(plan.cells[0])
    assert plan.reach.of(plan.cells[0]) == first
    plan.reach.refuse(plan.cells[0])
    second = plan.reach.of(plan.cells[0])
    assert second != first
    assert plan.reach.of(plan.cells[0]) == second


def test_every_task_is_made_with_credentials_that_will_last(
    config, archive, found, tmp_path, monkeypatch
):
    moment = [time.time()]
    monkeypatch.setattr(time, "time", lambda: moment[0])
    plan = make_plan(with_access(config, "direct"), found, tmp_path / "out.zarr")
    chunks = plan.prepare_store()
    archive.lifetime_s = 0.4
    cell = plan.cells[0]
    first = plan.task(plan.cells[1], chunks).access
    assert plan.task(cell, chunks).access == first
    archive.lifetime_s = 3600.0
    moment[0] += 1.2
    second = plan.task(plan.cells[2], chunks).access
    assert second.buckets[BUCKET].expires > first.buckets[BUCKET].expires + 3000
    assert plan.task(plan.cells[3], chunks).access == second


def test_an_older_catalog_is_read_with_credentials_of_its_collection(
    config, archive, found, cells, expected, tmp_path
):
    document = {
        "metadata": {"parent_order": 6, "total_cells": len(cells), "short_name": "ATL06"},
        "catalog": {cell: list(found.cells[cell]) for cell in cells},
    }
    path = tmp_path / "older.json"
    path.write_text(json.dumps(document))
    summary = run(with_access(config, "direct"), catalog=path, store=tmp_path / "out.zarr")
    assert numbers(summary) == expected
    with pytest.raises(CatalogError, match="no HTTPS link"):
        make_plan(with_access(config, "external"), path, tmp_path / "b.zarr").reach.of(cells[0])


@pytest.mark.parametrize(
    ("environment", "runs_in", "how"),
    [
        ({}, None, "over HTTPS"),
        ({"AWS_REGION": "us-west-2"}, None, "over HTTPS"),
        ({"AWS_REGION": "us-west-2", "AWS_EXECUTION_ENV": "x"}, None, "directly from S3"),
        ({"AWS_REGION": "eu-west-1", "AWS_WEB_IDENTITY_TOKEN_FILE": "x"}, None, "over HTTPS"),
        ({}, "us-west-2", "directly from S3"),
    ],
)
def test_the_way_is_chosen_by_where_the_cells_run(
    config, found, tmp_path, monkeypatch, caplog, environment, runs_in, how
):
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_EXECUTION_ENV"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    caplog.set_level(logging.INFO, "magg")
    make_plan(config, found, tmp_path / "out.zarr", cells_run_in=runs_in)
    assert f"granules are read {how}" in caplog.text


class Keeping(ThreadPoolExecutor, CloudExecutor):
    """Writes down what it is given, as engines do that send calls through a bucket."""

    keeps_calls = sees_local_files = True

    def __init__(self):
        super().__init__(2)
        self.written = []

    def submit(self, fn, /, *args):
        self.written.append(json.dumps([wire.unstructure(arg) for arg in args]))
        return super().submit(fn, *args)


@pytest.mark.parametrize("access", ["direct", "external"])
def test_where_calls_are_written_down_workers_use_a_token_of_their_own(
    config, archive, found, cells, expected, tmp_path, monkeypatch, access
):
    some = found.subset(cells=cells)
    with Keeping() as executor:
        options = {"catalog": some, "store": tmp_path / "out.zarr", "executor": executor}
        with pytest.raises(CredentialsError, match="EARTHDATA_TOKEN in their environment"):
            run(with_access(config, access), **options)
        monkeypatch.setenv("EARTHDATA_TOKEN", archive.token)
        summary = run(with_access(config, access), **options)
    assert numbers(summary) == expected
    assert len(executor.written) == 2 + len(cells)
    assert not any(archive.token in text for text in executor.written)
    assert "accessKey" not in str(executor.written)


def test_nothing_that_holds_a_credential_is_written_to_a_bucket():
    secret = Secret("a-secret-of-some-length")
    with pytest.raises(PayloadError, match="never written to a bucket"):
        offload.put("s3://b/p", f'["{secret.reveal()}"]'.encode(), None)


def test_local_files_need_no_login_and_no_network(config, catalog, cells, earthdata, tmp_path):
    run(config, catalog=catalog.subset(cells=cells[:1]), store=tmp_path / "out.zarr")
    assert not earthdata.asked
    assert not earthdata.strangers


def test_without_a_login_no_cell_is_started(config, archive, found, cells, tmp_path, monkeypatch):
    monkeypatch.delenv("EARTHDATA_USERNAME")
    with pytest.raises(CredentialsError, match="there is no Earthdata login: set EARTHDATA_TOKEN"):
        run(config, catalog=found.subset(cells=cells), store=tmp_path / "out.zarr")


def test_a_dry_run_needs_no_login(config, archive, found, cells, tmp_path):
    asked = len(archive.asked)
    run(config, catalog=found.subset(cells=cells), store=tmp_path / "out.zarr", dry_run=True)
    assert len(archive.asked) == asked


# --- secrets -----------------------------------------------------------------------------------


def everything_below(folder):
    for path in folder.rglob("*"):
        if path.is_file():
            yield path.name.encode() + path.read_bytes()


@pytest.mark.parametrize("access", ["direct", "external"])
@pytest.mark.parametrize("outcome", ["good", "failing"])
def test_no_secret_is_in_anything_that_a_run_leaves_behind(
    config, archive, found, cells, tmp_path, capfd, caplog, access, outcome
):
    caplog.set_level(logging.DEBUG)
    logging.getLogger("urllib3").setLevel(logging.INFO)
    found.save(tmp_path / "catalog.json")
    if outcome == "failing":
        archive.lifetime_s = -5.0
        issue = archive.issue
        archive.issue = lambda: issue() | {"expiration": "2099-01-01 00:00:00+00:00"}
        archive.instead(SIGNED, *[Answer(HANG_UP)] * 2, *[Answer(403)] * 500)
    heard = []
    summary = run(
        with_access(config, access),
        catalog=Catalog.load(tmp_path / "catalog.json").subset(cells=cells),
        store=tmp_path / "out.zarr",
        progress=lambda event: heard.append(repr(event)),
    )
    assert bool(summary["errors"]) == (outcome == "failing")
    plan = make_plan(with_access(config, access), found, tmp_path / "out.zarr")
    task = plan.task(cells[0], Chunks({int(word): 0 for word in found.words}, "made"))
    texts = [repr(plan), repr(task), str(task), f"{task}", repr(plan.reach), repr(vars(plan.reach))]
    out, err = capfd.readouterr()
    texts += [out, err, caplog.text, json.dumps(summary), *heard]
    texts += [
        repr(pickle.loads(pickle.dumps(task))),  # noqa: S301 - of this very process
        repr(wire.structure(wire.unstructure(task.access), Access)),
    ]
    left = "\n".join(texts).encode() + b"\n".join(everything_below(tmp_path))
    assert len(archive.secrets) > 3
    assert not [secret for secret in archive.secrets if secret.encode() in left]


def test_errors_of_credentials_hold_no_secret(archive, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    archive.instead(DATA, *[Answer(403, f"no licence for {archive.token}")] * 9)
    with pytest.raises(CredentialsError, match="gave no S3 credentials") as caught:
        Earthdata().s3(f"https://{DATA}/s3credentials")
    told = "".join(traceback.format_exception(caught.value))
    assert "no licence for <secret>" in told
    assert archive.token not in told


def test_a_task_goes_through_json_whole(config, archive, found, cells, tmp_path):
    plan = make_plan(with_access(config, "direct"), found, tmp_path / "out.zarr")
    task = plan.task(cells[0], Chunks({int(word): 0 for word in found.words}, "made"))
    again = wire.structure(json.loads(json.dumps(wire.unstructure(task))), CellTask)
    assert again == task
    assert again.access.buckets[BUCKET].secret.reveal() in archive.secrets


@pytest.mark.parametrize(
    "endpoint", ["http://{}/s3credentials", "https://{}.evil.test/s3credentials"]
)
def test_the_login_is_sent_to_no_address_but_earthdatas(earthdata, endpoint):
    with pytest.raises(CredentialsError, match="no https:// address of Earthdata"):
        Earthdata().s3(endpoint.format(DATA))
    assert not earthdata.asked


def test_secrets_show_nothing_of_themselves():
    secret = Secret("a very secret text")
    credentials = S3Credentials(secret, secret, secret)
    access = Access({"bucket": credentials}, BearerToken(secret))
    for shown in (secret, credentials, access, [access], {"x": secret}):
        for text in (repr(shown), str(shown), f"{shown}", f"{shown!s:>40}"):
            assert "very" not in text


@pytest.mark.parametrize(("made", "used"), [("direct", "external"), ("external", "direct")])
def test_an_index_that_is_made_by_one_way_serves_the_other(
    config, archive, found, cells, expected, tmp_path, made, used
):
    part = found.subset(cells=cells)
    part.save(tmp_path / "catalog.json")
    built = part.build_index(with_access(config, made), progress=False)
    assert built["errors"] == []
    assert built["granules_surveyed"] == len(part.granules)
    lines = gzip.decompress(Path(built["index_path"]).read_bytes()).decode()
    assert not [secret for secret in archive.secrets if secret in lines]
    heard = []
    summary = run(
        with_access(config, used),
        catalog=part,
        store=tmp_path / "out.zarr",
        progress=heard.append,
    )
    assert not [event for event in heard if isinstance(event, IndexStarted)]  # all is still true
    assert not summary["errors"]
    assert numbers(summary) == expected
    assert not archive.strangers


def test_credentials_that_are_refused_in_a_survey_are_replaced(
    config, archive, found, cells, tmp_path
):
    issue = archive.issue

    def first_is_refused():
        answer = issue()
        if len(archive.issued) == 1:
            archive.refused_keys.add(answer["accessKeyId"])
        return answer

    archive.issue = first_is_refused
    part = found.subset(cells=cells[:1])
    part.save(tmp_path / "catalog.json")
    built = part.build_index(with_access(config, "direct"), progress=False)
    assert built["errors"] == []
    assert len(archive.issued) == 2

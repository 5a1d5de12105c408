"""Runs from S3 to S3 behind a proxy that breaks requests by script."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import obstore.store
import pytest
from cell_faults import assert_complete, assert_no_false_done, cells_of, done_cells
from services.faults import Fault
from services.proxy import FaultProxy
from services.s3 import Bucket

import magg.runner
from magg import Catalog, run
from magg.errors import MaggError
from magg.executors.retry import Policy
from magg.grid import from_decimal
from magg.plan import make_plan
from magg.store import lock

CELLS = 4
VARIABLES = ("count", "h_mean", "h_q50")
# The sites at which random scripts strike: method and key. Listings and deletions have no key.
SITES = [
    ("GET", "granules/*"),
    ("HEAD", "granules/*"),
    ("PUT", "*/c/*"),
    ("PUT", "*/h_mean/c/*"),
    ("PUT", "*/.magg/cells/*"),
    ("PUT", "*/.magg/writing/*"),
    ("GET", "*/.magg/writing/*"),
    ("*", "*/.magg/lock"),
    ("*", "*zarr.json"),
    ("GET", ""),
    ("POST", ""),
    ("*", "*"),
]
KINDS = ["drop", "drop-answer", "truncate", "500", "503", "400", "403"]
POLICY = Policy(base_s=0.002)
OBSTORE_RETRIES = 1
OBSTORE_RETRY = {
    "max_retries": OBSTORE_RETRIES,
    "backoff": {
        "init_backoff": timedelta(milliseconds=1),
        "max_backoff": timedelta(milliseconds=2),
        "base": 2,
    },
}


class HastyStore(obstore.store.S3Store):
    """A bucket that obstore tries again once, where it else does ten times for minutes."""

    def __new__(cls, *args, **options):
        return super().__new__(cls, *args, **options, retry_config=OBSTORE_RETRY)


HastyStore.__module__ = "obstore.store"  # by which zarr knows a store of obstore


@dataclass(frozen=True)
class World:
    """A few cells of granules in a bucket, a proxy before it, and what the cells come to."""

    config: object
    catalog: Catalog
    expected: dict
    template: dict
    bucket: Bucket
    proxy: FaultProxy
    folder: Path
    forget: object

    def run(self, store, **options):
        """Call `run` as a new process would, without anything that was read before."""
        self.forget(self.proxy.endpoint)
        arguments = {"catalog": self.catalog, "store": self.bucket.url(store), "progress": False}
        return run(self.config, **(arguments | {"max_workers": 2} | options))

    def prepare(self, store):
        """Upload what a run makes before its first cell."""
        for name, data in self.template.items():
            self.bucket.put(f"{store}/{name}", data)

    def copy(self, store):
        """Return a local copy of a store as it is now, past the proxy."""
        here = Path(self.folder / f"{store}-{random.getrandbits(64):x}")
        here.mkdir()
        for key in self.bucket.keys(store):
            path = here / Path(key).relative_to(store)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.bucket.get(key))
        return here

    def reading(self, granule):
        return {c for c, of in self.catalog.cells.items() if any(u.endswith(granule) for u in of)}

    def in_chunk(self, chunk):
        return sorted(self.catalog.cells, key=from_decimal)[chunk]


@pytest.fixture(scope="module")
def parts(small, s3_server, tmp_path_factory):
    """Return what is the same in every world."""
    variables = {name: small.config.statistics[name] for name in VARIABLES}
    config = replace(
        small.config, aggregation=replace(small.config.aggregation, variables=variables)
    )
    # Of two granules, so that a cell could be made of fewer than it has, and without the second.
    of = small.catalog.cells
    two = [cell for cell in of if len(of[cell]) == 2][: CELLS // 2]
    others = [cell for cell in of if not any("g1.h5" in str(name) for name in of[cell])]
    local = Catalog(small.catalog.parent_order, {i: of[i] for i in two + others[: CELLS // 2]})
    empty = tmp_path_factory.mktemp("template") / "s.zarr"
    make_plan(config, local, empty).prepare_store()
    files = [path for path in empty.rglob("*") if path.is_file()]
    template = {str(path.relative_to(empty)): path.read_bytes() for path in files}
    store = tmp_path_factory.mktemp("expected") / "s.zarr"
    assert run(config, catalog=local, store=store, progress=False)["cells_error"] == 0
    bucket = s3_server.bucket("s3-faults")
    for granule in small.granules:
        bucket.put(f"granules/{granule.name}", granule)
    cells = {
        cell: tuple(bucket.url(f"granules/{Path(name).name}") for name in granules)
        for cell, granules in local.cells.items()
    }
    return config, Catalog(local.parent_order, cells), cells_of(store), template, bucket


@pytest.fixture
def patient(parts, fault_proxy, aws_environment, monkeypatch, tmp_path):
    """Return the world with obstore as it is."""
    monkeypatch.setattr(magg.runner, "POLICY", POLICY)
    # What a failed deletion leaves is taken over soon.
    monkeypatch.setattr(lock, "STALE_AFTER_S", 0.3)
    return World(*parts, fault_proxy(), tmp_path, aws_environment)


@pytest.fixture
def world(patient, monkeypatch):
    """Return the world with an obstore that gives up soon."""
    monkeypatch.setattr(obstore.store, "S3Store", HastyStore)
    return patient


def assert_told(world, summary, doomed, *words):
    """Check that exactly the doomed cells are errors, in words made for people."""
    assert {error["cell"] for error in summary["errors"]} == set(doomed)
    for error in summary["errors"]:
        message = error["message"]
        assert message.startswith("s3://s3-faults/")
        assert all(word in message for word in words), message
        server = world.bucket.server
        unwanted = ("\n", "<", "Debug source", server.secret_key, server.access_key)
        assert [part for part in unwanted if part in message] == []
        assert len(message) < 600


def assert_true_to_store(summary, copy):
    """Check that each cell that a summary calls done has its record."""
    done = {r["cell"] for r in summary["results"] if r["status"] in ("data", "empty")}
    assert done <= done_cells(copy)


def slow_unless(quick, cases):
    """Return the cases, all but some of them for the slow run."""
    return [pytest.param(*case, marks=() if case in quick else pytest.mark.slow) for case in cases]


@pytest.mark.parametrize(
    "kind",
    slow_unless(
        [("latency",), ("drop-answer",), ("truncate",), ("503",)],
        [(kind,) for kind in ("latency", *KINDS)],
    ),
)
def test_a_fault_of_each_kind_at_each_site_passes_within_one_run(patient, kind):
    options = {"times": 1} | ({"seconds": 0.2} if kind == "latency" else {})
    sites = [("GET", "granules/*")] + [
        ("PUT", f"*/{key}") for key in ("h_mean/c/1", "h_q50/c/0", ".magg/cells/*")
    ]
    if kind == "truncate":  # of an answer with a body
        sites = [("GET", "granules/*"), ("GET", "*/.magg/writing/*")]
    patient.proxy.follow(*(Fault(kind, *site, **options) for site in sites))
    summary = patient.run("passing-" + kind)
    assert summary["errors"] == []
    assert sum(bool(request.faults) for request in patient.proxy.requests) == len(sites)
    assert_complete(patient.copy("passing-" + kind), patient.expected)


@pytest.mark.parametrize(
    ("failures", "retries"),
    slow_unless([(5, 2)], [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2)]),
)
@pytest.mark.parametrize("site", ["*/h_mean/c/1", "*/.magg/cells/{}/*"], ids=["chunk", "record"])
def test_the_attempts_of_a_cell_are_those_of_the_policy(world, site, failures, retries):
    key, store = site.format(world.in_chunk(1)), f"attempts-{failures}-{len(site)}"
    world.proxy.follow(Fault("503", "PUT", key, attempts=range(1, failures + 1)))
    summary = world.run(store)
    assert summary["errors"] == []
    assert summary["retries"] == retries
    assert world.proxy.attempts("PUT", key) == failures + 1
    assert_complete(world.copy(store), world.expected)


ADVICE = {"400": "renew the credentials", "403": "renew the credentials"}


STAYING = [("granule", kind) for kind in KINDS] + [
    (site, kind) for site in ("chunk", "record") for kind in KINDS if kind != "truncate"
]
STAYING.remove(("record", "drop-answer"))  # a record that is there is found
STAYING_QUICK = [("granule", "truncate"), ("chunk", "503"), ("record", "403")]


@pytest.mark.parametrize(("site", "kind"), slow_unless(STAYING_QUICK, STAYING))
def test_a_fault_that_stays_fails_its_cells_and_no_other_until_it_is_gone(world, site, kind):
    store, cell = f"staying-{site}-{kind}", world.in_chunk(1)
    method, key, doomed = {
        "granule": ("*", "granules/g1.h5", world.reading("g1.h5")),
        "chunk": ("PUT", "*/h_mean/c/1", {cell}),
        "record": ("PUT", f"*/.magg/cells/{cell}/*", {cell}),
    }[site]
    assert 0 < len(doomed) < CELLS
    world.proxy.follow(Fault(kind, method, key))
    summary = world.run(store)
    assert_told(world, summary, doomed, "tried 3 times", ADVICE.get(kind, "run again"))
    if site != "granule":
        again = 1 if kind in ADVICE else 1 + OBSTORE_RETRIES
        assert world.proxy.attempts("PUT", key) == again * (1 + POLICY.retries)
    copy = world.copy(store)
    assert done_cells(copy) == set(world.expected) - doomed
    assert_no_false_done(copy, world.expected)
    assert_true_to_store(summary, copy)
    world.proxy.follow()
    summary = world.run(store)
    assert summary["errors"] == []
    assert summary["cells_skipped"] == len(world.expected) - len(doomed)
    assert_complete(world.copy(store), world.expected)


def test_a_record_of_which_only_the_answer_is_lost_is_found(world):
    cell = world.in_chunk(1)
    world.proxy.follow(Fault("drop-answer", "PUT", f"*/.magg/cells/{cell}/*"))
    summary = world.run("lost-answer")
    assert summary["errors"] == []
    assert summary["retries"] == 0
    assert_complete(world.copy("lost-answer"), world.expected)


def test_a_record_that_is_not_there_is_not_found(world):
    cell = world.in_chunk(1)
    lost = Fault("drop", "PUT", f"*/.magg/cells/{cell}/*")
    world.proxy.follow(lost, Fault("503", "GET", f"*/.magg/cells/{cell}/*"))
    summary = world.run("lost-record")
    assert_told(world, summary, {cell}, "tried 3 times")
    assert_true_to_store(summary, world.copy("lost-record"))


@pytest.mark.parametrize(
    ("faults", "retries"),
    [
        ([Fault("503", "PUT", "*/h_mean/c/*", times=2), Fault("drop", "GET", "granules/*")], 0),
        ([Fault("403", "PUT", "*/.magg/writing/*", times=1)], 1),
        ([Fault("drop-answer", "PUT", "*/.magg/cells/*", attempts=[1])], 0),
    ],
    ids=["passing", "expired", "lost answers"],
)
def test_worker_processes_come_through_faults(patient, faults, retries):
    faults = [replace(fault, times=fault.times or 3) for fault in faults]
    patient.proxy.follow(*faults)
    store = f"processes-{faults[0].kind}"
    summary = patient.run(store, backend="processes")
    assert summary["errors"] == []
    assert summary["retries"] == retries
    assert any(request.faults for request in patient.proxy.requests)
    assert_complete(patient.copy(store), patient.expected)


def test_credentials_that_stay_expired_fail_the_cells_of_worker_processes(patient):
    cell = patient.in_chunk(1)
    patient.proxy.follow(Fault("403", "PUT", f"*/.magg/writing/{cell}/*"))
    summary = patient.run("processes-staying", backend="processes")
    assert_told(patient, summary, {cell}, "tried 3 times", "renew the credentials")
    copy = patient.copy("processes-staying")
    assert_true_to_store(summary, copy)
    assert_no_false_done(copy, patient.expected)
    patient.proxy.follow()
    assert patient.run("processes-staying", backend="processes")["errors"] == []
    assert_complete(patient.copy("processes-staying"), patient.expected)


@pytest.mark.parametrize(
    "kind", slow_unless([("truncate",), ("400",)], [(kind,) for kind in KINDS])
)
def test_what_may_pass_is_never_skipped_as_a_granule_that_cannot_be_read(world, kind):
    world.proxy.follow(Fault(kind, "*", "granules/g1.h5"))
    summary = world.run("skip-" + kind, on_granule_error="skip")
    assert_told(world, summary, world.reading("g1.h5"))
    assert not summary["granules_skipped"]


def random_script(seed):
    draw = random.Random(seed)
    return [
        Fault(
            tuple(draw.sample(KINDS, draw.randint(1, 3))),
            *draw.choice(SITES),
            times=draw.choice([1, 2, 4, 8]),
            share=draw.choice([0.2, 0.5, 1.0]),
            seed=draw.getrandbits(32),
        )
        for _ in range(draw.randint(1, 4))
    ]


@pytest.mark.parametrize(
    "seed", [*range(20), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(20, 300))]
)
def test_calls_repeated_end_in_the_undisturbed_store(world, seed):
    script, store = random_script(seed), f"random-{seed}"
    if seed % 3:  # the others make their template behind the faults, too
        world.prepare(store)
    world.proxy.follow(*script)
    # Every call that fails takes a strike at least.
    for _ in range(sum(fault.times for fault in script) + 1):
        try:
            summary = world.run(store)
        except MaggError as error:
            told, summary = str(error), None
        else:
            told = ""
        assert not {"\n", "<"} & set(told)
        copy = world.copy(store)
        assert_no_false_done(copy, world.expected)
        if summary is not None:
            assert_true_to_store(summary, copy)
            assert_told(world, summary, {error["cell"] for error in summary["errors"]})
            if summary["cells_error"] == 0:
                break
    assert summary is not None
    assert summary["cells_error"] == 0
    assert_complete(copy, world.expected)

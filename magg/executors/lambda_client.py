"""A boto3 client for thousands of long calls at once, and what the process needs for it."""

from __future__ import annotations

import os
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any

from magg import __version__
from magg.errors import BackendError
from magg.executors.lambda_errors import missing_boto3, no_credentials

if TYPE_CHECKING:
    from boto3.session import Session
    from botocore.awsrequest import AWSPreparedRequest, AWSResponse
    from botocore.client import BaseClient

CONNECT_TIMEOUT_S = 10.0
# Longer than any function may run, so that a call that still runs is never taken for lost.
READ_TIMEOUT_S = 905.0
# NAT gateways and load balancers forget connections that were silent for 350 s.
KEEP_ALIVE_S = 60
# Files that the rest of the process has open.
SPARE_FILES = 128
# At Python's 5 ms, a thousand threads that are answered together spend their time in switching.
SWITCH_INTERVAL_S = 0.05


def make(region: str | None, max_workers: int) -> BaseClient:
    """Return a client that sends every call once, waits for it, and keeps its connection alive.

    Credentials come from boto3's own chain.

    Parameters
    ----------
    region : str, optional
        That of the environment where left out.
    max_workers : int
        Connections kept open.
    """
    session = open_session(region, "AWS Lambda")
    from botocore.config import Config

    client = session.client(
        "lambda",
        config=Config(
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            max_pool_connections=max_workers,
            retries={"total_max_attempts": 1},
            user_agent_extra=f"magg/{__version__}",
        ),
    )
    # Only a session of one's own can be told when connections are probed.
    sender = _Sender(client.meta.endpoint_url, session._session, max_workers)
    client.meta.events.register("before-send.lambda.Invoke", sender)
    return client


def check(client: BaseClient) -> None:
    """Refuse a client that would call a function twice without being told to.

    Raises
    ------
    BackendError
        If the client repeats requests, or gives a call up before the function's time is over.
    """
    settings = client.meta.config
    attempts = (settings.retries or {}).get("total_max_attempts")
    if attempts != 1 or settings.read_timeout < READ_TIMEOUT_S:
        raise BackendError(
            "the client may call the function twice for one submission; make it with botocore's "
            f"Config(retries={{'total_max_attempts': 1}}, read_timeout={READ_TIMEOUT_S:.0f}), or "
            "pass none"
        )


def open_session(region: str | None, what: str) -> Session:
    """Return a session of boto3 that has a region and credentials.

    Parameters
    ----------
    region : str, optional
        That of the environment where left out.
    what : str
        What it is for.
    """
    try:
        import boto3
        from botocore.exceptions import ProfileNotFound
    except ImportError:
        raise missing_boto3() from None
    try:
        session = boto3.session.Session(region_name=region or os.environ.get("AWS_REGION"))
        credentials = session.get_credentials()
    except ProfileNotFound as error:
        raise BackendError(f"{error}; set AWS_PROFILE to a profile that exists") from None
    if session.region_name is None:
        raise BackendError("no AWS region is set; pass region= or set AWS_REGION")
    if credentials is None:
        raise no_credentials(what)
    return session


class _Sender:
    """Sends requests over connections that are probed while they are silent."""

    def __init__(self, endpoint: str, session: Any, connections: int) -> None:
        from botocore.httpsession import URLLib3Session
        from botocore.utils import get_environ_proxies

        bundle = session.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE")
        self._session = URLLib3Session(
            verify=bundle or True,
            proxies=get_environ_proxies(endpoint),
            timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S),
            max_pool_connections=connections,
            socket_options=keep_alive_options(),
        )

    def __call__(self, request: AWSPreparedRequest, **_: Any) -> AWSResponse:
        return self._session.send(request)


def keep_alive_options() -> list[tuple[int, int, int]]:
    """Return socket options under which a silent connection is probed every minute."""
    # macOS calls the first of them TCP_KEEPALIVE.
    names = ("TCP_KEEPIDLE", "TCP_KEEPALIVE", "TCP_KEEPINTVL")
    known = [getattr(socket, name) for name in names if hasattr(socket, name)]
    return [
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        *((socket.IPPROTO_TCP, option, KEEP_ALIVE_S) for option in known),
    ]


def allow_connections(number: int) -> None:
    """Let the process have so many files open, or say how.

    Raises
    ------
    BackendError
        If the system's limit is lower.
    """
    import resource

    needed = number + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise BackendError(
            f"{number} calls at once need {needed} open files, and this process may have {hard}; "
            f"pass max_workers={max(1, hard - SPARE_FILES)}, or raise the limit (ulimit -Hn)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


# An executor that is dropped may end its patience while this thread begins or ends another.
_switching = threading.RLock()
_patient = 0
_usual_interval = 0.0


def begin_patience() -> None:
    """Let threads run longer before others may; for as long as anyone asked for it."""
    global _patient, _usual_interval
    with _switching:
        if not _patient:
            _usual_interval = sys.getswitchinterval()
            sys.setswitchinterval(max(_usual_interval, SWITCH_INTERVAL_S))
        _patient += 1


def end_patience() -> None:
    """Take back one `begin_patience`."""
    global _patient
    with _switching:
        _patient -= 1
        if not _patient:
            sys.setswitchinterval(_usual_interval)

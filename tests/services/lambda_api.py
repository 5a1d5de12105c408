"""AWS Lambda on loopback: the Invoke API before real `awslambdaric` processes.

What is not emulated is refused with status 501, and remembered in `LambdaService.refused`.
"""

from __future__ import annotations

import os
import re
import secrets
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import pytest

from services.http_server import LoopbackServer
from services.lambda_faults import Refusal
from services.lambda_front import ACCOUNT_ID, Front
from services.lambda_function import Account, Function
from services.lambda_log import LogFormat
from services.lambda_runtime import Invocation
from services.lambda_worker import Settings
from services.s3 import ACCESS_KEY, REGION

ASYNCHRONOUS_ATTEMPTS = 3


class LambdaService:
    """A loopback AWS Lambda that runs in threads of this process; a context manager.

    Its workers are processes that end with this one, in whatever way that ends.

    Attributes
    ----------
    endpoint : str
        Such as ``http://127.0.0.1:34567``.
    access_key, secret_key, region : str
        What clients are to sign with. The access key is that of `S3Server`; signatures are not
        verified.
    refused : list of str
        Requests that were answered 501, because they are not emulated.
    concurrent_executions : int
        The limit of the account; may be set.
    asynchronous_retry_seconds : float
        How long a failed asynchronous invocation waits before it is tried again; may be set.
    """

    def __init__(self) -> None:
        self.access_key, self.region = ACCESS_KEY, REGION
        self.secret_key = secrets.token_hex(20)
        self.asynchronous_retry_seconds = 0.05
        self.refused: list[str] = []
        self.account = Account(1000)
        self.stopping = threading.Event()
        self._asynchronous: set[threading.Thread] = set()
        self._server = LoopbackServer(Front, self)
        self.endpoint = f"http://{self._server.address}"

    @property
    def concurrent_executions(self) -> int:
        return self.account.concurrent_executions

    @concurrent_executions.setter
    def concurrent_executions(self, number: int) -> None:
        self.account.concurrent_executions = number

    def deploy(
        self,
        name: str,
        handler: str = "h.handler",
        *,
        folder: Path | str,
        python: str = sys.executable,
        timeout: float = 60.0,
        memory_mb: int = 512,
        concurrency: int | None = 4,
        environment: Mapping[str, str] | None = None,
        architecture: str = "x86_64",
        init_timeout: float = 60.0,
        log_format: LogFormat = "Text",
        burst: int | None = None,
        rate: float = 100.0,
    ) -> Function:
        """Deploy a function, in place of an earlier one of the name if there is any.

        Parameters
        ----------
        name : str
        handler : str
            Module and function.
        folder : path
            What AWS has as ``/var/task``: the working folder, and first in ``PYTHONPATH``.
        python : str
            An interpreter that has `awslambdaric`.
        timeout : float
            Seconds for one invocation. AWS has 3 where nothing is said, too few for a busy machine.
        memory_mb : int
            A worker that has ever held more is killed.
        concurrency : int or None
            Reserved concurrency: so many workers at most. None shares what the account has left.
        environment : mapping of str to str, optional
            Variables of the workers besides those that Lambda sets, before which they win. A
            ``PYTHONPATH`` comes after the folder. Nothing of this process is inherited.
        architecture : str
            Only told to who asks.
        init_timeout : float
            Seconds for the initialisation before it is tried again at the cost of the invocation.
            AWS has 10.
        log_format : {"Text", "JSON"}
        burst : int or None
            So many new workers may start at once; None for any number. Beyond, invocations are
            throttled.
        rate : float
            How many of the burst come back in a second.

        Raises
        ------
        ValueError
            If there is no such folder or interpreter.
        """
        folder = Path(folder).absolute()
        if not folder.is_dir() or not Path(python).is_file():
            raise ValueError(f"{folder} is no folder, or {python} no interpreter")
        settings = Settings(
            name,
            f"arn:aws:lambda:{self.region}:{ACCOUNT_ID}:function:{name}",
            handler,
            folder,
            python,
            timeout,
            memory_mb,
            dict(environment or {}),
            architecture,
            init_timeout,
            log_format,
        )
        variables = self._lambda_variables(settings) | settings.environment
        function = Function(settings, self.account, variables, concurrency, burst, rate)
        with self.account.lock:
            before = self.account.functions.get(name)
            self.account.functions[name] = function
        if before:
            before.stop()
        return function

    def remove(self, name: str) -> None:
        """Forget a function and end its workers, also those that run a handler."""
        with self.account.lock:
            function = self.account.functions.pop(name)
        function.stop()

    def folders(self) -> list[Path]:
        """Return the folders of all workers, which are deleted when these end."""
        with self.account.lock:
            functions = list(self.account.functions.values())
        return [folder for function in functions for folder in function.folders()]

    def environment(self) -> dict[str, str]:
        """Return the variables that lead AWS clients here, and nowhere else.

        Where there is an S3 server too, its variables come after these:
        ``service.environment() | s3_server.environment()``.
        """
        nowhere = "http://127.0.0.1:1"
        return {
            "AWS_ENDPOINT_URL": nowhere,
            "AWS_ENDPOINT_URL_LAMBDA": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": nowhere,
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def stop(self) -> None:
        """End all workers and threads, and close all connections; may be called twice."""
        self.stopping.set()
        self._server.hang_up()
        for name in list(self.account.functions):
            self.remove(name)
        self._server.join()
        for thread in list(self._asynchronous):
            thread.join()

    def invoke_later(self, function: Function, invocation: Invocation) -> None:
        """Run a handler in the background, as often as AWS tries asynchronous invocations."""
        thread = threading.Thread(
            target=self._invoke_later, args=(function, invocation), name="lambda-event", daemon=True
        )
        self._asynchronous.add(thread)
        thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _invoke_later(self, function: Function, invocation: Invocation) -> None:
        attempt = 0
        while not self._is_over(function) and attempt < ASYNCHRONOUS_ATTEMPTS:
            try:
                attempt += 1
                if not function.invoke(invocation).answer.error:
                    break
            except Refusal:
                attempt -= 1  # events wait where calls are throttled
            self.stopping.wait(self.asynchronous_retry_seconds)
        self._asynchronous.discard(threading.current_thread())

    def _is_over(self, function: Function) -> bool:
        return self.stopping.is_set() or function.removed

    def _lambda_variables(self, settings: Settings) -> dict[str, str]:
        version = re.search(r"3\.\d+", Path(settings.python).resolve().name)
        number = version[0] if version else "{}.{}".format(*sys.version_info)
        variables: dict[str, Any] = {
            "_HANDLER": settings.handler,
            "LAMBDA_TASK_ROOT": settings.folder,
            "LAMBDA_RUNTIME_DIR": "/var/runtime",
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EXECUTION_ENV": f"AWS_Lambda_python{number}",
            "AWS_LAMBDA_FUNCTION_NAME": settings.name,
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": settings.memory_mb,
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{settings.name}",
            "AWS_LAMBDA_LOG_FORMAT": settings.log_format,
        }
        if "AWS_ACCESS_KEY_ID" not in settings.environment:  # else a token would not go with it
            variables |= {
                "AWS_ACCESS_KEY_ID": self.access_key,
                "AWS_SECRET_ACCESS_KEY": self.secret_key,
                "AWS_SESSION_TOKEN": secrets.token_hex(20),
            }
        return {name: str(value) for name, value in variables.items()}


def client_of(
    service: LambdaService,
    *,
    access_key: str | None = None,
    region: str | None = None,
    **options: Any,
) -> Any:
    """Return a client of boto3 that tries once; the options are those of botocore's `Config`."""
    boto3 = pytest.importorskip("boto3")
    from botocore.config import Config

    once = {"retries": {"total_max_attempts": 1}, "max_pool_connections": 100}
    return boto3.client(
        "lambda",
        endpoint_url=service.endpoint,
        region_name=region or service.region,
        aws_access_key_id=access_key or service.access_key,
        aws_secret_access_key=service.secret_key,
        config=Config(**once | options),
    )


@pytest.fixture(scope="session")
def lambda_service() -> Iterator[LambdaService]:
    """Return a running service, one for each worker of pytest-xdist.

    At the end it fails if anything was asked for that is not emulated.
    """
    with LambdaService() as service:
        yield service
    assert not service.refused, f"asked of Lambda, but not emulated: {service.refused}"


@pytest.fixture(scope="session")
def lambda_client(lambda_service: LambdaService) -> Any:
    """Return a client of the service that tries once."""
    return client_of(lambda_service)


@pytest.fixture
def lambda_deploy(lambda_service: LambdaService, request: Any) -> Iterator[Callable[..., Function]]:
    """Return a function that deploys under a name of this test's own, until the test ends.

    It takes what `LambdaService.deploy` takes, but for the name.
    """
    pytest.importorskip("awslambdaric")
    stem = re.sub("[^a-z0-9]+", "-", request.node.name.lower())[:50].strip("-")
    names: list[str] = []

    def deployed(handler: str, **options: Any) -> Function:
        names.append(f"{stem}-{len(names)}")
        return lambda_service.deploy(names[-1], handler, **options)

    yield deployed
    for name in set(names) & set(lambda_service.account.functions):
        lambda_service.remove(name)

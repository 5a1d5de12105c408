"""lithops itself, as magg uses it: jobs go out, answers come in, nothing is left behind."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from magg.errors import (
    AccessDeniedError,
    BackendError,
    VersionMismatchError,
    WorkerLostError,
    WorkerOutOfMemoryError,
    WorkerTimeoutError,
)
from magg.executors import lithops_config
from magg.executors.lithops_worker import answer
from magg.executors.threads import WaitingThreadPool

T = TypeVar("T")
# For what asks services before any call: a name that leads nowhere is tried for minutes otherwise.
SETUP_S = 60.0
_DENIED = re.compile(r"\b40[13]\b|AccessDenied|Unauthorized|Forbidden|NoCredentials")


class LithopsJobs:
    """One `lithops.FunctionExecutor`.

    Parameters
    ----------
    config : mapping
        From `magg.executors.lithops_config.find_config`.
    options : mapping
        Settings of the compute backend, which win over those of the configuration.
    max_workers : int, optional
        Calls at once; what the configuration says where left out.

    Attributes
    ----------
    capacity : int
        Calls at once.
    limit : int
        Bytes of arguments that one job carries.
    is_limit_strict : bool
        Whether the configuration says so; otherwise a single call may be larger.
    longest_call_s : float
        lithops ends a call after so long.
    sees_local_files : bool
        Whether calls run on this machine.
    region : str or None
        The AWS region of the workers.

    Raises
    ------
    BackendError
        If lithops refuses the configuration, or a service that it asks does not answer.
    """

    def __init__(
        self, config: Mapping[str, Any], options: Mapping[str, Any], max_workers: int | None
    ) -> None:
        import lithops

        self.limit, self.is_limit_strict = lithops_config.argument_limit(config)
        whole = lithops_config.prepared(config, options, max_workers)
        # lithops sets up a logger of its own that prints, unless it is told to be silent.
        level = False if "log_level" in whole["lithops"] else None
        make = lithops.FunctionExecutor
        self._lithops = _asked(lambda: make(config=whole, log_level=level), "be set up")
        settings = self._lithops.config
        section = settings[self._lithops.backend]
        self.name = str(self._lithops.backend)
        workers = _number(self._lithops.invoker.max_workers)
        self.capacity = max_workers or workers * _number(section.get("worker_processes"))
        limits = (settings["lithops"].get("execution_timeout"), section.get("runtime_timeout"))
        self.longest_call_s = min((float(limit) for limit in limits if limit), default=1800.0)
        self.sees_local_files = self.name == lithops_config.LOCALHOST and _is_interpreter(
            section["runtime"]
        )
        self.region = section.get("region") if self.name.startswith("aws_") else None
        self._refused: dict[tuple[str, str], Exception] = {}
        self._sent: dict[str, list[Any]] = {}
        self._watch_invocations()

    def check_versions(self) -> list[str]:
        """Compare the runtime's Python and lithops with those here.

        Returns
        -------
        list of str
            What the user should know.

        Raises
        ------
        VersionMismatchError
            If they differ: functions travel as pickles, which both must read.
        BackendError
            If storage or runtime cannot be asked.
        """
        import sys

        import lithops

        handler, invoker = self._lithops.compute_handler, self._lithops.invoker
        info = invoker.runtime_info
        name, version = info["runtime_name"], lithops.__version__

        def ask() -> Any:
            key = handler.get_runtime_key(name, info["runtime_memory"], version)
            found = self._lithops.internal_storage.get_runtime_meta(key)
            return found or (handler.deploy_runtime(name) if self.sees_local_files else None)

        facts = _asked(ask, f"tell of its runtime {name}")
        if not facts:
            return [f"lithops has yet to deploy its runtime {name}, which may take minutes"]
        python = ".".join(map(str, sys.version_info[:2]))
        there = facts.get("python_version"), facts.get("lithops_version")
        if there != (python, version):
            raise VersionMismatchError(
                f"lithops' runtime {name} has Python {there[0]} and lithops {there[1]}, and here "
                f"are Python {python} and lithops {version}; build the runtime again, or install "
                "the same versions here"
            )
        return []

    def send(self, calls: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Send calls as one job, and return lithops' future of each.

        Raises
        ------
        BackendError
            If lithops cannot start the job.
        """
        try:
            # lithops passes a tuple on as the arguments of the function.
            sent = list(self._lithops.map(answer, [(call,) for call in calls]))
        except Exception as error:
            raise BackendError(
                f"lithops cannot start a job on {self.name}: {_told(error)}"
            ) from error
        self._lithops.futures.clear()  # which would hold all results for ever
        self._sent[sent[0].job_key] = sent
        return sent

    def refusal(self, sent: Any) -> BackendError | None:
        """Return the error of a call that the cloud did not accept."""
        error = self._refused.pop((sent.job_key, sent.call_id), None)
        return None if error is None else _refused(f"{self.name} refuses calls", error)

    def answer(self, sent: Any) -> Any:
        """Return what a call that is done answered.

        Raises
        ------
        WorkerLostError, WorkerTimeoutError, WorkerOutOfMemoryError
            If the worker died over it.
        BackendError
            If the worker cannot run magg.
        """
        value = sent.result(throw_except=False, internal_storage=self._lithops.internal_storage)
        if not sent.error:
            return value
        raised = getattr(sent, "_exception", None)
        error = raised[1] if isinstance(raised, tuple) else raised
        raise _typed(error, self.name)

    def free_worker(self) -> None:
        """Tell lithops, which counts its workers, that one never began what it was given."""
        self._lithops.job_monitor.token_bucket_q.put("#")

    def clean(self, job_key: str) -> None:
        """Forget a job; delete what it has left in lithops' storage and temporary folder."""
        self._lithops.job_monitor.remove(self._sent.pop(job_key))
        self._delete(f"{job_key}/")

    def close(self) -> None:
        """End what runs on this machine, and delete what is left."""
        pool = getattr(self._lithops.invoker, "executor", None)
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)
        with contextlib.suppress(Exception):
            self._lithops.__exit__(None, None, None)
        name = self._lithops.executor_id
        self._delete(f"{name}-", f"{name}/")
        atexit.unregister(getattr(self._lithops, "_clean_at_exit", None))  # type: ignore[arg-type]

    def _watch_invocations(self) -> None:
        """Notice calls that a cloud refuses, which lithops only logs."""
        handler, invoker = self._lithops.compute_handler, self._lithops.invoker
        if not hasattr(invoker, "invoke_pool_threads"):
            return  # lithops tells at once

        def watched(payload: dict[str, Any], invoke: Callable[..., Any] = handler.invoke) -> Any:
            try:
                return invoke(payload)
            except Exception as error:  # noqa: BLE001 - whatever it is, the futures tell
                job = payload["job_key"]
                self._refused.update({(job, call): error for call in payload["call_ids"]})
                return "refused"

        handler.invoke = watched
        # Threads of the standard pool keep the interpreter until they are done, and lithops tries
        # to reach AWS Lambda for ever.
        threads = _number(invoker.invoke_pool_threads)
        invoker.executor = WaitingThreadPool(threads, name="magg-lithops-invoke")

    def _delete(self, *prefixes: str) -> None:
        from lithops import constants

        storage = self._lithops.internal_storage
        bucket = Path(constants.LITHOPS_TEMP_DIR, storage.bucket, constants.JOBS_PREFIX)
        folders = (constants.JOBS_DIR, constants.LOGS_DIR, constants.MODULES_DIR, bucket)
        for prefix in prefixes:
            # What remains if this fails is small, and `lithops clean` deletes it.
            with contextlib.suppress(Exception):
                place = f"{constants.JOBS_PREFIX}/{prefix}"
                keys = storage.storage.list_keys(storage.bucket, place)
                if keys:
                    storage.storage.delete_objects(storage.bucket, keys)
            stem = prefix.removesuffix("/")
            patterns = (stem, f"{stem}.*") if stem != prefix else (f"{stem}*",)
            for folder, pattern in itertools.product(map(Path, folders), patterns):
                for path in folder.glob(pattern):
                    _remove(path)


def _asked(ask: Callable[[], T], what: str) -> T:
    """Return what lithops answers, or say that it failed or took too long."""
    pool = WaitingThreadPool(1, name="magg-lithops-ask")
    future = pool.submit(ask)
    try:
        return future.result(SETUP_S)
    except Exception as error:
        if isinstance(error, TimeoutError) and not future.done():
            raise BackendError(
                f"lithops could not {what} within {SETUP_S:.0f} s; check the network and the "
                "endpoints in its configuration"
            ) from None
        raise _refused(f"lithops cannot {what}", error) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _refused(what: str, error: Exception) -> BackendError:
    told = _told(error)
    kind = AccessDeniedError if _DENIED.search(told) else BackendError
    return kind(f"{what}: {told}")


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _typed(error: object, backend: str) -> Exception:
    """Return the error of magg's that says what became of a worker."""
    told = _told(error)
    if isinstance(error, MemoryError):
        return WorkerOutOfMemoryError(f"the worker on {backend} ran out of memory ({told})")
    if isinstance(error, TimeoutError):
        return WorkerTimeoutError(f"the worker on {backend} ran into its time limit ({told})")
    if isinstance(error, ImportError | AttributeError):
        return BackendError(
            f"the runtime on {backend} cannot run magg ({told}); build it with magg installed, "
            "as lithops_config/README.md shows"
        )
    return WorkerLostError(f"the worker on {backend} died ({told})")


def _told(error: object) -> str:
    return f"{type(error).__name__}: {str(error)[:500]}"


def _number(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 1


def _is_interpreter(runtime: str) -> bool:
    from lithops.localhost.config import LocalhostEnvironment, get_environment

    return bool(get_environment(runtime) is LocalhostEnvironment.DEFAULT)

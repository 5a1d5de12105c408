"""Whatever cloud lithops supports, as an executor."""

from __future__ import annotations

import atexit
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, ParamSpec, TypeVar, cast

from magg.executors.cloud import CloudExecutor
from magg.executors.lithops_batches import WINDOW_S, Batches
from magg.executors.lithops_config import Config, find_config
from magg.executors.lithops_jobs import LithopsJobs

P = ParamSpec("P")
T = TypeVar("T")

START_TIMEOUT_S = 300.0
LOCAL_START_TIMEOUT_S = 60.0


class LithopsExecutor(CloudExecutor):
    """Runs submitted calls on the compute backend of a lithops configuration.

    Calls that are submitted close together travel as one lithops job. No more are under way than
    there are workers: the others wait here, where they can be cancelled. Every call ends: with
    its result, with what it raised, or with an error that says what became of its worker.

    Parameters
    ----------
    config : mapping, str or Path, optional
        A lithops configuration or its file. Without it the file that ``MAGG_LITHOPS_CONFIG``
        names, or else what lithops itself would take: ``LITHOPS_CONFIG``, ``LITHOPS_CONFIG_FILE``,
        ``.lithops_config``, ``~/.lithops/config`` or ``/etc/lithops/config``.
    max_workers : int, optional
        Calls at once; what the configuration says where left out.
    window_s : float, default 0.05
        How long a call waits for others to travel with, unless somebody waits for its result.
    start_timeout_s : float, optional
        A call that no worker has begun after so long fails; 60 on this machine, 300 elsewhere
        where left out.
    **options
        Settings of the compute backend, such as ``runtime`` or ``runtime_memory``; they win over
        those of the configuration.

    Attributes
    ----------
    longest_call_s : float
        lithops ends a call after so long: the lesser of ``execution_timeout`` and
        ``runtime_timeout`` of the configuration.
    sees_local_files : bool
        Whether calls run on this machine (``backend: localhost`` without a container).

    Raises
    ------
    ValueError
        If ``max_workers`` is less than 1.
    MissingExtraError
        If lithops is not installed.
    BackendError
        If there is no configuration, lithops refuses it, or a service that lithops asks does not
        answer.

    Examples
    --------
    >>> from magg.executors import LithopsExecutor
    >>> with LithopsExecutor("lithops_config/localhost.yaml") as executor:  # doctest: +SKIP
    ...     executor.submit(pow, 2, 8).result()
    256
    """

    keeps_calls = True

    def __init__(
        self,
        config: Config | None = None,
        *,
        max_workers: int | None = None,
        window_s: float = WINDOW_S,
        start_timeout_s: float | None = None,
        **options: Any,
    ) -> None:
        if max_workers is not None and (type(max_workers) is not int or max_workers <= 0):
            raise ValueError("max_workers must be greater than 0, and a whole number")
        jobs = LithopsJobs(find_config(config), options, max_workers)
        self._max_workers = jobs.capacity
        self.longest_call_s = jobs.longest_call_s
        self.sees_local_files = jobs.sees_local_files
        self.region = jobs.region
        if start_timeout_s is None:
            is_here = jobs.name == "localhost"
            start_timeout_s = LOCAL_START_TIMEOUT_S if is_here else START_TIMEOUT_S
        self._jobs = jobs
        self._batches = Batches(jobs, window_s, start_timeout_s)
        _finish_at_exit(self._batches)
        # Calls of an executor that is dropped are finished, and then its threads end.
        weakref.finalize(self, self._batches.shut, cancel=False, abandon=False).atexit = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Schedule a call; see `concurrent.futures.Executor.submit`.

        Raises
        ------
        RuntimeError
            After `shutdown`.
        """
        return cast("Future[T]", self._batches.add(fn, args, kwargs))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls; what lithops has stored for this executor is deleted at its end.

        With ``wait=False`` and ``cancel_futures=True`` nothing is waited for, not even by the end
        of the interpreter. Calls under way then run to their end in the cloud, and until the end
        of the interpreter on this machine.
        """
        self._batches.shut(cancel=cancel_futures, abandon=cancel_futures and not wait)
        if wait:
            self._batches.join()

    def preflight(self, store: str | None = None) -> list[str]:  # noqa: ARG002 - workers try it
        """Compare Python and lithops of the runtime with those here; see `CloudExecutor`."""
        return self._jobs.check_versions()

    def used(self) -> dict[str, Any]:
        """Return how many calls went out, in how many lithops jobs."""
        return {
            "lithops_calls": self._batches.calls_sent,
            "lithops_jobs": self._batches.jobs_sent,
        }


def make(max_workers: int | None = None, **_: Any) -> LithopsExecutor:
    """Return the executor of ``backend="lithops"``; see `magg.executors.make_executor`."""
    return LithopsExecutor(max_workers=max_workers)


_open: weakref.WeakSet[Batches] = weakref.WeakSet()


def _finish_at_exit(batches: Batches) -> None:
    if not _open:
        # As concurrent.futures does: later its pools take no more work, and lithops needs them.
        register = getattr(threading, "_register_atexit", atexit.register)
        register(_finish)
        atexit.unregister(_stop)
        atexit.register(_stop)
    _open.add(batches)


def _finish() -> None:
    """Let open executors finish what they have, and end those that nobody waits for."""
    waited_for = [batches for batches in _open if not batches.is_abandoned]
    for batches in set(_open) - set(waited_for):
        batches.end()
    for batches in waited_for:
        batches.shut(cancel=False, abandon=False)
    for batches in waited_for:
        batches.join()


def _stop() -> None:
    """End what still runs on this machine, after a second Ctrl-C."""
    for batches in list(_open):
        batches.end()

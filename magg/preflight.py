"""Whether workers elsewhere can do a run, found out before its first cell is sent."""

from __future__ import annotations

from concurrent.futures import Executor
from concurrent.futures import TimeoutError as FutureTimeoutError

from magg import __version__
from magg.errors import BackendError, CredentialsError, StoreError, VersionMismatchError
from magg.executors.cloud import CloudExecutor
from magg.executors.payload import compatible
from magg.plan import Plan
from magg.store.open import local_path
from magg.worker import describe_worker

# How long a first worker may take to start, where the executor cannot say how long it may run.
FIRST_ANSWER_S = 300.0
EXAMPLES = 3


def preflight(executor: Executor, plan: Plan, *, ask_worker: bool) -> list[str]:
    """Refuse a run that workers elsewhere could not do, with the remedy.

    Executors on this machine need none of it.

    Parameters
    ----------
    executor : Executor
    plan : Plan
    ask_worker : bool
        Start a worker and let it write to the store; otherwise only questions are asked.

    Returns
    -------
    list of str
        What the user should know, though it hinders nothing.

    Raises
    ------
    BackendError
        If the store or granules are local, or the executor cannot serve calls.
    VersionMismatchError
        If workers run a version of magg that does not understand this one.
    StoreError
        If workers cannot write to the store.
    CredentialsError
        If workers must have credentials of their own for the granules, and have none.
    """
    if not isinstance(executor, CloudExecutor):
        return []
    if not executor.sees_local_files:
        check_places(plan)
    notices = executor.preflight(plan.store)
    return notices + (_ask_worker(executor, plan) if ask_worker else [])


def check_places(plan: Plan) -> None:
    """Refuse a store or granules that only this machine can see."""
    if local_path(plan.store) is not None:
        raise BackendError(
            f"store {plan.store} is on this machine, where remote workers cannot write; pass "
            "store='s3://bucket/prefix', or use backend='local'"
        )
    local = sorted(
        {
            granule
            for cell in plan.cells
            for granule in plan.catalog.cells[cell]
            if local_path(granule) is not None
        }
    )
    if local:
        shown = ", ".join(local[:EXAMPLES]) + (" ..." if len(local) > EXAMPLES else "")
        raise BackendError(
            f"{len(local)} granules are on this machine, where remote workers cannot read them "
            f"({shown}); use a catalog of s3:// or https:// URLs, or backend='local'"
        )


def _ask_worker(executor: CloudExecutor, plan: Plan) -> list[str]:
    patience = executor.longest_call_s or FIRST_ANSWER_S
    future = executor.submit(describe_worker, plan.store, plan.region)
    try:
        worker = future.result(timeout=patience + 60.0)
    except (TimeoutError, FutureTimeoutError):
        future.cancel()
        raise BackendError(
            f"no worker answered within {patience + 60:.0f} s; look at the logs of the backend"
        ) from None
    if not compatible(worker.version, __version__):
        raise VersionMismatchError(
            f"workers run magg {worker.version} and this is {__version__}; deploy the workers "
            "again, or install the same version here"
        )
    if worker.store_error:
        raise StoreError(
            f"workers cannot write to {plan.store} ({worker.store_error}); their role needs "
            "s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket there"
        )
    if executor.keeps_calls and plan.reach is not None and not worker.has_earthdata_token:
        raise CredentialsError(
            "workers of this backend are sent no credentials, because it writes calls to a bucket "
            "or disk; set EARTHDATA_TOKEN in their environment, or use backend='lambda'"
        )
    if worker.version != __version__:
        return [f"workers run magg {worker.version} and this is {__version__}"]
    return []

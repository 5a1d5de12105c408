"""What the runner asks of executors whose workers are elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any


class CloudExecutor(Executor):
    """An executor whose workers are elsewhere, and what the runner asks of one beside `submit`.

    Attributes
    ----------
    longest_call_s : float or None
        How long a call may still run after nobody waits for it any more; None if unknown.
    region : str or None
        The AWS region of its workers; None if they are elsewhere, or it is unknown.
    sees_local_files : bool
        Whether workers see the files of this machine; otherwise stores and granules must have
        URLs.
    keeps_calls : bool
        Whether calls are written to a bucket or disk on their way, and so must hold no
        credentials.
    in_flight : int or None
        How many calls the executor wants at once, those that wait included; None for twice the
        number of its workers.
    notify : callable
        Told in words how calls go that take long; may be set.
    """

    longest_call_s: float | None = None
    region: str | None = None
    sees_local_files: bool = False
    keeps_calls: bool = False
    in_flight: int | None = None
    notify: Callable[[str], None] = staticmethod(lambda _: None)

    def preflight(self, store: str | None = None) -> list[str]:  # noqa: ARG002 - for those who override
        """Find out whether calls can be served, before the first of a run.

        Parameters
        ----------
        store : str, optional
            URL of the store that workers will write to.

        Returns
        -------
        list of str
            What the user should know though it hinders nothing, each with its remedy.

        Raises
        ------
        BackendError
            If calls cannot be served; says what to do.
        """
        return []

    def ceiling(self, calls: int) -> dict[str, Any]:  # noqa: ARG002
        """Return what so many calls cost at most, as plain data; empty if unknown."""
        return {}

    def used(self) -> dict[str, Any]:
        """Return what calls have used and cost since the preflight; empty if unknown."""
        return {}


def as_cloud(executor: Executor) -> CloudExecutor:
    """Return an executor, or, for one of this machine, one that offers nothing."""
    return executor if isinstance(executor, CloudExecutor) else CloudExecutor()

"""Every error that magg raises on purpose.

Each class also derives from the nearest built-in exception, so that callers may catch either.
A message says what is wrong, where it is and what to do about it. All attributes beside the
message are keyword arguments stored on the instance, so that every error survives pickling on
its way back from a worker process.
"""

from __future__ import annotations

from collections.abc import Sequence


class MaggError(Exception):
    """Base of every error that magg raises on purpose."""


class ConfigError(MaggError, ValueError):
    """A pipeline config is wrong.

    Parameters
    ----------
    message : str
        All problems, one a line.
    problems : sequence of str, optional
        The single problems, each beginning with its path in the file.
    """

    def __init__(self, message: str, *, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = list(problems)


class StatisticError(MaggError, ValueError):
    """A statistic is declared wrongly, or a registered function misbehaved.

    Parameters
    ----------
    message : str
        What is wrong and what would be right.
    field : str, optional
        The key of the declaration at fault, such as ``"expression"`` or ``"params.weights"``.
    """

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class GridError(MaggError, ValueError):
    """An order or a Morton id is impossible."""


class CatalogError(MaggError, ValueError):
    """A catalog is malformed or does not fit the config."""


class UnknownCellError(CatalogError, LookupError):
    """A parent cell was asked for that the catalog does not hold."""


class GranuleError(MaggError, OSError):
    """A granule cannot be read.

    Parameters
    ----------
    message : str
        What is wrong; begins with the granule and, where known, the beam and dataset.
    granule : str, optional
        Path or URL of the granule.
    """

    def __init__(self, message: str, *, granule: str = "") -> None:
        super().__init__(message)
        self.granule = granule


class GranuleNotFoundError(GranuleError, FileNotFoundError):
    """A granule is not where the catalog says it is."""


class GranuleChangedError(GranuleError):
    """A granule is not what it was: another size, ETag or time of modification."""


class StoreError(MaggError, OSError):
    """A store cannot be read or written."""


class StoreNotFoundError(StoreError, FileNotFoundError):
    """There is no store at the given place."""


class StoreMismatchError(StoreError, ValueError):
    """An existing store was made from another config, grid or convention."""


class BackendError(MaggError, ValueError):
    """A backend is unknown or cannot serve this run."""


class FunctionNotFoundError(BackendError, LookupError):
    """A deployed function is not there under its name, in that region and account."""


class StateMachineNotFoundError(BackendError, LookupError):
    """A state machine is not there under its name, in that region and account."""


class ExecutionStoppedError(BackendError):
    """Somebody stopped an execution before its calls were made."""


class AccessDeniedError(BackendError, PermissionError):
    """The credentials in use do not allow what a backend has to do."""


class PayloadError(BackendError):
    """A call is malformed, or too large to be sent."""


class VersionMismatchError(BackendError):
    """The other side runs a version of magg that does not understand this one."""


class RemoteError(MaggError, RuntimeError):
    """A function raised where it ran.

    Parameters
    ----------
    message : str
        Type and message of what it raised.
    type, traceback : str, optional
        The type alone, and the stack of the worker as text.
    """

    def __init__(self, message: str, *, type: str = "", traceback: str = "") -> None:  # noqa: A002
        super().__init__(message)
        self.type = type
        self.traceback = traceback
        if traceback:
            self.add_note(f"In the worker:\n{traceback}")


class ThrottledError(MaggError, ConnectionError):
    """A service refused calls for so long that waiting any longer makes no sense."""


class ServiceUnreachableError(MaggError, ConnectionError):
    """A service cannot be reached over the network; another attempt may succeed."""


class WorkerLostError(MaggError, ConnectionError):
    """A worker died, or the connection to it was lost; another attempt may succeed."""


class WorkerOutOfMemoryError(MaggError, MemoryError):
    """A worker ran out of memory; another attempt of the same size would too."""


class WorkerTimeoutError(MaggError, TimeoutError):
    """A worker ran into its time limit; another attempt of the same size would too."""


class CredentialsExpiredError(MaggError, PermissionError):
    """Credentials have expired; another attempt needs new ones."""


class CredentialsError(MaggError, PermissionError):
    """Credentials are missing, were refused, or came back empty."""


class GranuleAccessError(GranuleError, CredentialsExpiredError):
    """A granule was refused, and newer credentials may mend that."""


class EarthdataError(MaggError, ConnectionError):
    """A service of Earthdata does not answer as it should; another attempt may succeed."""


class DeployError(MaggError, RuntimeError):
    """The cloud side cannot be built, set up, looked at or torn down."""


class MissingExtraError(MaggError, ImportError):
    """An optional dependency is needed and not installed."""


def require_extra(package: str, extra: str) -> MissingExtraError:
    """Return the error that tells how to install what is missing.

    Parameters
    ----------
    package : str
        The package that could not be imported.
    extra : str
        The extra of magg that brings it.
    """
    return MissingExtraError(
        f"{package} is needed for this and is not installed; "
        f"install it with: pip install 'magg-healpix[{extra}]'"
    )

"""Why something failed, as plain data that travels back from a worker."""

from __future__ import annotations

import traceback
from dataclasses import dataclass

from magg.credentials import redact
from magg.executors.retry import Kind, classify

TRACEBACK_CHARACTERS = 8_000


@dataclass(frozen=True)
class CellFailure:
    """Why a cell failed, or the survey of a granule: plain data, whatever was raised.

    Parameters
    ----------
    type, message, traceback : str
    kind : Kind
        Whether another attempt may succeed.
    """

    type: str
    message: str
    traceback: str
    kind: Kind = Kind.PERMANENT


def failure_of(error: BaseException, default: Kind = Kind.PERMANENT) -> CellFailure:
    """Return what an exception says, without secrets.

    Parameters
    ----------
    error : BaseException
    default : Kind
        What the failure is where the error's type does not tell.
    """
    return CellFailure(
        type=type(error).__name__,
        message=redact(str(error)) or type(error).__name__,
        traceback=redact("".join(traceback.format_exception(error)))[-TRACEBACK_CHARACTERS:],
        kind=classify(error, default),
    )

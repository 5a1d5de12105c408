"""What a deployed worker may be asked to do, by the names that travel."""

from __future__ import annotations

import platform
import uuid
from dataclasses import dataclass

from magg import __version__
from magg.catalog.surveying import look_at_granules, survey_granule
from magg.cell import process_cell
from magg.credentials import own_token
from magg.executors.payload import Functions
from magg.store.open import open_objects, told_of


@dataclass(frozen=True)
class WorkerDescription:
    """What a worker says of itself.

    Parameters
    ----------
    version, python : str
        Of magg and of the interpreter.
    machine : str
        Such as ``"x86_64"``.
    store_error : str, optional
        Why the worker cannot write to the store.
    has_earthdata_token : bool
        Whether its environment has a token of Earthdata, for granules that it is sent no
        credentials for.
    """

    version: str
    python: str
    machine: str
    store_error: str | None = None
    has_earthdata_token: bool = False


def describe_worker(store: str, region: str | None = None) -> WorkerDescription:
    """Say what this worker is, and whether it can write to a store.

    Parameters
    ----------
    store : str
        URL of the store; a small object is written below it and deleted.
    region : str, optional
        AWS region of its bucket.
    """
    return WorkerDescription(
        version=__version__,
        python=platform.python_version(),
        machine=platform.machine(),
        store_error=_write_error(store, region),
        has_earthdata_token=own_token() is not None,
    )


def _write_error(store: str, region: str | None) -> str | None:
    import obstore

    try:
        with told_of(store):
            objects, key = open_objects(store, region), f".magg/probes/{uuid.uuid4().hex}"
            obstore.put(objects, key, b"may be deleted")
            obstore.delete(objects, key)
    except Exception as error:  # noqa: BLE001 - whatever it is, the caller is told
        return f"{type(error).__name__}: {error}"
    return None


FUNCTIONS: Functions = {
    "process_cell": process_cell,
    "describe_worker": describe_worker,
    "survey_granule": survey_granule,
    "look_at_granules": look_at_granules,
}

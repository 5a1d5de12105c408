"""When the cells of a store were done, and what failed: its records, all of them."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from magg.store import makings
from magg.store.open import DEFAULT_REGION, normalise, object_names, open_objects, told_of
from magg.store.records import DONE, FAILED

if TYPE_CHECKING:
    from obstore.store import ObjectStore

READS_AT_ONCE = 32


@dataclass(frozen=True)
class Moment:
    """When a cell was done, or failed at its last attempt.

    Parameters
    ----------
    cell : str
        Decimal Morton id.
    status : {"data", "empty", "partial", "failed"}
    time : datetime
        With its time zone, to a second.
    observations : int
    error : str
        Type and message of what failed, else empty.
    """

    cell: str
    status: str
    time: datetime
    observations: int = 0
    error: str = ""


def history(path: str, region: str | None = DEFAULT_REGION) -> list[Moment]:
    """Return the moments of a store, the oldest first; reads one small object a cell.

    Raises
    ------
    StoreError
        If the store cannot be read.
    """
    place = normalise(path)
    with told_of(place):
        objects = open_objects(place, region)
        names = object_names(objects, FAILED)
        making: dict[str, bool] = {}
        for name in object_names(objects, DONE):
            token = name.rpartition("/")[2].partition(".")[0]
            if token not in making:
                making[token] = makings.is_current(objects, token)
            if making[token]:
                names.append(name)
        with ThreadPoolExecutor(READS_AT_ONCE) as pool:
            found = list(pool.map(lambda name: _read(objects, name), names))
    return sorted((one for one in found if one), key=lambda one: one.time)


def _read(objects: ObjectStore, name: str) -> Moment | None:
    try:
        told: dict[str, Any] = json.loads(bytes(objects.get(name).bytes()))
    except FileNotFoundError:
        return None  # a run that goes on has replaced it
    time = datetime.fromisoformat(told["time"])
    if name.startswith(FAILED):
        return Moment(told["cell"], "failed", time, error=f"{told['type']}: {told['message']}")
    return Moment(told["cell"], told["status"], time, told["observations"])

"""The granule index of a catalog in a run: found, kept true, and handed to the cells."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Literal

from magg.catalog.index import GranuleIndex, IndexFile, IndexKey, load, place_of
from magg.drain import Pool
from magg.errors import CatalogError, ConfigError
from magg.events import Listener, Notice
from magg.executors.retry import Policy
from magg.indexing.survey import Survey
from magg.plan import Plan

Mode = Literal["auto", "build", "off"]
MODES: dict[object, Mode] = {
    "auto": "auto",
    "build": "build",
    "off": "off",
    True: "build",
    False: "off",
}


def index_mode(index: object) -> Mode:
    """Return what an argument ``index`` asks for.

    Raises
    ------
    ConfigError
        If it is none of those that there are.
    """
    if isinstance(index, str | bool) and index in MODES:
        return MODES[index]
    raise ConfigError(f"index must be 'auto', 'build' (or True), 'off' (or False), not {index!r}")


def index_at_hand(plan: Plan, mode: Mode, notify: Callable[[str], None]) -> GranuleIndex | None:
    """Return the index that lies beside the catalog of a run, as it is, if it serves the run."""
    place = place_of(plan.catalog.location)
    if mode == "off" or place is None:
        return None
    try:
        index = load(place)
    except FileNotFoundError:
        return None
    except CatalogError as error:
        notify(f"{error}. The run goes on without it")
        return None
    if index.key.serves(IndexKey.of(plan.config.data_source, plan.grid.parent_order)):
        return index
    notify(
        f"{place}: the granule index is of other coordinates, beams or another parent order, and "
        "is not used; `magg catalog index CATALOG --config CONFIG` makes one for this config"
    )
    return None


def index_for_run(
    plan: Plan,
    cells: Collection[str],
    mode: Mode,
    pool: Pool,
    in_flight: int,
    *,
    listen: Listener,
    backend: str,
    policy: Policy,
) -> GranuleIndex | None:
    """Return the entries that cells may use, all of them true now.

    Entries that are no longer true, or lack datasets of the config, are made anew; with mode
    "build" also those that were missing. What is new is kept beside the catalog if it can be.
    """
    if mode == "off" or not cells:
        return None

    def notify(message: str) -> None:
        listen(Notice(message))

    file, problem = _file_of(plan)
    if mode == "build" and file is not None:
        index = file.gather()
    else:
        found = index_at_hand(plan, mode, notify)
        if found is None and mode == "auto":
            return None
        key = IndexKey.of(plan.config.data_source, plan.grid.parent_order)
        index = found or GranuleIndex(key)
    if file is not None:
        file.key = index.key
    granules = sorted({granule for cell in cells for granule in plan.catalog.cells[cell]})
    if mode == "auto":
        granules = [granule for granule in granules if granule in index.entries]
    survey = Survey(
        index,
        plan.config.data_source,
        pool,
        in_flight,
        reach=plan.reach,
        file=file,
        listen=listen,
        backend=backend,
        policy=policy,
    )
    survey.bring_up_to_date(granules)
    if survey.has_changed and file is not None:
        try:
            file.finish(index)
        except CatalogError as error:
            problem = str(error)
    if survey.has_changed and problem:
        notify(f"{problem}; what is new in the index serves this run alone")
    if survey.errors:
        first = survey.errors[0]
        notify(
            f"{len(survey.errors)} granules are not in the index and are read without it "
            f"({first['granule']}: {first['message']})"
        )
    true = (granule for granule in granules if granule in index.entries.keys() - survey.unseen)
    usable = {granule: index.entries[granule] for granule in true}
    return GranuleIndex(index.key, usable)


def _file_of(plan: Plan) -> tuple[IndexFile | None, str]:
    """Return where the index of a run is kept, or why it cannot be."""
    place = place_of(plan.catalog.location)
    if place is None:
        return None, "the catalog is not saved"
    try:
        key = IndexKey.of(plan.config.data_source, plan.grid.parent_order)
        return IndexFile(place, key), ""
    except CatalogError as error:
        return None, str(error)

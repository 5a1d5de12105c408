"""Making the granule index of a catalog, or bringing it up to date."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from magg.access import reach_of
from magg.catalog import Catalog
from magg.catalog.index import IndexFile, IndexKey, place_of
from magg.config import PipelineConfig, load_config
from magg.drain import Pool
from magg.errors import BackendError, CatalogError
from magg.events import Listener, Notice
from magg.executors.base import check_workers, make_executor, stop_workers
from magg.executors.cloud import as_cloud
from magg.indexing.survey import Survey
from magg.progress import make_listener
from magg.store.open import DEFAULT_REGION, local_path
from magg.worker import FUNCTIONS

IN_FLIGHT_PER_WORKER, IN_FLIGHT_UNKNOWN = 2, 256


def build_index(
    catalog: Catalog | str | Path,
    config: PipelineConfig | str | None = None,
    *,
    executor: Executor | None = None,
    backend: str = "local",
    max_workers: int | None = None,
    function_name: str | None = None,
    region: str = DEFAULT_REGION,
    overwrite: bool = False,
    progress: bool | Listener | None = None,
) -> dict[str, Any]:
    """Make the granule index beside a catalog, or bring it up to date.

    The index says of each granule where its datasets are in the file, and which of its rows lie in
    which parent cell, so that runs read but the bytes that they need. What is in the index and
    still true stays; granules that are new or changed are surveyed, and datasets that the config
    names and the index lacks are added. A build that is interrupted is continued by the next.

    Parameters
    ----------
    catalog : Catalog, str or Path
        One that was loaded or saved; local, or in S3.
    config : PipelineConfig or str, default "atl06"
        Says where the coordinates are, and which datasets runs will need.
    executor : concurrent.futures.Executor, optional
        Used instead of a backend, through ``submit`` alone; never shut down here.
    backend, max_workers, function_name, region
        As in `magg.run`.
    overwrite : bool, default False
        Forget what the index holds.
    progress : bool or callable, optional
        As in `magg.run`.

    Returns
    -------
    dict
        ``index_path``, ``granules`` (of the catalog), ``granules_indexed``, ``granules_known``
        (in the index before, and still true), ``granules_surveyed``, ``granules_completed`` (only
        datasets were added), ``errors`` (one entry per granule that could not be surveyed:
        granule, type, message), ``wall_time_s`` and ``backend``.

    Raises
    ------
    CatalogError
        If the catalog lies nowhere, or where nothing can be written, or the index is damaged.
    BackendError, ConfigError, CredentialsError, EarthdataError
        As in `magg.run`.
    KeyboardInterrupt
        After Ctrl-C; what is finished is kept.

    Examples
    --------
    >>> import magg
    >>> magg.build_index("catalog.json", "atl06")  # doctest: +SKIP
    """
    began = time.perf_counter()
    check_workers(max_workers)
    if executor is not None and not callable(getattr(executor, "submit", None)):
        raise BackendError(
            f"executor must be a concurrent.futures.Executor, not {type(executor).__name__}"
        )
    if not isinstance(catalog, Catalog):
        catalog = Catalog.load(catalog)
    if not isinstance(config, PipelineConfig):
        config = load_config(config or "atl06")
    place = place_of(catalog.location)
    if place is None:
        raise CatalogError(
            "the catalog lies nowhere yet, and so has no place for an index; save it first"
        )
    file = IndexFile(place, IndexKey.of(config.data_source, catalog.parent_order))
    index = file.gather(anew=overwrite)

    def make() -> Executor:
        options = {"function_name": function_name, "region": region, "functions": FUNCTIONS}
        return make_executor(backend, max_workers, **options)

    pool = Pool(executor) if executor is not None else Pool(make(), make)
    with _ended(pool):
        _check_places(pool.executor, catalog.granules)
        listen = make_listener(progress)
        for notice in as_cloud(pool.executor).preflight():
            listen(Notice(notice))
        if file.replaces:
            listen(Notice(f"{place} was of other coordinates or another order; it is made anew"))
        where = as_cloud(pool.executor).region
        reach = reach_of(catalog, catalog.cells, config.data_source.access, where)
        if reach is not None:
            if as_cloud(pool.executor).keeps_calls:
                reach.keep_credentials()
            reach.ready(catalog.cells)
        name = type(executor).__name__ if executor is not None else backend
        survey = Survey(
            index,
            config.data_source,
            pool,
            _in_flight(pool.executor, max_workers),
            reach=reach,
            file=file,
            listen=listen,
            backend=name,
        )
        survey.bring_up_to_date(catalog.granules)
        file.finish(index)
    return {
        "index_path": place,
        "granules": len(catalog.granules),
        "granules_indexed": len(index.entries.keys() & set(catalog.granules)),
        **survey.told(),
        "wall_time_s": time.perf_counter() - began,
        "backend": name,
    }


def _check_places(executor: Executor, granules: Iterable[str]) -> None:
    if as_cloud(executor) is not executor or as_cloud(executor).sees_local_files:
        return
    local = next((granule for granule in granules if local_path(granule) is not None), None)
    if local is not None:
        raise BackendError(
            f"{local} is on this machine, where remote workers cannot read it; use a catalog of "
            "s3:// or https:// URLs, or backend='local'"
        )


def _in_flight(executor: Executor, max_workers: int | None) -> int:
    known = getattr(executor, "_max_workers", None)
    workers = max_workers or (known if isinstance(known, int) else None)
    wanted = as_cloud(executor).in_flight
    return wanted or (IN_FLIGHT_UNKNOWN if workers is None else IN_FLIGHT_PER_WORKER * workers)


@contextlib.contextmanager
def _ended(pool: Pool) -> Iterator[None]:
    """End a pool of magg's own afterwards, its processes at once if anything is raised."""
    try:
        yield
    except BaseException:
        if pool.is_own:
            stop_workers(pool.executor)
        raise
    finally:
        if pool.is_own:
            pool.executor.shutdown(wait=False, cancel_futures=True)

"""Catalogs from NASA's Common Metadata Repository, through earthaccess.

CMR is asked for boxes about the area; which granule crosses which cell is decided here, so that
holes, ring orders and poles of an area are no matter of CMR's. The boxes hold the whole of every
cell that the area touches, and some more for what CMR's footprints leave out.
"""

from __future__ import annotations

import logging
import re
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np

from magg.catalog.area import Area
from magg.catalog.footprint import Footprint, footprints
from magg.catalog.links import GranuleInfo
from magg.credentials import answering, import_earthaccess, redact
from magg.errors import CatalogError, EarthdataError
from magg.grid import Grid, Words, to_decimal, words_of

log = logging.getLogger(__name__)

T = TypeVar("T")

# ICESat-2 repeats its 1387 tracks in this many days. The name of a granule tells its cycle, so
# dates need only be near.
CYCLE_DAYS, CYCLE_MARGIN_DAYS = 90.79, 4
CYCLE_3 = datetime(2019, 3, 29, tzinfo=UTC)
CYCLE_OF_NAME = re.compile(r"ATL\d\d_\d{14}_\d{4}(\d{2})\d{2}_\d{3}_\d{2}")

# Records of so many days are in memory at once.
WINDOW_DAYS = 91
BOX_MARGIN_DEG = 0.5
CELL_DEG = 2 * 58.6  # twice the side of a cell of order 0: more than any diagonal
ATTEMPTS, PAUSE_S, LONGEST_PAUSE_S = 5, 2.0, 60.0


@dataclass(frozen=True)
class Wanted:
    """Which granules; the parameters are those of `magg.Catalog.from_cmr`."""

    short_name: str
    version: str | None = None
    start_date: str | None = None
    end_date: str | None = None
    cycle: int | None = None

    def dates(self) -> tuple[datetime | None, datetime | None]:
        """Return the first and the last moment."""
        if self.cycle is not None:
            if self.start_date or self.end_date:
                raise CatalogError("give dates or a cycle, not both")
            return cycle_dates(self.cycle)
        start, end = _moment("start_date", self.start_date), _moment("end_date", self.end_date)
        if end is not None and len(str(self.end_date)) <= len("2019-04-16"):
            end += timedelta(days=1, seconds=-1)
        if start is not None and end is not None and end < start:
            raise CatalogError(f"end_date {self.end_date} is before start_date {self.start_date}")
        return start, end


def cycle_dates(cycle: int) -> tuple[datetime, datetime]:
    """Return between which dates an ICESat-2 cycle was measured, a few days to spare."""
    if isinstance(cycle, bool) or not isinstance(cycle, int) or not 1 <= cycle <= 99:
        raise CatalogError(f"cycle must be a whole number from 1 to 99, not {cycle!r}")
    start = CYCLE_3 + timedelta(days=(cycle - 3) * CYCLE_DAYS)
    margin = timedelta(days=CYCLE_MARGIN_DAYS)
    return start - margin, start + timedelta(days=CYCLE_DAYS) + margin


def search(
    wanted: Wanted, area: Area | None, parent_order: int
) -> tuple[dict[str, tuple[str, ...]], dict[str, Any], dict[str, GranuleInfo]]:
    """Return the cells, metadata and granules of a catalog.

    See `magg.catalog.Catalog.from_cmr` for the arguments and errors.
    """
    Grid(parent_order, parent_order)
    first, last = wanted.dates()
    everywhere = words_of(np.arange(12 * 4**parent_order), parent_order)
    inside = everywhere if area is None else area.cells(parent_order)
    collection = _collection(wanted)
    found = _Found(wanted, collection, inside, parent_order)
    boxes = [None] if area is None else area.boxes(BOX_MARGIN_DEG + CELL_DEG / 2**parent_order)
    for start, end in _windows(first, last):
        for box in boxes:
            found.add(_records(collection, start, end, box))
            log.info("%s: %d granules found", wanted.short_name, len(found.info))
    return found.catalog()


class _Found:
    """The granules of a search so far."""

    def __init__(
        self, wanted: Wanted, collection: Mapping[str, Any], inside: Words, order: int
    ) -> None:
        self.info: dict[str, GranuleInfo] = {}
        self._wanted, self._collection, self._order = wanted, collection, order
        self._inside = inside
        self._cells: dict[int, list[str]] = {}
        self._seen: set[str] = set()
        self._counts: Counter[str] = Counter()
        self._buckets: dict[str, dict[str, str]] = {}

    def add(self, records: Iterable[Any]) -> None:
        """Take granules up, unless they are there, of another cycle, or elsewhere."""
        new = {record["umm"]["GranuleUR"]: record for record in records}
        new = {name: record for name, record in new.items() if self._is_new(name)}
        found = footprints(
            [_extent(record["umm"]) for record in new.values()],
            self._order,
            representation=self._collection["representation"],
            short_name=self._wanted.short_name,
        )
        for (name, record), footprint in zip(new.items(), found, strict=True):
            self._place(name, record, footprint)

    def _is_new(self, name: str) -> bool:
        if name in self._seen:
            return False
        self._seen.add(name)
        if self._wanted.cycle is None:
            return True
        named = CYCLE_OF_NAME.search(name)
        if named is None:
            raise CatalogError(f"{name} does not tell its cycle; give dates instead")
        return int(named[1]) == self._wanted.cycle

    def _place(self, name: str, record: Any, footprint: Footprint) -> None:
        direct, external = (_link(record, access) for access in ("direct", "external"))
        if not direct and not external:
            self._counts["without_links"] += 1
            return
        if footprint.problem:
            log.warning("%s: %s; it is taken to be in every cell", name, footprint.problem)
        words = np.intersect1d(footprint.words, self._inside, assume_unique=True)
        if footprint.kind == "none":
            words = self._inside
        elif not words.size:
            self._counts["elsewhere"] += 1
            return
        self._counts["unplaced" if footprint.kind == "none" else footprint.kind] += 1
        granule = direct or external
        start, end = _times(record["umm"].get("TemporalExtent") or {})
        self.info[granule] = GranuleInfo(external if direct else "", start, end)
        for word in words.tolist():
            self._cells.setdefault(word, []).append(granule)
        if direct:
            self._note_bucket(urlsplit(direct).netloc, record)

    def catalog(
        self,
    ) -> tuple[dict[str, tuple[str, ...]], dict[str, Any], dict[str, GranuleInfo]]:
        """Return what was found, as `search` does."""
        collection, wanted = self._collection, self._wanted
        what = f"{wanted.short_name} {collection['version']}"
        if not self.info:
            raise CatalogError(
                f"CMR knows no granule of {what} at that time in that area "
                f"({len(self._seen)} came near); check dates, cycle and area"
            )
        if self._counts["unplaced"]:
            log.warning(
                "%d granules have no footprint and are in every cell", self._counts["unplaced"]
            )
        if self._counts["without_links"]:
            log.warning(
                "%d granules have no link and are left out: they cannot be read",
                self._counts["without_links"],
            )
        metadata: dict[str, Any] = {
            "source": "cmr",
            "short_name": wanted.short_name,
            "version": collection["version"],
            "collection": collection["id"],
            "footprints": dict(sorted(self._counts.items())),
            "s3_credentials": self._buckets,
        }
        asked = {"cycle": wanted.cycle, "start": wanted.start_date, "end": wanted.end_date}
        metadata |= {key: value for key, value in asked.items() if value is not None}
        cells = {to_decimal(word): tuple(granules) for word, granules in self._cells.items()}
        return cells, metadata, self.info

    def _note_bucket(self, bucket: str, record: Mapping[str, Any]) -> None:
        """Keep who gives credentials for a bucket: the granule says, or its collection."""
        if bucket in self._buckets:
            return
        endpoint = next(
            (
                link["URL"]
                for link in record["umm"].get("RelatedUrls") or ()
                if link["URL"].endswith("/s3credentials")
            ),
            self._collection["endpoint"],
        )
        self._buckets[bucket] = {"endpoint": endpoint, "region": self._collection["region"]}


def describe_collections(short_name: str) -> list[dict[str, Any]]:
    """Return the collections of a product in the cloud: what magg needs of each, as plain data.

    Raises
    ------
    EarthdataError
        If CMR does not answer.
    """
    earthaccess = import_earthaccess()
    found = _patiently(
        lambda: earthaccess.search_datasets(short_name=short_name, cloud_hosted=True)
    )
    return [_described(record) for record in found]


def _described(record: Mapping[str, Any]) -> dict[str, Any]:
    umm = record["umm"]
    direct = umm.get("DirectDistributionInformation") or {}
    return {
        "id": record["meta"]["concept-id"],
        "version": str(umm.get("Version", "")),
        "representation": (umm.get("SpatialExtent") or {}).get("GranuleSpatialRepresentation", ""),
        "endpoint": direct.get("S3CredentialsAPIEndpoint", ""),
        "region": direct.get("Region", "us-west-2"),
        "buckets": [
            name.removeprefix("s3://").partition("/")[0]
            for name in direct.get("S3BucketAndObjectPrefixNames") or ()
        ],
    }


def _collection(wanted: Wanted) -> dict[str, Any]:
    """Return the collection of the wanted version, or the newest."""
    if not wanted.short_name:
        raise CatalogError("name a product, such as short_name='ATL06'")
    known = sorted(describe_collections(wanted.short_name), key=lambda one: str(one["version"]))
    if not known:
        raise CatalogError(
            f"CMR knows no product {wanted.short_name!r} in the cloud; its name is like ATL06"
        )
    if wanted.version is None:
        return known[-1]
    for one in known:
        if one["version"].lstrip("0") == str(wanted.version).lstrip("0"):
            return one
    versions = ", ".join(sorted({one["version"] for one in known}))
    raise CatalogError(
        f"CMR knows no version {wanted.version!r} of {wanted.short_name}; there are {versions}"
    )


def _records(
    collection: Mapping[str, Any],
    start: datetime | None,
    end: datetime | None,
    box: Sequence[float] | None,
) -> list[Any]:
    parameters: dict[str, Any] = {"concept_id": collection["id"]}
    if start is not None or end is not None:
        parameters["temporal"] = (start, end)
    if box is not None:
        parameters["bounding_box"] = tuple(round(edge, 6) for edge in box)
    earthaccess = import_earthaccess()
    with warnings.catch_warnings():
        # earthaccess warns of what it does itself to every granule.
        warnings.filterwarnings("ignore", category=FutureWarning, module="earthaccess")
        return list(_patiently(lambda: earthaccess.search_data(**parameters)))


def _patiently(ask: Callable[[], T]) -> T:
    """Ask CMR, again after a wait where it is overloaded or out of reach."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with answering("CMR"):
                return ask()
        except RuntimeError as error:  # what earthaccess makes of an HTTP status
            response = getattr(error.__cause__, "response", None)
            status = getattr(response, "status_code", None)
            said = redact(str(error))[:300]
            if status is None or (status < 500 and status != 429):
                raise CatalogError(f"CMR refuses the search: {said}") from None
            failure, pause = EarthdataError(f"CMR answers {status}: {said}"), _asked_pause(response)
        except EarthdataError as error:
            failure, pause = error, 0.0
        if attempt == ATTEMPTS:
            break
        pause = min(LONGEST_PAUSE_S, max(pause, PAUSE_S * 2 ** (attempt - 1)))
        log.warning("%s; asking again in %.0f s", failure, pause)
        time.sleep(pause)
    raise EarthdataError(f"{failure} (asked {ATTEMPTS} times)") from None


def _asked_pause(response: Any) -> float:
    try:
        return float(response.headers.get("Retry-After", 0))
    except ValueError:  # a date, which CMR does not send
        return 0.0


def _windows(
    first: datetime | None, last: datetime | None
) -> Iterator[tuple[datetime | None, datetime | None]]:
    """Cut a span of time so that the records of one window fit into memory."""
    if first is None or last is None:
        yield first, last
        return
    while (end := first + timedelta(days=WINDOW_DAYS)) < last:
        yield first, end
        first = end
    yield first, last


def _moment(name: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        raise CatalogError(f"{name} must be a date such as 2019-04-16, not {text!r}") from None
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _link(record: Any, access: str) -> str:
    """Return the link to the data: the HDF5 file where there are several."""
    links: list[str] = record.data_links(access=access)
    scheme = "s3://" if access == "direct" else "https://"
    links = [link for link in links if link.startswith(scheme)]
    return next((link for link in links if link.endswith((".h5", ".hdf5"))), (links or [""])[0])


def _extent(umm: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a record says of where it is."""
    domains = umm.get("OrbitCalculatedSpatialDomains")
    return {**(umm.get("SpatialExtent") or {}), "OrbitCalculatedSpatialDomains": domains}


def _times(extent: Mapping[str, Any]) -> tuple[str, str]:
    span = extent.get("RangeDateTime") or {}
    single = extent.get("SingleDateTime", "")
    times = (span.get("BeginningDateTime") or single, span.get("EndingDateTime") or single)
    start, end = (re.sub(r"(\.\d+)?Z?$", "Z" if time else "", time, count=1) for time in times)
    return start, end

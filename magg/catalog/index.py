"""The granule index beside a catalog: where it is, what is in it, how it is written.

Gzipped lines of JSON: first what all entries have in common, then an entry a line, as
docs/granule-index.md describes. While an index is made, what is finished lies in parts of the same
format, so that a build that is killed goes on where it was; at its end all becomes one file, which
one request reads, and which is replaced whole.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import time
import uuid
import zlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from magg.buckets import open_bucket
from magg.config import Coordinates, DataSource
from magg.errors import CatalogError, GranuleError, GranuleNotFoundError
from magg.granules import open_source
from magg.granules.entries import GranuleEntry, Kind
from magg.granules.entrytext import EntryError, from_plain, to_text
from magg.granules.remote import reason
from magg.grid import LATITUDE_CONVENTION, Grid

FORMAT = 1
SUFFIX, PARTS = ".index.gz", ".parts"
# How long what is finished may be unwritten.
FLUSH_S = 1.0
# What the reading of damaged or foreign files raises.
_DAMAGE = (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, AttributeError)


@dataclass(frozen=True)
class IndexKey:
    """What all entries of an index have in common.

    Parameters
    ----------
    parent_order : int
    coordinates : Coordinates
    groups : tuple of str
        The beams that were looked for.
    latitude : str
        The latitude convention of the grid.
    """

    parent_order: int
    coordinates: Coordinates
    groups: tuple[str, ...]
    latitude: str = LATITUDE_CONVENTION

    @classmethod
    def of(cls, source: DataSource, parent_order: int) -> IndexKey:
        """Return the key of the index that a config needs."""
        return cls(parent_order, source.coordinates, source.groups)

    def serves(self, other: IndexKey) -> bool:
        """Tell whether an index of this key may be used where another key is wanted."""
        mine = (self.parent_order, self.coordinates, self.latitude)
        wanted = (other.parent_order, other.coordinates, other.latitude)
        return mine == wanted and set(self.groups) >= set(other.groups)

    def header(self) -> str:
        """Return the first line of an index."""
        return json.dumps(
            {
                "magg_index": FORMAT,
                "parent_order": self.parent_order,
                "coordinates": {
                    "latitude": self.coordinates.latitude,
                    "longitude": self.coordinates.longitude,
                },
                "groups": list(self.groups),
                "latitude": self.latitude,
            }
        )


@dataclass
class GranuleIndex:
    """What is known of granules, by their names in the catalog.

    Parameters
    ----------
    key : IndexKey
    entries : dict of str to GranuleEntry
    """

    key: IndexKey
    entries: dict[str, GranuleEntry] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<GranuleIndex: {len(self.entries)} granules, order {self.key.parent_order}>"


def place_of(catalog: str | Path | None) -> str | None:
    """Return where the index of a catalog lies; None for a catalog that lies nowhere itself."""
    if catalog is None or "?" in (text := str(catalog)):
        return None
    return text.removesuffix(".json") + SUFFIX


def load(place: str) -> GranuleIndex:
    """Read an index.

    Parameters
    ----------
    place : str
        Path or URL.

    Raises
    ------
    FileNotFoundError
        If there is none.
    CatalogError
        If it cannot be read, is damaged, or of a newer version.
    """
    try:
        with open_source(place) as source:
            data = bytes(source.read(0, source.size))
    except GranuleNotFoundError:
        raise FileNotFoundError(f"there is no granule index at {place}") from None
    except GranuleError as error:
        raise CatalogError(f"the granule index cannot be read: {error}") from None
    return _parsed(data, place)


def about(catalog: str | None, granules: Collection[str]) -> dict[str, dict[str, Any]]:
    """Return what a catalog's summary tells of the index beside it: nothing where there is none.

    Parameters
    ----------
    catalog : str or None
        Where the catalog is.
    granules : collection of str
        Of the catalog.
    """
    place = place_of(catalog)
    if place is None:
        return {}
    try:
        found = load(place)
    except FileNotFoundError:
        return {}
    except CatalogError as error:
        return {"index": {"path": place, "error": str(error)}}
    return {"index": {"path": place, "granules": len(found.entries.keys() & set(granules))}}


class IndexFile:
    """An index that is being made.

    Parameters
    ----------
    place : str
        A local path or ``s3://`` URL.
    key : IndexKey

    Attributes
    ----------
    replaces : bool
        Whether an index of another key, which does not serve, was found there.

    Raises
    ------
    CatalogError
        If nothing can be written there.
    """

    def __init__(self, place: str, key: IndexKey) -> None:
        self.place, self.key = place, key
        with _told(place, "written"):
            self._objects, self._name = _objects(place)
        self._waiting: list[str] = []
        self._mine: list[str] = []
        self._flushed = time.monotonic()
        self.replaces = False

    def gather(self, *, anew: bool = False) -> GranuleIndex:
        """Return what the index and the parts of unfinished builds hold, as far as it serves.

        The key of what is returned may have more beams than the one that was asked for; what is
        added must be of that key.

        Parameters
        ----------
        anew : bool
            Forget all of it.

        Raises
        ------
        CatalogError
            If the index is damaged, or of a newer version.
        """
        parts = self._parts()
        if anew:
            self._remove([self._name, *parts])
            return GranuleIndex(self.key)
        index = GranuleIndex(self.key)
        if (found := self._read(self._name)) is not None:
            if found.key.serves(self.key):
                index = found
            elif replace(found.key, groups=self.key.groups) == self.key:
                groups = dict.fromkeys([*found.key.groups, *self.key.groups])
                index.key = replace(self.key, groups=tuple(groups))
                self.replaces = True
            else:
                self.replaces = True
        self.key, self._mine = index.key, parts
        for name in parts:
            part = self._read(name)
            if part is not None and part.key.serves(self.key):
                index.entries |= part.entries
        return index

    def add(self, entry: GranuleEntry) -> None:
        """Keep an entry, in a part that is written within a second or so."""
        self._waiting.append(to_text(entry, self.key.parent_order))
        if time.monotonic() - self._flushed > FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        self._flushed = time.monotonic()
        if self._waiting:
            name = f"{self._name}{PARTS}/{uuid.uuid4().hex}"
            self._put(name, [self.key.header(), *self._waiting])
            self._mine.append(name)
            self._waiting = []

    def finish(self, index: GranuleIndex) -> None:
        """Write all entries as one file, in place of the parts."""
        others = self._read(self._name)  # of a build that ended meanwhile
        if others is not None and others.key == index.key:
            index.entries = others.entries | index.entries
        lines = (
            to_text(index.entries[granule], index.key.parent_order)
            for granule in sorted(index.entries)
        )
        self._put(self._name, [index.key.header(), *lines])
        self._waiting = []
        self._remove(self._mine)

    def _parts(self) -> list[str]:
        folder = f"{self._name}{PARTS}"
        with _told(self.place, "read"):
            return sorted(m["path"] for batch in self._objects.list(prefix=folder) for m in batch)

    def _read(self, name: str) -> GranuleIndex | None:
        try:
            with _told(self.place, "read"):
                data = bytes(self._objects.get(name).bytes())
        except FileNotFoundError:
            return None
        return _parsed(data, self.place if name == self._name else f"{self.place} ({name})")

    def _put(self, name: str, lines: Iterable[str]) -> None:
        with _told(self.place, "written"):
            self._objects.put(name, _zipped(lines))

    def _remove(self, names: Collection[str]) -> None:
        for name in names:
            with _told(self.place, "written"), contextlib.suppress(FileNotFoundError):
                self._objects.delete(name)


def _objects(place: str) -> tuple[Any, str]:
    from obstore.store import LocalStore

    parts = urlsplit(place)
    if parts.scheme == "s3":
        folder, _, name = parts.path.strip("/").rpartition("/")
        return open_bucket(parts.netloc, folder or None), name
    if "://" in place:
        raise CatalogError(
            f"{place}: an index can be written beside local catalogs and those in S3 alone; save "
            "the catalog there first"
        )
    path = Path(place).absolute()
    return LocalStore(path.parent, mkdir=True), path.name


@contextlib.contextmanager
def _told(place: str, done: str) -> Iterator[None]:
    """Turn what obstore raises into errors that name the index."""
    from obstore import exceptions

    try:
        yield
    except (exceptions.NotFoundError, FileNotFoundError):
        raise FileNotFoundError(f"there is no granule index at {place}") from None
    except (exceptions.BaseError, OSError) as error:
        raise CatalogError(
            f"{place}: the granule index cannot be {done} ({reason(error)})"
        ) from error


def _zipped(lines: Iterable[str]) -> bytes:
    # Without a time, so that equal entries give equal bytes.
    return gzip.compress("".join(f"{line}\n" for line in lines).encode(), 6, mtime=0)


def _parsed(data: bytes, place: str) -> GranuleIndex:
    try:
        lines = _lines(data)
        key = _key(json.loads(next(lines)), place)
        kinds: dict[str, Kind] = {}
        entries = (from_plain(json.loads(line), key.parent_order, kinds) for line in lines)
        return GranuleIndex(key, {entry.granule: entry for entry in entries})
    except CatalogError:
        raise
    except StopIteration:
        problem = "it is empty"
    except EntryError as error:
        problem = str(error)
    except _DAMAGE as error:
        problem = f"{type(error).__name__}: {error}"
    raise CatalogError(
        f"{place}: the granule index is damaged ({problem}); delete it, or make it anew with "
        "`magg catalog index CATALOG --overwrite`"
    )


def _lines(data: bytes) -> Iterator[str]:
    # One at a time: all of them together take 9 KB a granule.
    unzipped = gzip.GzipFile(fileobj=io.BytesIO(data))
    for line in io.TextIOWrapper(unzipped, encoding="utf-8", newline="\n"):
        if line.strip():
            yield line


def _key(header: Any, place: str) -> IndexKey:
    version = header["magg_index"]
    if version != FORMAT:
        raise CatalogError(
            f"{place}: the granule index is of version {version!r}, and this magg reads {FORMAT}; "
            "update magg, or make it anew with `magg catalog index CATALOG --overwrite`"
        )
    order = header["parent_order"]
    if type(order) is not int:
        raise TypeError("parent_order is no whole number")
    Grid(order, order)
    coordinates = Coordinates(
        str(header["coordinates"]["latitude"]), str(header["coordinates"]["longitude"])
    )
    groups = tuple(str(group) for group in header["groups"])
    return IndexKey(order, coordinates, groups, str(header["latitude"]))

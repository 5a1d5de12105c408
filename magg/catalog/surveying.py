"""The functions that are mapped over granules, on any executor, when an index is made.

Like `magg.cell.process_cell` they take and return plain data and never raise.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from magg.config import DataSource
from magg.credentials import Access
from magg.errors import GranuleChangedError, GranuleError
from magg.executors.retry import Kind, classify
from magg.failure import CellFailure, failure_of
from magg.granules import forget_sources, open_source, use_access
from magg.granules.entries import GranuleEntry, describe_datasets, survey
from magg.granules.entrytext import EntryError, from_plain, to_text

LOOKING_THREADS = 32
_LARGEST_ENTRY = 256 << 20


@dataclass(frozen=True)
class Version:
    """What a granule was when it was surveyed: its size (bytes) and ETag."""

    size: int
    etag: str


@dataclass(frozen=True)
class SurveyTask:
    """What a worker needs to survey granules.

    Parameters
    ----------
    unit : str
        What the client calls the task.
    granules : tuple of str
        Paths or URLs.
    source : DataSource
    parent_order : int
    paths : tuple of str
        The datasets that are wanted alone, without runs of rows; everything if empty.
    versions : tuple of Version
        What the granules were, one for each, where they are looked at.
    access : Access
        What granules of Earthdata are opened with.
    """

    unit: str
    granules: tuple[str, ...]
    source: DataSource
    parent_order: int
    paths: tuple[str, ...] = ()
    versions: tuple[Version, ...] = ()
    access: Access = field(default_factory=Access, repr=False)


@dataclass(frozen=True)
class Surveyed:
    """What came of a task.

    Parameters
    ----------
    cell : str
        The task's unit; a drain calls it a cell.
    answers : tuple of str
        One for each granule.
    error : CellFailure, optional
    """

    cell: str
    answers: tuple[str, ...] = ()
    error: CellFailure | None = None


def survey_granule(task: SurveyTask) -> Surveyed:
    """Return the entry of the task's granule, packed."""

    def answers() -> list[str]:
        packed = []
        for granule in task.granules:
            if task.paths:
                entry = describe_datasets(granule, task.source, task.paths)
            else:
                entry = survey(granule, task.source, task.parent_order)
            text = to_text(entry, task.parent_order)
            packed.append(base64.b64encode(zlib.compress(text.encode())).decode("ascii"))
        return packed

    return _answered(task, answers)


def look_at_granules(task: SurveyTask) -> Surveyed:
    """Return of each granule whether it is the ``"same"``, ``"changed"``, or ``"unseen"``."""

    def answers() -> list[str]:
        with ThreadPoolExecutor(LOOKING_THREADS, thread_name_prefix="magg-look") as pool:
            return list(pool.map(_look, task.granules, task.versions))

    return _answered(task, answers)


def failed(unit: str, error: BaseException, default: Kind = Kind.PERMANENT) -> Surveyed:
    """Return the result of a task that failed; see `magg.cell.failed`."""
    return Surveyed(unit, error=failure_of(error, default))


def unpacked(answer: str, parent_order: int) -> GranuleEntry:
    """Return the entry that `survey_granule` answered.

    Raises
    ------
    EntryError
        If it makes no sense.
    """
    try:
        text = zlib.decompressobj().decompress(base64.b64decode(answer), _LARGEST_ENTRY)
        return from_plain(json.loads(text), parent_order)
    except (ValueError, zlib.error) as error:
        raise EntryError(f"a worker's entry of a granule makes no sense: {error}") from None


def _look(granule: str, version: Version) -> str:
    try:
        with open_source(granule, (version.size, version.etag)) as opened:
            opened.ask_unchanged()
    except GranuleChangedError:
        return "changed"
    except GranuleError as error:
        if classify(error) is Kind.CREDENTIALS:
            raise
        return "unseen"  # what is wrong shows when it is surveyed, or read
    return "same"


def _answered(task: SurveyTask, answers: Callable[[], list[str]]) -> Surveyed:
    try:
        use_access(task.access)
        return Surveyed(task.unit, tuple(answers()))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - native libraries panic with BaseException
        result = failed(task.unit, error)
        if result.error is not None and result.error.kind is Kind.CREDENTIALS:
            forget_sources()
        return result

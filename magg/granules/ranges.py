"""From wanted rows to byte ranges, and from bytes to rows.

`RangeRead` plans which chunks hold the wanted rows, joins neighbouring chunks into spans, and
yields jobs that fetch one span each and decode it into the output arrays. Jobs write to places of
their own, so they may run in any order and in any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from magg.errors import GranuleError
from magg.granules.bytesource import DAMAGED, ByteSource, LocalSource
from magg.granules.chunks import decoded_once, kept_chunk, key_of
from magg.granules.datasets import GZIP, UNALLOCATED, DatasetLayout
from magg.granules.filters import decode
from magg.granules.hdf5 import HDF5_ERRORS, HeldFile, read_hdf5
from magg.granules.pool import run_all

# A gap is read along where asking twice costs more; a span bounds the memory of one job.
LARGEST_GAP = 64 << 10
LARGEST_SPAN = 8 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Want:
    """Rows of one dataset.

    Parameters
    ----------
    beam : str
        For messages.
    dataset : DatasetLayout
    starts, stops : sequence of int
        Runs of rows, ascending, not overlapping.
    coordinate : bool
        Whether it is the latitude or the longitude, which are never decoded twice.
    """

    beam: str
    dataset: DatasetLayout
    starts: Sequence[int]
    stops: Sequence[int]
    coordinate: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class _Chunk:
    """One stored chunk, and where its rows go: (first, last, place in ``out``) each.

    It has a key if other cells will want the rest of it.
    """

    want: Want
    index: int
    start: int
    stop: int
    pieces: list[tuple[int, int, int]]
    out: NDArray[Any]
    key: tuple[Hashable, ...] | None

    def deliver(self, values: NDArray[Any]) -> None:
        """Copy the wanted rows to where they go."""
        for first, last, at in self.pieces:
            self.out[at : at + last - first] = values[first:last]


class RangeRead:
    """The values of wanted rows of one granule, on their way.

    Parameters
    ----------
    source : ByteSource
    wants : sequence of Want

    Attributes
    ----------
    arrays : list of ndarray
        One for each want, in the dataset's dtype and native byte order: the rows of its runs, one
        run after the other. Complete when every job has run.
    jobs : list of callable
        To be called once each. They raise `GranuleError`. A job needs the memory of one span
        (8 MiB, or one chunk if that is larger) and one decoded chunk beside the arrays.
    """

    def __init__(self, source: ByteSource, wants: Sequence[Want]) -> None:
        self.arrays = [_new_array(want) for want in wants]
        chunks: list[_Chunk] = []
        exotic: list[tuple[Want, NDArray[Any]]] = []
        for want, out in zip(wants, self.arrays, strict=True):
            if want.dataset.direct:
                chunks.extend(_stored_chunks(source, want, out))
            elif out.size:
                exotic.append((want, out))
        self.jobs: list[Callable[[], None]] = [
            partial(_read_span, source, span) for span in _spans(chunks)
        ]
        if exotic:
            self.jobs.append(partial(_read_with_h5py, source, exotic))

    def finish(self) -> list[NDArray[Any]]:
        """Run all jobs here, one after the other, and return the arrays."""
        for job in self.jobs:
            job()
        return self.arrays

    def finish_together(self) -> list[NDArray[Any]]:
        """Run all jobs in the threads for ranges, and return the arrays."""
        run_all(self.jobs)
        return self.arrays


def _new_array(want: Want) -> NDArray[Any]:
    dataset = want.dataset
    rows = sum(want.stops) - sum(want.starts)
    return np.empty((rows, *dataset.shape[1:]), dtype=dataset.dtype.newbyteorder("="))


def _stored_chunks(source: ByteSource, want: Want, out: NDArray[Any]) -> Iterator[_Chunk]:
    """Yield the chunks to fetch; rows of chunks that were never written get the fill value."""
    dataset = want.dataset
    version = source.name, source.size, source.etag
    for index, pieces in _pieces(want).items():
        start = int(dataset.offsets[index])
        if start == UNALLOCATED:
            for first, last, at in pieces:
                out[at : at + last - first] = dataset.fill
            continue
        wanted = sum(last - first for first, last, _ in pieces)
        key = None
        inflated = GZIP in dataset.filters and not dataset.masks[index]
        shared = want.coordinate or isinstance(source, LocalSource)
        if shared and inflated and wanted < dataset.stored_rows(index):
            key = key_of(version, dataset.path, index, coordinate=want.coordinate)
        stop = start + int(dataset.sizes[index])
        chunk = _Chunk(want, index, start, stop, pieces, out, key)
        values = None if key is None else kept_chunk(key)
        if values is None:
            yield chunk
        else:
            chunk.deliver(values)


def _pieces(want: Want) -> dict[int, list[tuple[int, int, int]]]:
    """Return, by chunk, the wanted rows within it and their place in the output."""
    length = want.dataset.chunk_rows
    found: dict[int, list[tuple[int, int, int]]] = {}
    done = 0
    for start, stop in zip(want.starts, want.stops, strict=True):
        shift = done - start  # from a row of the file to its place in the output
        for index in range(start // length, -(-stop // length)):
            base = index * length
            first, last = max(start, base), min(stop, base + length)
            found.setdefault(index, []).append((first - base, last - base, first + shift))
        done += stop - start
    return found


def _spans(chunks: list[_Chunk]) -> list[list[_Chunk]]:
    """Group chunks that lie near each other in the file."""
    spans: list[list[_Chunk]] = []
    start = stop = 0
    for chunk in sorted(chunks, key=lambda chunk: chunk.start):
        near = chunk.start - stop <= LARGEST_GAP and chunk.stop - start <= LARGEST_SPAN
        if spans and near:
            spans[-1].append(chunk)
            stop = max(stop, chunk.stop)
        else:
            spans.append([chunk])
            start, stop = chunk.start, chunk.stop
    return spans


def _read_span(source: ByteSource, span: list[_Chunk]) -> None:
    start, stop = span[0].start, max(chunk.stop for chunk in span)
    try:
        data = source.read(start, stop)
    except GranuleError as error:
        raise _placed(error, source, span, start, stop) from error.__cause__
    for chunk in span:
        dataset = chunk.want.dataset
        raw = data[chunk.start - start : chunk.stop - start]
        decoded = partial(decode, dataset, chunk.index, raw)
        try:
            chunk.deliver(decoded() if chunk.key is None else decoded_once(chunk.key, decoded))
        except ValueError as error:
            raise GranuleError(
                f"{source.name}: beam {chunk.want.beam}, dataset {dataset.path}: chunk "
                f"{chunk.index} (bytes {chunk.start} to {chunk.stop}) cannot be decoded "
                f"({error}); {DAMAGED}",
                granule=source.granule,
            ) from error


def _placed(
    error: GranuleError, source: ByteSource, span: list[_Chunk], start: int, stop: int
) -> GranuleError:
    """Return an error about a range that says what was to be read from it."""
    beams = sorted({chunk.want.beam for chunk in span})
    paths = sorted({chunk.want.dataset.path for chunk in span})
    place = f"beam {' and '.join(beams)}, dataset {' and '.join(paths)}, bytes {start} to {stop}"
    text = str(error).removeprefix(f"{source.name}: ")
    return type(error)(f"{source.name}: {place}: {text}", granule=source.granule)


def _read_with_h5py(source: ByteSource, wants: list[tuple[Want, NDArray[Any]]]) -> None:
    """Let h5py read what is stored in another way than `decode` knows."""

    def parse(file: Any, held: HeldFile | None) -> None:
        for want, out in wants:
            try:
                _with_h5py(file, held, want, out)
            except HDF5_ERRORS as error:
                if held is not None and held.missing:
                    continue
                raise GranuleError(
                    f"{source.name}: beam {want.beam}, dataset {want.dataset.path}: h5py cannot "
                    f"read it ({error}); {DAMAGED}, or install the filter that it names",
                    granule=source.granule,
                ) from (error if held is None else None)

    read_hdf5(source, parse)


def _with_h5py(file: Any, held: HeldFile | None, want: Want, out: NDArray[Any]) -> None:
    dataset, at = file[want.dataset.path], 0
    if held is not None and not _holds_chunks(held, dataset, want):
        return
    for start, stop in zip(want.starts, want.stops, strict=True):
        out[at : at + stop - start] = dataset[start:stop]
        at += stop - start


def _holds_chunks(held: HeldFile, dataset: Any, want: Want) -> bool:
    """Tell whether the chunks of the wanted rows are in memory, and note all that are not."""
    runs = list(zip(want.starts, want.stops, strict=True))
    if dataset.chunks is None or not runs:
        return True
    complete = True
    for number in range(dataset.id.get_num_chunks()):
        info = dataset.id.get_chunk_info(number)
        first = info.chunk_offset[0]
        if any(first < stop and start < first + dataset.chunks[0] for start, stop in runs):
            complete &= held.holds(info.byte_offset, info.byte_offset + info.size)
    return complete

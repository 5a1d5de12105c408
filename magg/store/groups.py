"""The groups of a store, one an order: made, and grown by new parent cells."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from magg.grid import Words, words_of
from magg.statistics import Compiled, mergeable, state_specs, why_not_mergeable
from magg.store import schema
from magg.store.chunkbytes import Chunk, chunks_of, compressor, put_chunks
from magg.store.levels import STATE, Level
from magg.store.schema import ArraySpec

if TYPE_CHECKING:
    import zarr
    from obstore.store import ObjectStore

COORDINATES = ("cell_ids", "morton")
OBSERVATIONS = "observations"
AT_ONCE = 16
Documents = dict[str, dict[str, Any]]
_GROUP = {"zarr_format": 3, "node_type": "group"}
APPROXIMATE = "from digests of the observations; the rank of a quantile is within 0.2 %"
CANNOT_BE_MERGED = "cannot be had from its values in parent cells: {}"


@dataclass(frozen=True)
class Contents:
    """Which statistics the group of a coarser order holds.

    Parameters
    ----------
    made_from : {"observations", "state", "values"}
        What the values of its finest cells were computed from: the observations themselves, or
        the state or the values that the store keeps of its child cells.
    accuracy : dict of str to str
        Variables to what their attribute ``accuracy`` says; empty text for exact ones.
    absent : dict of str to str
        Statistics that the group does not have, and why.
    """

    made_from: str = OBSERVATIONS
    accuracy: Mapping[str, str] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, attributes: Mapping[str, Any], variables: Iterable[str]) -> Contents:
        """Return what a group says that it holds, of the variables of the child order."""
        absent, about = attributes["absent_variables"], attributes["approximate_variables"]
        accuracy = {name: about.get(name, "") for name in variables if name not in absent}
        return cls(attributes["made_from"], accuracy, absent)


def from_observations(statistics: Mapping[str, Compiled], level: Level) -> Contents:
    """Return what the group of an order holds that a run makes.

    Down to the parent order that is everything, for each cell sees all of its observations;
    coarser cells are merged from parent cells.
    """
    if not level.is_below:
        return Contents(accuracy=dict.fromkeys(statistics, ""))
    how = mergeable(statistics)
    reasons = why_not_mergeable(statistics)
    return Contents(
        accuracy={
            name: APPROXIMATE if merging == "approximate" else ""
            for name, merging in how.items()
            if merging != "none"
        },
        absent={name: CANNOT_BE_MERGED.format(reason) for name, reason in reasons.items()},
    )


def add_state(
    leaf: zarr.Group, statistics: Mapping[str, Compiled], level: Level, held: Words, new: Words
) -> None:
    """Make or grow the arrays that keep the state of the child cells, below their group."""
    specs = [
        ArraySpec(spec.name, spec.dtype, spec.dtype.type(spec.neutral), {"long_name": spec.words})
        for spec in state_specs(statistics)
        if not spec.is_digest
    ]
    grow(leaf.require_group(STATE), specs, level, held, new)


def grow(
    group: zarr.Group, specs: Iterable[ArraySpec], level: Level, held: Words, new: Words
) -> None:
    """Give every array room for all parent cells, and the new cells their coordinates."""
    before = len(level.ids(held))
    ids = level.ids(np.concatenate([held, new]))
    for spec in specs:
        if spec.name not in group:
            group.create_array(
                spec.name,
                shape=ids.shape,
                chunks=(level.chunk,),
                dtype=spec.dtype,
                fill_value=spec.fill,
                compressors=compressor(),
                dimension_names=(schema.DIMENSION,),
                attributes=spec.attributes,
            )
        elif group[spec.name].shape != ids.shape:
            group[spec.name].resize(ids.shape)
    if len(ids) > before and all(name in group for name in COORDINATES):
        group["cell_ids"][before:] = ids[before:]
        group["morton"][before:] = words_of(ids[before:], level.order)


def read_documents(objects: ObjectStore, level: Level, names: Iterable[str]) -> Documents:
    """Return the metadata of the arrays of the child order, by name."""
    folder = level.grid.child_order
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = pool.map(lambda name: (name, _read(objects, f"{folder}/{name}")), names)
        return {name: document for name, document in found if document is not None}


def add_levels(
    objects: ObjectStore,
    levels: Iterable[tuple[Level, Contents | None]],
    held: Words,
    new: Words,
    leaf: Documents,
    attributes: Mapping[str, Any],
) -> list[Contents]:
    """Make or grow the groups of coarser orders; return what each then holds.

    Their metadata are those of the child order with other shapes, chunks and a few attributes.
    They are written as objects, several at once, because making so many arrays one by one takes
    seconds where each request is a round trip.

    Parameters
    ----------
    objects : ObjectStore
        Where the store is.
    levels : iterable of (Level, Contents or None)
        Without contents, a group stays as it is but for its length.
    held, new : ndarray of uint64
        Parent cells that the store has, and that it gets.
    leaf : mapping of str to dict
        Metadata of the coordinates and variables of the child order.
    attributes : mapping
        Those of the group of the child order.
    """
    wanted = list(levels)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(lambda level: _read(objects, f"{level.order}"), dict(wanted)))
        orders = [
            _Order.of(level, contents, group, held, new, leaf)
            for (level, contents), group in zip(wanted, found, strict=True)
        ]
        _write(objects, (document for order in orders for document in order.arrays(leaf)), pool)
        put_chunks(objects, (chunk for order in orders for chunk in order.coordinates()), pool)
        # Last, because a group without attributes is one that was never finished.
        _write(
            objects, (document for order in orders for document in order.group(attributes)), pool
        )
    return [order.contents for order in orders]


@dataclass(frozen=True)
class _Order:
    """The group of an order as it is to be.

    Parameters
    ----------
    level : Level
    contents : Contents
    before : mapping
        Attributes that the group has.
    ids : ndarray of uint64, optional
        NESTED ids of all cells; None where arrays and cells stay as they are.
    held : int
        How many of the cells are there already.
    """

    level: Level
    contents: Contents
    before: Mapping[str, Any]
    ids: NDArray[np.uint64] | None = None
    held: int = 0

    @classmethod
    def of(
        cls,
        level: Level,
        contents: Contents | None,
        group: Mapping[str, Any] | None,
        held: Words,
        new: Words,
        leaf: Documents,
    ) -> _Order:
        """Return it from what is wanted, and what there is."""
        made = group["attributes"] if group else {}
        if schema.PROVENANCE not in made:
            held, new = held[:0], np.concatenate([held, new])  # it was never finished
            before = None
        else:
            before = Contents.of(made, [name for name in leaf if name not in COORDINATES])
        contents = contents or before or Contents()
        if not len(new) and contents == before:
            return cls(level, contents, made)
        ids = level.ids(np.concatenate([held, new]))
        return cls(level, contents, made, ids, len(level.ids(held)))

    def arrays(self, leaf: Documents) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield the metadata of the arrays that change."""
        if self.ids is None:
            return
        for name in (*COORDINATES, *self.contents.accuracy):
            accuracy = self.contents.accuracy.get(name, "")
            document = _coarser(leaf[name], self.level, len(self.ids), accuracy)
            yield f"{self.level.order}/{name}", document

    def coordinates(self) -> Iterator[Chunk]:
        """Yield the chunks of coordinates that hold new cells."""
        if self.ids is None or len(self.ids) == self.held:
            return
        level = self.level
        first = self.held // level.chunk
        rest = self.ids[first * level.chunk :]
        for name, values in zip(COORDINATES, (rest, words_of(rest, level.order)), strict=True):
            yield from chunks_of(level.order, name, values, level.chunk, 0, first)

    def group(self, leaf: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield the metadata of the group, made of those of the child order, if they change."""
        wanted = schema.level_attributes(leaf, self.level.order, **vars(self.contents))
        wanted = json.loads(json.dumps(wanted))  # as they are read
        if self.before != wanted:
            yield f"{self.level.order}", _GROUP | {"attributes": wanted}


def _coarser(leaf: Mapping[str, Any], level: Level, cells: int, accuracy: str) -> dict[str, Any]:
    """Return the metadata of an array as it is at a coarser order."""
    attributes = dict(leaf["attributes"])
    if "level" in attributes:
        attributes["level"] = level.order
    if accuracy:
        attributes["accuracy"] = accuracy
    chunks = {"name": "regular", "configuration": {"chunk_shape": [level.chunk]}}
    return {**leaf, "shape": [cells], "chunk_grid": chunks, "attributes": attributes}


def _read(objects: ObjectStore, folder: str) -> dict[str, Any] | None:
    try:
        return dict(json.loads(bytes(objects.get(f"{folder}/zarr.json").bytes())))
    except FileNotFoundError:
        return None


def _write(
    objects: ObjectStore, documents: Iterable[tuple[str, Mapping[str, Any]]], pool: Executor
) -> None:
    """Write metadata, several at once."""
    encoded = [(f"{place}/zarr.json", json.dumps(about).encode()) for place, about in documents]
    for _ in pool.map(lambda one: objects.put(*one), encoded):
        pass

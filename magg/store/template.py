"""Making a store, checking that an existing one fits, and growing it."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from magg.config import PipelineConfig, coarser_orders, compile_statistics
from magg.errors import StoreError, StoreMismatchError
from magg.grid import Grid, Words
from magg.statistics import state_specs
from magg.store import groups, lock, makings, schema
from magg.store.declared import parent_cells
from magg.store.levels import NOTHING, Holdings, Level, levels_of
from magg.store.lock import exclusive
from magg.store.open import local_path, object_names, open_objects, open_store, remove_together

if TYPE_CHECKING:
    import zarr
    from obstore.store import ObjectStore
    from zarr.abc.store import Store

# A chunk of the parents' array that every catalog of order 6 (49,152 cells) fits into.
PARENTS_PER_CHUNK = 1 << 16


@dataclass(frozen=True)
class Chunks:
    """Which chunk of a store is whose.

    Parameters
    ----------
    of : dict of int to int
        Morton word of every parent cell of the store to its chunk.
    making : str
        The store that this is true of; see `magg.store.makings`.
    has : Holdings
        What the store holds beside the statistics of its child cells.
    in_full : Holdings
        What of that it holds with all statistics.
    """

    of: dict[int, int]
    making: str
    has: Holdings = NOTHING
    in_full: Holdings = NOTHING


def prepare(
    path: str,
    config: PipelineConfig,
    grid: Grid,
    parents: Words,
    *,
    region: str | None = None,
    catalog_digest: str = "",
    sources: Mapping[str, Mapping[str, str]] | None = None,
    overwrite: bool = False,
) -> Chunks:
    """Make a store ready for a run, and return the chunk of each parent cell.

    A new store gets its arrays, complete coordinates and attributes. An existing one is checked,
    and grows by the parent cells that it lacks; its chunks never move.

    Parameters
    ----------
    path : str
        Where the store is, as `open_store` takes it.
    config : PipelineConfig
    grid : Grid
    parents : ndarray of uint64
        Morton words of the parent cells wanted, ascending.
    region : str, optional
        AWS region of the bucket.
    catalog_digest : str, optional
    sources : mapping, optional
        Column name to the attributes that its dataset has.
    overwrite : bool, default False
        Start again; what the store held is lost.

    Returns
    -------
    Chunks

    Raises
    ------
    StoreMismatchError
        If the store was made from another config, grid or convention; says what differs.
    StoreError
        If there is something at this place that is no store of magg.
    """
    check(path, config, grid, region=region, overwrite=overwrite)
    if overwrite:
        # Before the lock, which must not grow old while workers of the former store end.
        makings.end(open_objects(path, region))
    with exclusive(path, region):
        # Once more, now that nobody else can make or grow the store.
        held = check(path, config, grid, region=region, overwrite=overwrite)
        if held is None:
            _clear(path, region)
            held = np.zeros(0, dtype=np.uint64)
        new = np.setdiff1d(parents, held)
        has, in_full = _complete(
            open_store(path, region=region),
            open_objects(path, region),
            config,
            grid,
            held,
            new,
            catalog_digest,
            sources or {},
        )
        token = makings.begin(open_objects(path, region), has)
    chunks = {int(word): chunk for chunk, word in enumerate(np.concatenate([held, new]))}
    return Chunks(chunks, token, has, in_full)


def state_size(config: PipelineConfig) -> int:
    """Return how many bytes a child cell takes of the state that a config keeps."""
    if not config.output.state:
        return 0
    specs = state_specs(compile_statistics(config))
    return sum(spec.dtype.itemsize for spec in specs if not spec.is_digest)


def check(
    path: str,
    config: PipelineConfig,
    grid: Grid,
    *,
    region: str | None = None,
    overwrite: bool = False,
) -> Words | None:
    """Return the parent cells that a store holds, or None where a new one is to be made.

    Raises
    ------
    StoreMismatchError, StoreError
        As `prepare`. With ``overwrite`` a store of any config passes, but never something else.
    """
    local = local_path(path)
    if local is not None and not local.exists():
        return None
    root = _root(path, region)
    if root is None:
        if _is_empty(open_objects(path, region)):
            return None
        root = _root(path, region)  # another run may have begun the store since the first look
    if root is None or schema.PROVENANCE not in root.attrs:
        raise StoreError(f"{path} holds something that is no store of magg; choose another place")
    finished = provenances(root)
    if overwrite or not finished:
        return None
    advice = "choose another place, or overwrite=True to start again"
    stored = finished.get(grid.child_order)
    if stored is None:
        raise StoreMismatchError(
            f"{path} holds child order {', '.join(map(str, finished))}, where this run makes "
            f"{grid.child_order}; {advice}"
        )
    found = schema.differences(stored, schema.provenance(config, grid, ""))
    if found:
        lines = "\n  ".join(found)
        raise StoreMismatchError(f"{path} was made from another config; {advice}:\n  {lines}")
    return parent_cells(root)


def _root(path: str, region: str | None) -> zarr.Group | None:
    import zarr

    try:
        return zarr.open_group(open_store(path, region=region), mode="r")
    except FileNotFoundError:
        return None


def provenances(root: zarr.Group) -> dict[int, dict[str, Any]]:
    """Return what made the finished group of a store's child order, by that order."""
    # Named by the root, because listing it makes zarr warn of the records beside the groups.
    held = {order: root.get(str(order)) for order in root.attrs[schema.PROVENANCE]["orders"]}
    made = {
        order: dict(group.attrs[schema.PROVENANCE])
        for order, group in held.items()
        if group is not None and schema.PROVENANCE in group.attrs
    }
    return {order: about for order, about in made.items() if about["child_order"] == order}


def _is_empty(objects: ObjectStore) -> bool:
    """Tell whether nothing is here but what magg leaves before there is a store."""
    # Zarr leaves such a file where it was killed before it could rename it.
    keys = [meta["path"] for meta in next(iter(objects.list()), [])]
    return all(key.startswith(makings.FOLDER) or key.endswith(".partial") for key in keys)


def _clear(path: str, region: str | None) -> None:
    """Delete a store in an order that leaves, wherever it is cut short, no cell that reads as done.

    All records are void as soon as their token is gone. What makes a group a finished one goes
    next, and the mark of the root last; the lock stays.
    """

    def turn(key: str) -> int:
        folder, _, name = key.partition("/")
        if name == "zarr.json" and folder.isdecimal():
            return int(folder)  # coarser orders before the child order
        return 1001 if key == "zarr.json" else 1000

    objects = open_objects(path, region)
    makings.end(objects)
    doomed = sorted((key for key in object_names(objects) if key != lock.NAME), key=turn)
    for _, group in itertools.groupby(doomed, key=turn):
        remove_together(objects, list(group))
    folder = local_path(path)
    if folder is not None:
        for empty in sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True):
            with contextlib.suppress(OSError):  # the lock is in its folder
                empty.rmdir()


def _complete(
    store: Store,
    objects: ObjectStore,
    config: PipelineConfig,
    grid: Grid,
    held: Words,
    new: Words,
    catalog_digest: str,
    sources: Mapping[str, Mapping[str, str]],
) -> tuple[Holdings, Holdings]:
    """Make or grow the groups and arrays of a store.

    Return what it then holds, and what of that with all statistics.
    """
    import zarr

    mark = {schema.PROVENANCE: schema.root_mark(grid)}
    root = zarr.open_group(store, mode="a", attributes=mark)
    has = Holdings.of(root)
    wanted = Holdings(coarser_orders(config), config.output.state)
    leaf = Level(grid.child_order, grid)
    group = root.require_group(str(grid.child_order))
    specs = schema.array_specs(config, grid, sources)
    groups.grow(group, specs, leaf, held, new)
    will_have = has.joined(wanted)
    if will_have.state:
        groups.add_state(group, compile_statistics(config), leaf, held, new)
    attributes = schema.group_attributes(config, grid, catalog_digest)
    levels = levels_of(grid, will_have.orders)
    contents = [
        groups.from_observations(compile_statistics(config), level)
        if level.order in wanted.orders
        else None
        for level in levels
    ]
    in_full: list[int] = []
    if levels:
        documents = groups.read_documents(objects, leaf, [spec.name for spec in specs])
        made = groups.add_levels(
            objects, zip(levels, contents, strict=True), held, new, documents, attributes
        )
        full = (each.made_from == groups.OBSERVATIONS for each in made)
        in_full = [level.order for level, is_full in zip(levels, full, strict=True) if is_full]
    if len(new):
        _write_parents(root, np.concatenate([held, new]))
    if will_have != has:
        orders = (grid.child_order, *will_have.orders)
        root.attrs.update(schema.pyramid_attributes(orders, will_have.state))
    # Written last: a group without provenance is a template that was never finished.
    group.attrs.update(attributes)
    return will_have, Holdings(tuple(in_full), will_have.state)


def _write_parents(root: zarr.Group, parents: Words) -> None:
    """Record which parent cell each chunk belongs to, in one object."""
    if schema.PARENTS not in root:
        root.create_array(
            schema.PARENTS,
            shape=parents.shape,
            chunks=(PARENTS_PER_CHUNK,),
            dtype=np.uint64,
            fill_value=0,
            dimension_names=(schema.PARENTS,),
            attributes={"long_name": "Morton word of the parent cell of each chunk, in order"},
        )
    array = root[schema.PARENTS]
    array.resize(parents.shape)
    array[:] = parents

"""The groups of a store, one an order: made, and grown by new parent cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from magg.grid import Words, words_of
from magg.statistics import Compiled, mergeable, state_specs, why_not_mergeable
from magg.store import schema
from magg.store.levels import STATE, Level
from magg.store.schema import ArraySpec

if TYPE_CHECKING:
    import zarr

COORDINATES = ("cell_ids", "morton")
OBSERVATIONS = "observations"
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
    from zarr.codecs import BloscCodec

    before = len(level.ids(held))
    ids = level.ids(np.concatenate([held, new]))
    for spec in specs:
        shape, chunk = (len(ids), *spec.extra), (level.chunk, *spec.extra)
        if spec.name not in group:
            group.create_array(
                spec.name,
                shape=shape,
                chunks=chunk,
                dtype=spec.dtype,
                fill_value=spec.fill,
                compressors=BloscCodec(cname="zstd", clevel=5, shuffle="shuffle"),
                dimension_names=(schema.DIMENSION, *(f"{spec.name}_{n}" for n in spec.extra)),
                attributes=spec.attributes,
            )
        elif group[spec.name].shape != shape:
            group[spec.name].resize(shape)
    if len(ids) > before and all(name in group for name in COORDINATES):
        group["cell_ids"][before:] = ids[before:]
        group["morton"][before:] = words_of(ids[before:], level.order)


def add_level(
    root: zarr.Group,
    level: Level,
    held: Words,
    new: Words,
    attributes: Mapping[str, Any],
    contents: Contents | None,
) -> bool:
    """Make or grow the group of a coarser order; tell whether it has all statistics there can be.

    Its arrays and attributes are like those of the child order, of whose group the attributes are
    given. Without ``contents``, the group stays as it is but for its length.
    """
    group = root.require_group(str(level.order))
    leaf = root[str(level.grid.child_order)]
    specs = [spec_of(leaf[name]) for name in COORDINATES]
    specs[0] = replace(specs[0], attributes=specs[0].attributes | {"level": level.order})
    if contents is None:
        specs += [spec_of(array) for name, array in group.arrays() if name not in COORDINATES]
    else:
        specs += [
            _with_accuracy(spec_of(leaf[name]), accuracy)
            for name, accuracy in contents.accuracy.items()
        ]
    if schema.PROVENANCE not in group.attrs:
        held, new = held[:0], np.concatenate([held, new])  # it was never finished
    grow(group, specs, level, held, new)
    if contents is not None:
        made = (contents.made_from, contents.absent)
        group.attrs.update(schema.level_attributes(attributes, level.order, *made))
    return bool(group.attrs["made_from"] == OBSERVATIONS)


def spec_of(array: zarr.Array[Any]) -> ArraySpec:
    """Return the description of an array along the cells."""
    dtype = np.dtype(array.dtype)
    fill = dtype.type(array.fill_value)
    return ArraySpec(array.name.rpartition("/")[2], dtype, fill, dict(array.attrs), array.shape[1:])


def _with_accuracy(spec: ArraySpec, accuracy: str) -> ArraySpec:
    if not accuracy:
        return spec
    return replace(spec, attributes=spec.attributes | {"accuracy": accuracy})

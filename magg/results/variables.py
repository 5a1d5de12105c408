"""The variables of a store: which there are, where they have a value, what they are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from magg.errors import StoreError

if TYPE_CHECKING:
    import zarr

COORDINATES = frozenset({"cell_ids", "morton"})


def variables_of(arrays: Mapping[str, Any]) -> list[str]:
    """Return the names of the variables among the arrays of a group, sorted."""
    return sorted(arrays.keys() - COORDINATES)


def check_variables(arrays: Mapping[str, Any], names: Sequence[str]) -> None:
    """Make sure that a group has some variables.

    Raises
    ------
    StoreError
        If it lacks one; names it beside those there are.
    """
    held = variables_of(arrays)
    if missing := [name for name in names if name not in held]:
        raise StoreError(f"the store has no variable {', '.join(missing)}; it has {held}")


def has_value(values: NDArray[Any], array: zarr.Array[Any]) -> NDArray[np.bool_]:
    """Return where values of an array are neither NaN nor its fill value."""
    return np.asarray(np.isfinite(values) & (values != array.fill_value))


def label_of(array: zarr.Array[Any], name: str) -> str:
    """Return what a variable is, with its unit, such as ``"Mean land-ice height (m)"``."""
    attributes = array.attrs
    label, units = str(attributes.get("long_name", name)), str(attributes.get("units", "1"))
    return label[:1].upper() + label[1:] + (f" ({units})" if units != "1" else "")

"""A store as an xarray Dataset that xdggs understands, read when its values are asked for."""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from magg.errors import require_extra
from magg.results.axis import axis_of, choose_order, open_root, positions_of, selector
from magg.results.within import runs_within
from magg.store.open import DEFAULT_REGION
from magg.store.schema import DIMENSION

if TYPE_CHECKING:
    import xarray as xr
    import zarr

CELLS_PER_TASK = 1 << 18  # of Dask: 2 MB of float64, so that a task is worth its scheduling


def open_results(
    store: str | os.PathLike[str] | zarr.Group,
    order: int | None = None,
    region: str | None = DEFAULT_REGION,
    *,
    within: Any = None,
    chunks: int | Literal["auto"] | None = "auto",
) -> xr.Dataset:
    """Open the cells of a store as a Dataset that xdggs has decoded.

    Nothing but the list of the parent cells is read before values are asked for, and then only
    the chunks that hold cells asked for. Cells without observations have a count of 0 and NaN,
    or the declared fill value masked as NaN, elsewhere.

    Parameters
    ----------
    store : str, path or zarr.Group
        Where the store is (a local path or ``s3://bucket/prefix``), or its root group.
    order : int, optional
        Which of its orders (see `orders`); the finest where left out.
    region : str, default "us-west-2"
        AWS region of the store's bucket, as everywhere in magg.
    within : optional
        The part of the Earth that is wanted; all of it where left out. One of

        - west, south, east, north in degrees (west greater than east crosses the antimeridian);
        - a polygon: a GeoJSON mapping, a path of such a file, a shapely geometry or anything else
          with ``__geo_interface__``, ``"antarctica"`` or ``"greenland"``;
        - the decimal Morton id of a cell of any order, such as ``"-6134114"``, or a list of them.

        A box or polygon has the cells that it touches; its edges are straight in longitude and
        latitude. A cell has those within it, or the one that holds it where that is coarser.
    chunks : int or "auto", optional
        Cells in a task of Dask. "auto" uses Dask where it is installed, None never does.

    Returns
    -------
    xarray.Dataset
        Dimension ``cells``; coordinates ``cell_ids`` (HEALPix NESTED, with the index of xdggs)
        and ``morton``; the variables of the store with their CF attributes.

    Raises
    ------
    MissingExtraError
        If xarray or xdggs is not installed.
    StoreNotFoundError, StoreError
        If there is no store, or it lacks the order.
    ValueError
        If ``within`` is no box, area or cell.

    Examples
    --------
    >>> heights = magg.open_results("out.zarr", within=(-105, -76, -95, -74))  # doctest: +SKIP
    >>> heights.h_mean.mean().compute()  # doctest: +SKIP
    """
    try:
        import xarray as xr
        import xdggs
    except ImportError as error:
        raise require_extra("xarray with xdggs", "results") from error

    root = open_root(store, region)
    order = choose_order(root, order)
    axis = axis_of(root, order)
    runs = runs_within(axis, within)
    path = f"{root.path}/{order}".strip("/")
    stored = xr.open_zarr(root.store, group=path, chunks=None, consolidated=False)
    # Chosen before Dask and xdggs come in: both would look at the whole axis.
    positions = positions_of(runs)
    chosen = stored.isel({DIMENSION: selector(runs)}).drop_vars(["cell_ids", "morton"])
    coordinates = {
        "cell_ids": (DIMENSION, axis.ids(positions), stored["cell_ids"].attrs),
        "morton": (DIMENSION, axis.words(positions), stored["morton"].attrs),
    }
    decoded: xr.Dataset = xdggs.decode(chosen.assign_coords(coordinates))
    # Listed in no order of its own by a store.
    decoded = decoded[sorted(map(str, decoded.data_vars))]
    if chunks is None or not _has_dask():
        return decoded
    stored_chunk = root[f"{path.rpartition('/')[2]}/morton"].chunks[0]
    most = CELLS_PER_TASK if chunks == "auto" else chunks
    return decoded.chunk({DIMENSION: _task_sizes(positions // stored_chunk, most)})


def _task_sizes(chunk_of: NDArray[np.int64], most: int) -> tuple[int, ...]:
    """Return how many cells each task of Dask gets, so that no two read the same chunk."""
    if not chunk_of.size:
        return (0,)
    ends = np.append(np.flatnonzero(np.diff(chunk_of)) + 1, chunk_of.size)
    sizes, start = [], 0
    for end, after in zip(ends, [*ends[1:], None], strict=True):
        if after is None or after - start > most:
            sizes.append(int(end - start))
            start = end
    return tuple(sizes)


def _has_dask() -> bool:
    return importlib.util.find_spec("dask") is not None

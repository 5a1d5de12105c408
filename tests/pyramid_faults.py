"""A dozen quick cells with orders of every kind, and what their store may claim at any moment."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import zarr
from cell_faults import PARENT_ORDER, Small, cells_of
from obstore.store import LocalStore
from reference import observations

from magg import Catalog, load_config, run
from magg.grid import from_decimal, nested_ids, to_decimal
from magg.plan import make_plan
from magg.store.inspect import parent_cells
from magg.store.marks import list_marks
from magg.store.shared import read_manifest
from magg.testing import Track, simulate_granule

CHILD_ORDER = 17
# One whose chunks are a parent cell's own, one that shares them, the parents', and two below.
COARSER = (16, 14, 10, 9, 6)
VARIABLES = ("count", "h_max", "h_mean")


def pyramid_config():
    config = load_config("atl06")
    orders = (CHILD_ORDER, *COARSER)
    grid = replace(
        config.output.grid, parent_order=PARENT_ORDER, child_order=CHILD_ORDER, orders=orders
    )
    variables = {name: config.statistics[name] for name in VARIABLES}
    return replace(
        config,
        aggregation=replace(config.aggregation, variables=variables),
        output=replace(config.output, grid=grid),
    )


@dataclass(frozen=True)
class Pyramid:
    """Quick cells, in two states: of all their granules, and of the first alone."""

    small: Small
    catalogs: dict[str, Catalog]
    rows: dict

    def assert_claims_nothing_false(self, store, before=()):
        """Check every value of every coarser order against the leaves that are finished.

        Values may also be those of the cells of ``before`` alone: chunks that were there before
        the run, where it was killed after it had named more cells than it had written.
        """
        if not (store / "zarr.json").exists():
            return
        root = zarr.open_group(str(store), mode="r")
        try:
            parents = [to_decimal(word) for word in parent_cells(root)]
        except KeyError:
            parents = []
        states = self.finished(store)
        manifest = read_manifest(LocalStore(store))
        named = set(manifest.cells) if manifest else set()
        # All that are finished, or those that were when the chunks were written, or those that the
        # run that was killed will not do again.
        older, newer = (catalog.cells for catalog in self.catalogs.values())
        unchanged = {cell for cell in states if older[cell] == newer[cell]}
        subsets = [set(states), named & set(states), unchanged, set(before) & set(states)]
        for order in COARSER:
            try:
                group = root[str(order)]
                arrays = {name: group[name] for name in VARIABLES}
            except KeyError:
                continue  # the template is not finished
            if order == COARSER[0]:
                self._check_own(root, group, parents)
                continue
            for name, array in arrays.items():
                values, ids = array[:], group["cell_ids"][: len(array[:])]
                filled = np.flatnonzero(values > 0 if name == "count" else np.isfinite(values))
                for place in filled:
                    inside = self._parents_of(int(ids[place]), order)
                    claims = [
                        self._value(name, order, int(ids[place]), inside & chosen, states)
                        for chosen in subsets
                    ]
                    assert inside & named <= set(states), "a cell that is not finished is claimed"
                    assert any(np.isclose(values[place], c, rtol=3e-7) for c in claims), (
                        order,
                        name,
                        values[place],
                        claims,
                    )

    def assert_claims_no_more(self, store):
        """Check, after any number of disturbed runs, that no cell counts more than its leaves."""
        try:
            root = zarr.open_group(str(store), mode="r")
            arrays = {order: root[str(order)]["count"] for order in COARSER[1:]}
        except (FileNotFoundError, KeyError):
            return
        states, manifest = self.finished(store), read_manifest(LocalStore(store))
        assert manifest is None or set(manifest.cells) <= set(states)
        for order, array in arrays.items():
            counts, ids = array[:], root[str(order)]["cell_ids"][:]
            for place in np.flatnonzero(counts):
                cell = int(ids[place])
                inside = self._parents_of(cell, order) & set(states)
                assert counts[place] <= self._value("count", order, cell, inside, states)

    def finished(self, store):
        """Return the cells that are done, each with the name of the catalog it was made from."""
        done = list_marks(str(store)).done
        found = {}
        for name, catalog in self.catalogs.items():
            plan = make_plan(self.small.config, catalog, "nowhere.zarr")
            for cell in catalog.cells:
                marks = done.get(cell, ())
                if len(marks) == 1 and marks[0].digest == plan.digest(cell):
                    found[cell] = name
        return found

    def _check_own(self, root, group, parents):
        leaf, per = root[str(CHILD_ORDER)], 4 ** (COARSER[0] - PARENT_ORDER)
        fines = 4 ** (CHILD_ORDER - PARENT_ORDER)
        for chunk in range(len(parents)):
            coarse = group["count"][chunk * per : (chunk + 1) * per]
            fine = leaf["count"][chunk * fines : (chunk + 1) * fines]
            if coarse.any():
                np.testing.assert_array_equal(
                    coarse, fine.reshape(-1, 4 ** (CHILD_ORDER - COARSER[0])).sum(axis=1)
                )

    def _parents_of(self, cell, order):
        if order >= PARENT_ORDER:
            cell >>= 2 * (order - PARENT_ORDER)
            return {name for name in self.small.catalog.cells if _id(name) == cell}
        shift = 2 * (PARENT_ORDER - order)
        return {name for name in self.small.catalog.cells if _id(name) >> shift == cell}

    def _value(self, name, order, cell, parents, states):
        parts = [self.rows[states[parent]][parent] for parent in parents]
        if not parts:
            return 0 if name == "count" else np.nan
        child, h, s = (np.concatenate(column) for column in zip(*parts, strict=True))
        here = child >> np.uint64(2 * (CHILD_ORDER - order)) == cell
        h, s = h[here], s[here]
        if name == "count":
            return h.size
        if not h.size:
            return np.nan
        return h.max() if name == "h_max" else np.sum(h / s**2) / np.sum(1 / s**2)


def make_pyramid(folder):
    granules = [
        simulate_granule(folder / f"g{n}.h5", Track(-75.5, -101 + 0.3 * n, segments=300), seed=n)
        for n in range(3)
    ]
    config, catalog = pyramid_config(), Catalog.from_files(granules, parent_order=PARENT_ORDER)
    older = Catalog(PARENT_ORDER, {cell: names[:1] for cell, names in catalog.cells.items()})
    run(config, catalog=catalog, store=folder / "reference.zarr", progress=False)
    small = Small(config, catalog, granules, cells_of(folder / "reference.zarr"))
    rows = {"all": {}, "older": {}}
    for name, each in {"all": catalog, "older": older}.items():
        for cell, names in each.cells.items():
            parent, child, h, s = observations(names, PARENT_ORDER, CHILD_ORDER)
            here = parent == _id(cell)
            rows[name][cell] = child[here], h[here], s[here]
    return Pyramid(small, {"older": older, "all": catalog}, rows)


def values_of(store):
    """Return the bytes of every array of every coarser order."""
    root = zarr.open_group(str(store), mode="r")
    return {
        (order, name): array[:].tobytes()
        for order in COARSER
        for name, array in root[str(order)].arrays()
    }


def _id(cell):
    return int(nested_ids(np.array([from_decimal(cell)], dtype=np.uint64), PARENT_ORDER)[0])

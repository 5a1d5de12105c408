"""What tests of runs in the cloud share: granules in a bucket, and a local run to compare with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

from magg import Catalog, run
from magg.store import open_store


@pytest.fixture(scope="session")
def uploaded(s3_server, region):
    bucket = s3_server.bucket("granules-for-runs")
    for granule in region:
        bucket.put(granule.name, granule)
    return bucket


@pytest.fixture(scope="session")
def remote_catalog(uploaded, catalog):
    cells = {
        cell: tuple(uploaded.url(Path(name).name) for name in granules)
        for cell, granules in catalog.cells.items()
    }
    return Catalog(catalog.parent_order, cells, catalog.metadata)


@pytest.fixture(scope="session")
def expected(config, catalog, tmp_path_factory):
    store = tmp_path_factory.mktemp("local") / "s.zarr"
    return arrays(store, run(config, catalog=catalog, store=store, progress=False))


def arrays(store, summary):
    assert summary["cells_error"] == 0, summary["errors"]
    group = zarr.open_group(open_store(store, read_only=True), mode="r")["12"]
    return {name: array[:] for name, array in group.arrays()}, summary


def assert_same(found, expected):
    for key in ("cells_with_data", "cells_empty", "total_obs", "rows_read"):
        assert found[1][key] == expected[1][key]
    assert found[0].keys() == expected[0].keys()
    for name, values in found[0].items():
        np.testing.assert_array_equal(values, expected[0][name], err_msg=name)

"""Against NASA's own servers, with the login of whoever runs it: ``pytest -m live``.

Needs an Earthdata account (`magg check` says whether it is found) and a network. Reads a few
megabytes of one granule.
"""

from __future__ import annotations

import pytest

from magg import Catalog, run
from magg.access import aws_region
from magg.credentials import Earthdata

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def pine_island():
    return Catalog.from_cmr(
        "ATL06", start_date="2019-04-01", end_date="2019-04-20", bbox=(-101, -75.6, -99, -75)
    )


def test_cmr_knows_granules_with_both_links_and_a_footprint(pine_island):
    told = pine_island.summary()
    assert told["granules"] == told["s3_links"] == told["https_links"] > 0
    assert "unplaced" not in pine_island.metadata["footprints"]


def test_the_collection_tells_who_gives_credentials(pine_island):
    for bucket in pine_island.metadata["s3_credentials"].values():
        assert Earthdata().s3(bucket["endpoint"], bucket["region"]).expires > 0


@pytest.mark.parametrize("access", ["external", "direct"])
def test_a_cell_is_read(pine_island, config, tmp_path, access):
    from dataclasses import replace

    if access == "direct" and aws_region() != "us-west-2":
        pytest.skip("direct S3 works in us-west-2 alone")
    wanted = replace(config, data_source=replace(config.data_source, access=access))
    summary = run(wanted, catalog=pine_island, store=tmp_path / "out.zarr", max_cells=1)
    assert not summary["errors"]
    assert summary["total_obs"] > 0

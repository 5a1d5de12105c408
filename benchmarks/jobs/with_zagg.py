"""The job with zagg (PyPI, Python 3.12 or newer): ``with_zagg.py shardmap.json store``.

zagg's ``agg()`` reads S3 and HTTPS only, so this calls what its local backend calls for each cell
of a flat store: `process_shard`, which takes a driver of h5coro (here the one for files), and
`write_dataframe_to_zarr`, on as many threads as its backend uses. The built-in atl06 config
and its default reader (``inline``) are unchanged. What ``agg()`` does beside that, per
cell and at the end (manifests, statistics of the run, sweeps, an Icechunk repository), is left
out, which is in zagg's favour. Prints its counts as JSON.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from h5coro.filedriver import FileDriver
from zagg import default_config, open_store, process_shard, write_dataframe_to_zarr
from zagg.config import get_handoff
from zagg.grids import from_config

WORKERS = 4  # the default of zagg's local backend, and of magg's


def main():
    """Process all cells of the shard map."""
    shardmap, store_path = sys.argv[1:]
    found = json.loads(Path(shardmap).read_text())
    config = default_config("atl06")
    grid = from_config(config)
    store = grid.emit_template(open_store(store_path), overwrite=True)

    def write_chunk(block, carrier, _ragged):
        write_dataframe_to_zarr(carrier, store, grid=grid, chunk_idx=block)

    def process(shard, granules):
        _, metadata = process_shard(
            grid,
            shard,
            [granule["s3"] for granule in granules],
            s3_credentials={},
            h5coro_driver=FileDriver,
            config=config,
            handoff=get_handoff(config),
            write_chunk=write_chunk,
        )
        if metadata["error"] or metadata.get("read_errors") or metadata.get("granule_errors"):
            raise RuntimeError(str(metadata))
        return metadata["total_obs"]

    with ThreadPoolExecutor(WORKERS) as pool:
        counts = list(pool.map(process, found["shard_keys"], found["granules"]))
    labels = found["metadata"]["cells"]
    print(json.dumps({"observations": dict(zip(labels, counts, strict=True))}))


if __name__ == "__main__":
    main()

from __future__ import annotations

import numpy as np

from magg import Catalog, load_config, run
from magg.granules import layout, ranges, words
from magg.granules.cache import OnceCache
from magg.testing import simulate_region


def decoded_chunks(monkeypatch):
    """Count how often each chunk of each dataset is decoded."""
    counts = {}
    decode = ranges.decode

    def counting(dataset, chunk, raw):
        counts[dataset.path, chunk] = counts.get((dataset.path, chunk), 0) + 1
        return decode(dataset, chunk, raw)

    monkeypatch.setattr(ranges, "decode", counting)
    return counts


def fresh_caches(monkeypatch, words_bytes=words.CACHE_BYTES):
    monkeypatch.setattr(layout, "_layouts", OnceCache(layout.CACHE_BYTES))
    monkeypatch.setattr(words, "_kept", OnceCache(words_bytes))


def aggregated(granule, store):
    import zarr

    config = load_config("atl06")
    run(config, catalog=Catalog.from_files(granule), store=store, max_workers=1)
    return {name: array[:] for name, array in zarr.open_group(str(store))["12"].arrays()}


def test_coordinates_are_decoded_once_a_run_however_many_cells_there_are(tmp_path, monkeypatch):
    granule = simulate_region(
        tmp_path, latitude=-75, longitude=10, granules=1, segments=25_000, missing_beams_in=()
    )
    fresh_caches(monkeypatch)
    counts = decoded_chunks(monkeypatch)
    aggregated(granule, tmp_path / "s.zarr")
    coordinates = {key: n for key, n in counts.items() if "itude" in key[0]}
    assert len(coordinates) == 6 * 2 * 3
    assert set(coordinates.values()) == {1}
    assert max(counts.values()) > 1


def test_words_that_left_the_cache_change_nothing(tmp_path, monkeypatch):
    granule = simulate_region(tmp_path, latitude=-75, longitude=10, granules=1, segments=9_000)
    kept = aggregated(granule, tmp_path / "kept.zarr")
    fresh_caches(monkeypatch, words_bytes=0)
    left = aggregated(granule, tmp_path / "left.zarr")
    for name, values in kept.items():
        np.testing.assert_array_equal(left[name], values, err_msg=name)

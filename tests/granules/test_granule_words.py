"""What a process keeps of granules: coordinates are decoded once a run, whatever the memory."""

from __future__ import annotations

import numpy as np
import pytest
from granule_files import BEAMS, GRID, data_source, track, write_granule

from magg import Catalog, load_config, run
from magg.granules import chunks, granule_layout, ranges, read_rows, words
from magg.granules.cache import OnceCache
from magg.granules.spill import Spill
from magg.testing import simulate_region

USED = ("h_li", "s_li")


@pytest.fixture
def decoded(monkeypatch):
    """Count how often each chunk of each dataset of each granule is decoded."""
    counts = {}
    decode = ranges.decode

    def counting(dataset, chunk, raw):
        key = (dataset.path, dataset.rows, chunk)
        counts[key] = counts.get(key, 0) + 1
        return decode(dataset, chunk, raw)

    monkeypatch.setattr(ranges, "decode", counting)
    return counts


def no_memory(monkeypatch, spill=None):
    """Let everything leave memory at once, for a disk with room or without."""
    spill = Spill() if spill is None else spill
    monkeypatch.setattr(words, "_spill", spill)
    monkeypatch.setattr(words, "_kept", OnceCache(0, spill.put))
    monkeypatch.setattr(chunks, "_spill", spill)
    monkeypatch.setattr(chunks, "_kept", OnceCache(0))
    monkeypatch.setattr(chunks, "_coordinates", OnceCache(0, spill.put))


def coordinates(counts):
    return {key: times for key, times in counts.items() if "itude" in key[0]}


def granules_of(folder, number=1, segments=25_000):
    return simulate_region(
        folder, latitude=-75, longitude=10, granules=number, segments=segments, missing_beams_in=()
    )


def aggregated(granules, store, workers=1):
    import zarr

    config = load_config("atl06")
    run(config, catalog=Catalog.from_files(granules), store=store, max_workers=workers)
    return {name: array[:] for name, array in zarr.open_group(str(store))["12"].arrays()}


def assert_equal(found, expected):
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_every_chunk_is_decoded_once_a_run_however_many_cells_share_it(tmp_path, decoded):
    aggregated(granules_of(tmp_path), tmp_path / "s.zarr")
    assert len(coordinates(decoded)) == 6 * 2 * 3
    assert len(decoded) == 6 * 5 * 3
    assert set(decoded.values()) == {1}


def test_coordinates_are_decoded_once_a_run_where_memory_holds_none(tmp_path, decoded, monkeypatch):
    granules = granules_of(tmp_path, number=2)
    kept = aggregated(granules, tmp_path / "kept.zarr")
    decoded.clear()
    no_memory(monkeypatch)
    for granule in granules:
        granule.touch()
    assert_equal(aggregated(granules, tmp_path / "left.zarr", workers=4), kept)
    # Both granules have the same number of rows, so each chunk stands for two.
    assert len(coordinates(decoded)) == 6 * 2 * 3
    assert set(coordinates(decoded).values()) == {2}


def test_where_the_disk_has_no_room_either_coordinates_are_read_again(
    tmp_path, decoded, monkeypatch
):
    granules = granules_of(tmp_path)
    kept = aggregated(granules, tmp_path / "kept.zarr")
    decoded.clear()
    no_memory(monkeypatch, Spill(share=0.0))
    granules[0].touch()
    assert_equal(aggregated(granules, tmp_path / "left.zarr"), kept)
    assert max(coordinates(decoded).values()) > 1


@pytest.mark.parametrize("memory", [True, False])
def test_with_given_layouts_coordinates_are_decoded_once_too(
    tmp_path, decoded, monkeypatch, memory
):
    beams = {beam: track(9000, seed) for seed, beam in enumerate(BEAMS)}
    granule = write_granule(tmp_path / "a.h5", beams, chunks=(1000,), compression="gzip")
    layout = granule_layout(granule, data_source(), 6)
    cells = [int(cell) for cell in layout.cells()]
    expected = [read_rows([granule], cell, GRID, data_source(), USED)[0] for cell in cells]
    words.forget_words()
    chunks.forget_chunks()
    if not memory:
        no_memory(monkeypatch)
    decoded.clear()
    for cell, before in zip(cells, expected, strict=True):
        given = {granule: layout}
        rows, (read,) = read_rows([granule], cell, GRID, data_source(), USED, layouts=given)
        np.testing.assert_array_equal(rows.child, before.child)
        assert_equal(rows.columns, before.columns)
        assert not read.stale
    assert len(cells) > 2
    assert set(coordinates(decoded).values()) == {1}


def test_spilled_arrays_come_back_whole_or_in_part_and_vanish_when_forgotten():
    spill = Spill()
    arrays = {
        name: np.arange(name, name + 100, dtype=kind) for name, kind in [(1, "u8"), (7, "f4")]
    }
    for name, array in arrays.items():
        spill.put(name, array)
        spill.put(name, array[:3])  # known already
    for name, array in arrays.items():
        np.testing.assert_array_equal(spill.get(name), array)
        np.testing.assert_array_equal(spill.get(name, 5, 9), array[5:9])
        assert spill.get(name, 4, 4).size == 0
    assert spill.get(2) is None
    spill.clear()
    assert spill.get(1) is None


def test_a_disk_that_fails_keeps_nothing(monkeypatch):
    spill = Spill()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    spill.put("a", np.arange(9))
    assert spill.get("a") is None

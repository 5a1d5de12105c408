"""What goes wrong on the way from a server: tried again range by range, or told in full."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from granule_files import CHUNKED, GRID, data_source, plain_read, track, write_granule
from range_server import RangeServer

from magg.errors import GranuleChangedError, GranuleError
from magg.granules import GranuleLayout, granule_layout, layout, open_source, read_rows, remote

USED = ("h_li", "s_li")


class Known:
    """A granule behind a server, its layout, and the rows of one of its cells."""

    def __init__(self, server: RangeServer, folder: Path) -> None:
        self.granule = write_granule(folder / "a.h5", {"gt1l": track(9000)}, **CHUNKED)
        self.url = server.url(self.granule)
        self.layout: GranuleLayout = granule_layout(self.url, data_source(), 6)
        self.cell = int(self.layout.cells()[0])
        self.plain = plain_read([self.granule], self.cell, GRID, USED)
        layout._layouts.clear()
        server.asked.clear()
        server.attempts.clear()
        server.methods.clear()

    def read(self, url: str | None = None) -> Any:
        url = url or self.url
        rows, (read,) = read_rows(
            [url], self.cell, GRID, data_source(), USED, layouts={url: self.layout}
        )
        np.testing.assert_array_equal(rows.child, self.plain["child"])
        for name in USED:
            np.testing.assert_array_equal(rows.columns[name], self.plain[name])
        return read


@pytest.fixture
def known(server: RangeServer, tmp_path: Path) -> Known:
    return Known(server, tmp_path)


@pytest.mark.parametrize("etag", ['"one"', None])
@pytest.mark.parametrize("fault", ["drop", "cut", 500, 503])
def test_a_range_that_fails_is_asked_for_again(
    server: RangeServer, tmp_path: Path, fault: str | int, etag: str | None
) -> None:
    server.etag = etag
    known = Known(server, tmp_path)
    server.fault = lambda name, start, stop, attempt: fault if attempt == 1 else None
    assert not known.read().stale
    wanted = {asked for asked, times in server.attempts.items() if times > 1}
    assert wanted, "nothing was tried again"


def test_what_was_read_before_the_cut_is_not_asked_for_again(
    server: RangeServer, known: Known
) -> None:
    server.fault = lambda name, start, stop, attempt: "cut" if len(server.asked) == 1 else None
    known.read()
    (_, start, stop), *others = server.asked
    rest = [(first, last) for _, first, last in others if last == stop and first > start]
    assert rest
    assert rest[0][0] == start + (stop - start) // 2


def test_a_refusal_is_answered_by_opening_anew_once(server: RangeServer, known: Known) -> None:
    server.fault = lambda name, start, stop, attempt: 403 if attempt == 1 else None
    known.read()
    server.fault = lambda name, start, stop, attempt: 403
    server.attempts.clear()
    with pytest.raises(GranuleError, match="access denied; check the credentials"):
        known.read()
    assert max(server.attempts.values()) == 2


def test_an_error_names_granule_beam_dataset_and_range(server: RangeServer, known: Known) -> None:
    server.fault = lambda name, start, stop, attempt: 410
    message = r"a\.h5: beam gt1l, dataset .*/land_ice_segments/.*, bytes \d+ to \d+: cannot be read"
    with pytest.raises(GranuleError, match=message) as caught:
        known.read()
    assert caught.value.granule == known.url


def test_a_given_layout_costs_one_round_trip_of_ranges(server: RangeServer, known: Known) -> None:
    known.read()
    assert server.methods == {"GET": len(server.asked)}
    tables = [dataset for beam in known.layout.beams for dataset in beam.all_datasets()]
    for _, start, stop in server.asked:
        assert any(start in dataset.offsets for dataset in tables)
        assert any(stop in dataset.offsets + dataset.sizes for dataset in tables)


def test_a_stale_layout_is_noticed_and_the_answer_right(server: RangeServer, known: Known) -> None:
    beams = {"gt1l": track(7000, seed=0)}
    write_granule(Path(known.granule), beams, **CHUNKED)
    server.etag = '"two"'
    known.plain = plain_read([known.granule], known.cell, GRID, USED)
    assert known.read().stale


def test_a_stale_layout_without_rows_in_the_cell_is_noticed_too(
    server: RangeServer, known: Known, tmp_path: Path
) -> None:
    elsewhere = track(2000)
    elsewhere["latitude"] = -elsewhere["latitude"]
    write_granule(tmp_path / "a.h5", {"gt1l": elsewhere}, **CHUNKED)
    server.etag = '"empty"'
    known.layout = granule_layout(known.url, data_source(), 6)
    layout._layouts.clear()
    write_granule(tmp_path / "a.h5", {"gt1l": track(9000)}, **CHUNKED)
    server.etag = '"full"'
    assert known.read().stale


def test_a_layout_that_this_process_derived_is_derived_anew_when_the_granule_changed(
    server: RangeServer, known: Known
) -> None:
    first = granule_layout(known.url, data_source(), 6)
    server.asked.clear()
    assert granule_layout(known.url, data_source(), 6) is first
    assert [stop - start for _, start, stop in server.asked] == [1]
    write_granule(Path(known.granule), {"gt1l": track(1050)}, **CHUNKED)
    server.etag = '"two"'
    assert granule_layout(known.url, data_source(), 6).beams[0].rows == 1050


def test_an_expected_version_that_is_gone_is_an_error_of_its_own(
    server: RangeServer, known: Known
) -> None:
    with open_source(known.url, (known.layout.size, '"zero"')) as source:
        with pytest.raises(GranuleChangedError, match="changed while it was being read"):
            source.read(0, 10)
        with pytest.raises(GranuleChangedError):
            source.ask_unchanged()
    with pytest.raises(GranuleChangedError):
        open_source(known.granule, (1, "other"))


SIGNED = "?X-Amz-Algorithm=AWS4&X-Amz-Signature=0123456789abcdef%2Bq%3D"


def test_a_signed_url_keeps_its_signature_and_shows_it_to_nobody(
    server: RangeServer, known: Known
) -> None:
    url = known.url + SIGNED
    read = known.read(url)
    assert {path.partition("?")[2] for path in server.paths if "?" in path} == {SIGNED[1:]}
    assert "0123456789abcdef" not in repr(read)
    assert "0123456789abcdef" not in repr(granule_layout(url, data_source(), 6).granule)
    server.fault = lambda name, start, stop, attempt: 410
    with pytest.raises(GranuleError) as caught:
        known.read(url)
    link: BaseException | None = caught.value
    while link is not None:
        assert "0123456789abcdef" not in str(link)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    assert caught.value.granule == url


def test_a_server_that_stays_down_is_an_error_within_the_budget(
    server: RangeServer, known: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    source = open_source(known.url)
    assert isinstance(source, remote.ObjectSource)

    def unreachable(*_: Any) -> Any:
        asked.append(1)
        raise ConnectionError("connection reset")

    monkeypatch.setattr(source, "_got", unreachable)
    monkeypatch.setattr(remote, "PAUSE_S", 0.0)
    with pytest.raises(GranuleError, match="connection reset"):
        source._trying(lambda: source._checked(0, 9))
    assert len(asked) == remote.ATTEMPTS
    monkeypatch.setattr(remote, "BUDGET_S", -1.0)
    asked.clear()
    with pytest.raises(GranuleError, match="connection reset"):
        source._trying(lambda: source._checked(0, 9))
    assert len(asked) == 1

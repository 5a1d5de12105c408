from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from range_server import RangeServer, serving

from magg.granules import chunks, layout, words


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RangeServer]:
    with serving(tmp_path) as running:
        yield running


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    forget()
    yield
    forget()


def forget() -> None:
    layout._layouts.clear()
    words.forget_words()
    chunks.forget_chunks()


@pytest.fixture(scope="session")
def real_granules() -> list[str]:
    beside = Path(__file__).parents[2] / ".." / "shared" / "atl06"
    folder = Path(os.environ.get("MAGG_ATL06", beside)).resolve()
    found = sorted(map(str, folder.glob("*.h5")))
    if not found:
        pytest.skip(f"no real ATL06 granules in {folder}; set MAGG_ATL06 to their folder")
    return found

"""What users and authors of backends may test with.

Simulated granules over a known surface, and the contract of an executor as a test suite.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from magg.testing.atl06 import BEAMS, FILL
    from magg.testing.contract import ExecutorTests
    from magg.testing.granules import simulate_beam, simulate_granule, simulate_region
    from magg.testing.tracks import Track, granule_name, surface_height

# Imported when first asked for: workers that run the checks of executors need no numpy.
_HOMES = {
    "BEAMS": "magg.testing.atl06",
    "FILL": "magg.testing.atl06",
    "ExecutorTests": "magg.testing.contract",
    "Track": "magg.testing.tracks",
    "granule_name": "magg.testing.tracks",
    "simulate_beam": "magg.testing.granules",
    "simulate_granule": "magg.testing.granules",
    "simulate_region": "magg.testing.granules",
    "surface_height": "magg.testing.tracks",
}

__all__ = [
    "BEAMS",
    "FILL",
    "ExecutorTests",
    "Track",
    "granule_name",
    "simulate_beam",
    "simulate_granule",
    "simulate_region",
    "surface_height",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'magg.testing' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

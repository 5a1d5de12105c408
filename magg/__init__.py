"""magg: multi-resolution aggregation of sparse point observations on a HEALPix grid.

Examples
--------
>>> from magg import load_config, run
>>> config = load_config("atl06")
>>> summary = run(config, catalog="catalog.json", store="out.zarr")  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from magg.catalog import Catalog
    from magg.config import PipelineConfig, load_config
    from magg.exports import export
    from magg.indexing import build_index
    from magg.maps import plot, plot_summary
    from magg.results import open_results
    from magg.runner import run
    from magg.statistics import register_statistic
    from magg.store import build_pyramid, open_store

# Imported when first asked for, so that `import magg` stays cheap.
_HOMES = {
    "Catalog": "magg.catalog",
    "PipelineConfig": "magg.config",
    "build_index": "magg.indexing",
    "build_pyramid": "magg.store",
    "export": "magg.exports",
    "load_config": "magg.config",
    "open_results": "magg.results",
    "open_store": "magg.store",
    "plot": "magg.maps",
    "plot_summary": "magg.maps",
    "register_statistic": "magg.statistics",
    "run": "magg.runner",
}

__all__ = [
    "Catalog",
    "PipelineConfig",
    "__version__",
    "build_index",
    "build_pyramid",
    "export",
    "load_config",
    "open_results",
    "open_store",
    "plot",
    "plot_summary",
    "register_statistic",
    "run",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'magg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

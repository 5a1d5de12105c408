"""The Zarr store that a run writes."""

from magg.store.open import open_store
from magg.store.pyramid import build_pyramid

__all__ = ["build_pyramid", "open_store"]

"""The Zarr store that a run writes."""

from magg.store.open import open_store

__all__ = ["open_store"]

"""The granule index of a catalog: making it, keeping it true, and having it for a run."""

from magg.indexing.build import build_index
from magg.indexing.use import Mode, index_at_hand, index_for_run, index_mode

__all__ = ["Mode", "build_index", "index_at_hand", "index_for_run", "index_mode"]

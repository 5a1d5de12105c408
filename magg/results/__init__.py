"""Results that people look at: a store's cells as an xarray Dataset, whole or in part."""

from magg.results.axis import orders
from magg.results.opening import open_results

__all__ = ["open_results", "orders"]

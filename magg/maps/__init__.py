"""Maps of a store: its cells as they are, one panel a variable; and maps of a catalog."""

from magg.maps.figure import plot, plot_catalog

__all__ = ["plot", "plot_catalog"]

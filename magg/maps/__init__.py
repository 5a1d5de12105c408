"""Maps of a store or a catalog, one panel a variable, and the figure of a run."""

from magg.maps.figure import plot, plot_catalog
from magg.maps.run_figure import plot_summary

__all__ = ["plot", "plot_catalog", "plot_summary"]

"""Maps of a store: its cells as they are, one panel a variable."""

from magg.maps.figure import plot

__all__ = ["plot"]

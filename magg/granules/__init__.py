"""Reading granules: what is where in an HDF5 file, and the rows of one parent cell."""

from magg.granules.layout import GranuleLayout, granule_layout
from magg.granules.reader import GranuleRead, Rows, read_rows
from magg.granules.remote import forget_sources, use_access
from magg.granules.sources import open_source

__all__ = [
    "GranuleLayout",
    "GranuleRead",
    "Rows",
    "forget_sources",
    "granule_layout",
    "open_source",
    "read_rows",
    "use_access",
]

"""Which granules cross which parent cells."""

from magg.catalog.links import GranuleInfo
from magg.catalog.model import Catalog

__all__ = ["Catalog", "GranuleInfo"]

"""What users and authors of backends may test with: simulated granules over a known surface."""

from magg.testing.atl06 import BEAMS, FILL
from magg.testing.granules import simulate_beam, simulate_granule, simulate_region
from magg.testing.tracks import Track, granule_name, surface_height

__all__ = [
    "BEAMS",
    "FILL",
    "Track",
    "granule_name",
    "simulate_beam",
    "simulate_granule",
    "simulate_region",
    "surface_height",
]

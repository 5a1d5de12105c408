"""Times and money in words, as people read them."""

from __future__ import annotations

import math


def duration(seconds: float) -> str:
    """Return a time, such as ``"4.2 s"``, ``"1 min 01 s"`` or ``"1 h 05 min"``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def dollars(usd: float) -> str:
    """Return US dollars: to the cent, or amounts below ten cents to two digits."""
    if usd <= 0 or usd >= 0.1:
        return f"${usd:,.2f}"
    places = 1 - math.floor(math.log10(usd))
    return f"${usd:.{places}f}"

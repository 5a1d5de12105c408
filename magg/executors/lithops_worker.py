"""What a lithops worker runs: it answers one call."""

from __future__ import annotations

from typing import Any

from magg.executors.payload import Calls

# lithops itself sends functions as pickles, so JSON would make nothing safer.
CALLS = Calls(codec="pickle")


def answer(call: dict[str, Any]) -> dict[str, Any]:
    """Do what a call asks for; never raises, because lithops loses much of what is raised.

    Parameters
    ----------
    call : dict
        As `magg.executors.payload.Calls.request` writes it.
    """
    return CALLS.answer(call)

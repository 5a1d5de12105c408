"""magg's own checks: what the documentation of concurrent.futures promises, in their own words."""

from magg.testing.contract.checks.errors import Errors
from magg.testing.contract.checks.futures import Callbacks, Cancelling, References, States
from magg.testing.contract.checks.mapping import Mapping
from magg.testing.contract.checks.shutdown import Exit, Shutdown
from magg.testing.contract.checks.submitting import Submitting
from magg.testing.contract.checks.waiting import Waiting

CASES = {
    case.__name__: case
    for case in (
        Submitting,
        Mapping,
        Errors,
        States,
        Cancelling,
        Callbacks,
        References,
        Waiting,
        Shutdown,
        Exit,
    )
}

__all__ = ["CASES"]

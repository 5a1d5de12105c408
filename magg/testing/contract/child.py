"""One check, in this process.

``python -m magg.testing.contract.child CHECK REPORT SETTINGS``
"""

from __future__ import annotations

import faulthandler
import json
import sys
import unittest
from pathlib import Path
from typing import TYPE_CHECKING

from magg.testing.contract.settings import Settings

if TYPE_CHECKING:
    from magg.testing.contract.case import ContractCase


def load_cases(origin: str) -> dict[str, type[ContractCase]]:
    """Return the cases of ``"cpython"`` or ``"magg"`` by their name."""
    if origin == "cpython":
        from magg.testing.contract import cpython

        return cpython.load_cases()
    from magg.testing.contract import checks

    return dict(checks.CASES)


def run_here(check: str, settings: Settings) -> dict[str, str]:
    """Run a check in this process and return its status and reason."""
    origin, name, test = check.split(".")
    case = load_cases(origin)[name](test)
    case.settings = settings
    result = unittest.TestResult()
    case.run(result)
    bad = [*result.failures, *result.errors]
    if bad:
        return {"status": "failed", "reason": f"{case.shortDescription() or ''}\n{bad[0][1]}"}
    if result.skipped:
        return {"status": "skipped", "reason": result.skipped[0][1]}
    return {"status": "passed", "reason": ""}


def main(check: str, report: str, settings: str) -> None:
    """Run a check and leave its report in a file."""
    chosen = Settings(**json.loads(settings))
    # Says where it hangs, just before the process is stopped from outside.
    faulthandler.dump_traceback_later(0.9 * chosen.time_limit)
    told = json.dumps(run_here(check, chosen))
    part = Path(f"{report}.part")
    part.write_text(told)
    part.rename(report)


if __name__ == "__main__":
    main(*sys.argv[1:])

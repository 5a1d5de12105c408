"""A program that makes an index of a catalog and tells of every granule that is surveyed.

With a number it stops after so many granules, until it is killed.
"""

from __future__ import annotations

import sys
import threading
import time

import magg.catalog.surveying
from magg import build_index
from magg.events import GranuleSurveyed


def main():
    path, stop_after = sys.argv[1], int(sys.argv[2])
    survey, left, lock = magg.catalog.surveying.survey, [stop_after], threading.Lock()

    def slow(*arguments):
        with lock:
            left[0] -= 1
            has_to_wait = left[0] < 0
        if has_to_wait:
            time.sleep(600)
        return survey(*arguments)

    def listen(event):
        if isinstance(event, GranuleSurveyed):
            sys.stdout.write(f"{event.granule}\n")
            sys.stdout.flush()

    magg.catalog.surveying.survey = slow
    magg.catalog.index.FLUSH_S = 0.0
    build_index(path, max_workers=1, progress=listen)


if __name__ == "__main__":
    main()

"""What a deployed worker does, call after call: ``worker_cells.py events.json rounds``.

The handler answers every event once in a fresh process (``first``), then as often as there are
rounds (``later``). Prints CPU seconds of all threads and minor page faults of both, and the peak of
memory, as JSON.
"""

import io
import json
import re
import resource
import sys
from contextlib import redirect_stdout
from pathlib import Path


def main() -> None:
    """Answer the calls, and print what it took."""
    events = json.loads(Path(sys.argv[1]).read_text())
    rounds = int(sys.argv[2])
    import h5py  # noqa: F401
    import mortie  # noqa: F401
    import zarr  # noqa: F401

    from magg.aws.handler import lambda_handler

    def answer_all() -> None:
        for event in events:
            answer = lambda_handler(event, None)
            if answer["status"] != 200 or answer["result"]["error"]:
                raise SystemExit(json.dumps(answer)[:2000])

    def measured(times: int) -> dict[str, float]:
        before = resource.getrusage(resource.RUSAGE_SELF)
        for _ in range(times):
            answer_all()
        after = resource.getrusage(resource.RUSAGE_SELF)
        done = times * len(events)
        user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
        return {
            "cpu_s": (user + system) / done,
            "system_s": system / done,
            "faults": (after.ru_minflt - before.ru_minflt) / done,
        }

    with redirect_stdout(io.StringIO()):  # the handler's own log
        first, later = measured(1), measured(rounds)
    # Unlike ru_maxrss, which begins with what the parent had.
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    print(json.dumps({"first": first, "later": later, "peak_mb": int(peak[1]) / 1024}))


if __name__ == "__main__":
    main()

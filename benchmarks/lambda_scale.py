"""Thousands of calls of AWS Lambda at once, from one process: LambdaExecutor and a plain pool.

    python benchmarks/lambda_scale.py [--quick]

The API is a stand-in on this machine, in a process of its own, that answers each call after two
seconds; so this is about the caller: what it costs, and whether it keeps up. In the last scenarios
the API scales as AWS documents it, 1,000 environments at once and 100 more a second, and refuses
what comes faster. The ideal is the time that calls would take if the caller cost nothing.

Every measurement is a fresh process, and limits are for the worst of all runs. Wall and CPU time
(user and system, all threads) are from the first submission to the last result, memory is the
process's peak. The script fails where a limit is exceeded.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import http.client
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from measure import measure_process

JOBS = Path(__file__).parent / "jobs"
DELAY_S = 2.0
WORKERS = 1_700
BURST, PER_SECOND = 1_000, 100.0
REPEATS, PEER_REPEATS = 10, 3

TIMES_IDEAL = 2.5
CPU_MS_PER_CALL = 2.0
MB = 200.0
REQUESTS_PER_CALL = 1.05


@dataclass(frozen=True)
class Scenario:
    """So many calls, with and without the limits that AWS sets.

    Parameters
    ----------
    calls : int
    scales : bool
        Whether the API begins with a burst of environments and grows from there.
    """

    calls: int
    scales: bool

    @property
    def name(self) -> str:
        """What the table calls it."""
        api = f"{BURST:,} at once, then {PER_SECOND:g}/s" if self.scales else "all admitted"
        return f"{self.calls:,} calls, {api}"

    @property
    def ideal_s(self) -> float:
        """How long the calls take if each begins as soon as there is an environment for it."""
        burst = BURST if self.scales else WORKERS
        ends: list[float] = []
        started = 0
        for _ in range(self.calls):
            new = max(0.0, (started - burst + 1) / PER_SECOND)
            if started == WORKERS or (ends and ends[0] <= new):
                begins = heapq.heappop(ends)
            else:
                begins, started = new, started + 1
            heapq.heappush(ends, begins + DELAY_S)
        return max(ends)


@dataclass(frozen=True)
class Run:
    """What one run took, in the units of the limits."""

    times_ideal: float
    cpu_ms_per_call: float
    mb: float
    requests_per_call: float
    failed: int
    why: Counter[str]
    peak: int


SCENARIOS = [Scenario(calls, scales) for scales in (False, True) for calls in (1_700, 5_000)]
PEER_SCENARIOS = [scenario for scenario in SCENARIOS if scenario.calls == WORKERS]


def main() -> None:
    """Measure, print, and fail where a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one run of each instead of ten")
    quick = parser.parse_args().quick
    print(f"Python {sys.version.split()[0]}, calls of {DELAY_S:g} s, {WORKERS:,} workers\n")
    print(
        f"{'':53}{'runs':>5}{'x ideal':>14}{'CPU ms/call':>14}{'MB':>12}{'requests/call':>15}"
        f"{'failed':>8}{'most at once':>14}"
    )
    exceeded = []
    for contestant, scenarios, most in (
        ("magg", SCENARIOS, REPEATS),
        ("pool", PEER_SCENARIOS, PEER_REPEATS),
    ):
        for scenario in scenarios:
            runs = [measure(contestant, scenario) for _ in range(1 if quick else most)]
            print_row(contestant, scenario, runs)
            if contestant == "magg":
                exceeded += [f"{scenario.name}: {what}" for what in judge(scenario, runs)]
    print(
        f"\nMedian and, in brackets, worst. Limits for magg: under {TIMES_IDEAL:g} times the "
        f"ideal and {CPU_MS_PER_CALL:g} ms\nwhere all calls are admitted; under {MB:g} MB, at most "
        f"{REQUESTS_PER_CALL:g} requests a call, and none failed everywhere."
    )
    for what in exceeded:
        print(f"MISS  {what}")
    if exceeded:
        raise SystemExit(1)
    print("PASS  all limits, in every run")


def measure(contestant: str, scenario: Scenario) -> Run:
    """Run a scenario once, with an API and a process of its own."""
    # Where all are admitted magg is told so, and sends all at once; else it paces as it would.
    burst = 0 if scenario.scales else WORKERS
    with lambda_api(scenario) as port:
        arguments = map(str, (contestant, port, scenario.calls, WORKERS, burst))
        # -P: nothing beside the job can stand in for a module of Python or of a package.
        command = [sys.executable, "-P", str(JOBS / "lambda_calls.py"), *arguments]
        took = json.loads(measure_process(command)[1].splitlines()[-1])
        seen = ask(port)
    return Run(
        times_ideal=took["wall"] / scenario.ideal_s,
        cpu_ms_per_call=took["cpu"] / scenario.calls * 1e3,
        mb=took["mb"],
        requests_per_call=seen["requests"] / scenario.calls,
        failed=len(took["failed"]),
        why=Counter(took["failed"]),
        peak=seen["peak"],
    )


def ask(port: int) -> dict[str, int]:
    """Return what the API saw."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", "/")
        seen: dict[str, int] = json.load(connection.getresponse())
        return seen


@contextlib.contextmanager
def lambda_api(scenario: Scenario) -> Iterator[int]:
    """Run the API of a scenario; yields its port."""
    limits = [str(BURST), str(PER_SECOND)] if scenario.scales else []
    command = [sys.executable, "-P", str(JOBS / "lambda_api.py"), str(DELAY_S), *limits]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()  # its end


def print_row(contestant: str, scenario: Scenario, runs: list[Run]) -> None:
    """Print what the runs of a scenario took."""

    def cell(name: str, width: int, form: str) -> str:
        values = sorted(getattr(run, name) for run in runs)
        return f"{values[len(values) // 2]:{form}} ({values[-1]:{form}})".rjust(width)

    title = {"magg": "LambdaExecutor", "pool": "boto3, 1,700 threads"}[contestant]
    failed = max(run.failed for run in runs)
    why = sum((run.why for run in runs), Counter())
    print(
        f"{title:21}{scenario.name:32}{len(runs):5}{cell('times_ideal', 14, '.2f')}"
        f"{cell('cpu_ms_per_call', 14, '.2f')}{cell('mb', 12, '.0f')}"
        f"{cell('requests_per_call', 15, '.3f')}{failed:8}{min(run.peak for run in runs):14,}"
        + (f"  {', '.join(why)}" if why else ""),
        flush=True,
    )


def judge(scenario: Scenario, runs: list[Run]) -> list[str]:
    """Return the limits that the worst of the runs exceeds."""
    limits = {"mb": MB, "requests_per_call": REQUESTS_PER_CALL, "failed": 0}
    if not scenario.scales:
        limits |= {"times_ideal": TIMES_IDEAL, "cpu_ms_per_call": CPU_MS_PER_CALL}
    worst = {name: max(getattr(run, name) for run in runs) for name in limits}
    return [
        f"{name} {worst[name]:.2f}, limit {limit:g}"
        for name, limit in limits.items()
        if worst[name] > limit
    ]


if __name__ == "__main__":
    main()

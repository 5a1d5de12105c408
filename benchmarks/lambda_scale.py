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


TITLES = {
    "times_ideal": "wall, times the ideal",
    "cpu_ms_per_call": "CPU ms a call",
    "mb": "MB at most",
    "requests_per_call": "requests a call",
    "failed": "calls failed",
    "peak": "calls at once",
}


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


SCENARIOS = [Scenario(calls, scales) for scales in (False, True) for calls in (WORKERS, 5_000)]
MAGG, POOL = "LambdaExecutor", "plain pool of boto3"
JOB_NAMES = {MAGG: "magg", POOL: "pool"}
# Who does what, and how often.
PLAN = {(MAGG, scenario): REPEATS for scenario in SCENARIOS} | {
    (POOL, scenario): PEER_REPEATS for scenario in SCENARIOS if scenario.calls == WORKERS
}


def main() -> None:
    """Measure, print, and fail where a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one run of each instead of ten")
    rounds = 1 if parser.parse_args().quick else REPEATS
    runs: dict[tuple[str, Scenario], list[Run]] = {which: [] for which in PLAN}
    for number in range(rounds):
        print(f"Round {number + 1} of {rounds}...", flush=True)
        for which, repeats in PLAN.items():
            if number < repeats:
                runs[which].append(measure(*which))
    print_report(runs)
    exceeded = [
        f"{scenario.name}: {what}"
        for (contestant, scenario), found in runs.items()
        if contestant == MAGG
        for what in exceeds(scenario, found)
    ]
    for what in exceeded:
        print(f"MISS  {what}")
    if exceeded:
        raise SystemExit(1)
    print("PASS  every limit, in every run")


def measure(contestant: str, scenario: Scenario) -> Run:
    """Run a scenario once, with an API and a process of its own."""
    # Where all are admitted magg is told so, and sends all at once; else it paces as it would.
    burst = 0 if scenario.scales else WORKERS
    with lambda_api(scenario) as port:
        arguments = map(str, (JOB_NAMES[contestant], port, scenario.calls, WORKERS, burst))
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


def print_report(runs: dict[tuple[str, Scenario], list[Run]]) -> None:
    """Print a block for each contestant and scenario: what was measured beside its limit."""
    print(
        f"\nPython {sys.version.split()[0]}, calls of {DELAY_S:g} s, {WORKERS:,} workers; median "
        "and worst of the runs, limit for the worst"
    )
    for (contestant, scenario), found in runs.items():
        limits = limits_of(scenario) if contestant == MAGG else {}
        print(f"\n{contestant}: {scenario.name} (ideal {scenario.ideal_s:.1f} s)")
        print(f"  {'':24}{'median':>10}{'worst':>10}{'limit':>10}   runs: {len(found)}")
        for name, title in TITLES.items():
            values = sorted(getattr(run, name) for run in found)
            limit = f"{limits[name]:10g}" if name in limits else f"{'':10}"
            print(f"  {title:24}{values[len(values) // 2]:10.2f}{values[-1]:10.2f}{limit}")
        if why := sum((run.why for run in found), Counter()):
            print(f"  failures: {', '.join(f'{name} {count}' for name, count in why.items())}")
    print()


def limits_of(scenario: Scenario) -> dict[str, float]:
    """Return what magg must not exceed."""
    limits = {"mb": MB, "requests_per_call": REQUESTS_PER_CALL, "failed": 0}
    if scenario.scales:
        return limits
    return limits | {"times_ideal": TIMES_IDEAL, "cpu_ms_per_call": CPU_MS_PER_CALL}


def exceeds(scenario: Scenario, runs: list[Run]) -> list[str]:
    """Return the limits that the worst of the runs exceeds."""
    worst = {name: max(getattr(run, name) for run in runs) for name in TITLES}
    return [
        f"{TITLES[name]} {worst[name]:.2f}, limit {limit:g}"
        for name, limit in limits_of(scenario).items()
        if worst[name] > limit
    ]


if __name__ == "__main__":
    main()

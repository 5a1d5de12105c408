"""Pacing against a simulated Lambda in simulated time, and against many real threads."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magg.executors import pacing
from magg.executors.pacing import Pacer

# Against hangs alone.
PATIENCE_S = 120.0


class FakeTime:
    """Time that passes only while somebody waits, and ends calls meanwhile.

    It stands for the module's ``threading``: a `Pacer` made of its events runs in one thread.
    """

    Lock = staticmethod(threading.Lock)

    def __init__(self):
        self.now = 1_000.0
        self.ends = []
        self._order = itertools.count()
        self.pacer = None

    def __call__(self):
        return self.now

    def Event(self):  # noqa: N802 - as threading calls it
        is_set = []
        return SimpleNamespace(
            set=lambda: is_set.append(True),
            clear=is_set.clear,
            is_set=lambda: bool(is_set),
            wait=lambda timeout=None: bool(is_set) or self.pass_until_woken(timeout, is_set),
        )

    def pass_until_woken(self, timeout, is_set):
        # A clock has a resolution; without one the rest of a sum would be waited for for ever.
        until = float("inf") if timeout is None else self.now + max(timeout, 1e-6)
        while not is_set and self.ends and self.ends[0][0] <= until:
            self.end_next()
        assert is_set or timeout is not None, "nobody is left who could wake this call"
        if not is_set:
            self.now = max(self.now, until)

    def call_ends_in(self, seconds, then):
        heapq.heappush(self.ends, (self.now + seconds, next(self._order), then))

    def end_next(self):
        self.now, _, then = heapq.heappop(self.ends)
        then()


class Service:
    """Lambda's scaling: so many environments at once, then so many a second; the rest refused."""

    def __init__(self, clock, burst=1_000, per_second=100.0, limit=None):
        self.clock, self.burst, self.per_second = clock, burst, per_second
        self.limit = limit
        self.running = self.environments = self.peak = self.refused = 0
        self.tokens, self.counted_at = float(burst), clock()

    def admits(self):
        now = self.clock()
        self.tokens = min(self.burst, self.tokens + (now - self.counted_at) * self.per_second)
        self.counted_at = now
        if self.running == self.environments:
            # The slack is for sums in floating point, which both sides do.
            if self.tokens < 1.0 - 1e-6 or self.environments == self.limit:
                self.refused += 1
                return False
            self.tokens -= 1.0
            self.environments += 1
        self.running += 1
        self.peak = max(self.peak, self.running)
        return True

    def end(self):
        self.running -= 1


@pytest.fixture
def fake(monkeypatch):
    clock = FakeTime()
    monkeypatch.setattr(pacing, "threading", clock)
    return clock


def run_calls(clock, pacer, service, calls, seconds):
    """Send calls one after another as the pacer lets them; return when all had ended."""
    began, requests = clock.now, 0
    for _ in range(calls):
        assert pacer.enter()
        requests += 1
        while not service.admits():
            pacer.refused()
            assert pacer.enter(first=True)
            requests += 1

        def end():
            service.end()
            pacer.leave()

        clock.call_ends_in(seconds, end)
    while clock.ends:
        clock.end_next()
    return clock.now - began, requests


def test_a_burst_passes_at_once_and_the_rest_at_the_rate(fake):
    pacer = Pacer(burst=10, per_second=4.0, clock=fake)
    times = []
    for _ in range(18):
        assert pacer.enter()
        times.append(fake.now - 1_000.0)
    assert times[:10] == [0.0] * 10
    assert times[10:] == pytest.approx([0.25 * n for n in range(1, 9)])


def test_what_was_not_started_at_once_adds_up_to_a_burst_again_and_no_more(fake):
    pacer = Pacer(burst=3, per_second=1.0, clock=fake)
    assert all(pacer.enter() for _ in range(3))
    fake.now += 100.0
    times = []
    for _ in range(4):
        assert pacer.enter()
        times.append(fake.now - 1_100.0)
    assert times == pytest.approx([0.0, 0.0, 0.0, 1.0])


def test_an_environment_that_is_free_is_used_again_at_no_cost(fake):
    pacer = Pacer(burst=2, per_second=0.001, clock=fake)
    for _ in range(500):
        assert pacer.enter()
        assert pacer.enter()
        pacer.leave()
        pacer.leave()
    assert fake.now == 1_000.0


@pytest.mark.parametrize("calls", [1_700, 5_000])
def test_a_service_that_scales_as_lambda_does_refuses_nothing(fake, calls):
    service, pacer = Service(fake), Pacer(clock=fake)
    took, requests = run_calls(fake, pacer, service, calls, 2.0)
    assert service.refused == 0
    assert requests == calls
    # With all warm from the start it would take two seconds for each thousand.
    assert took <= 2.0 * -(-calls // 1_000) + 0.1


def test_a_refusal_pauses_all_and_they_go_on_after_it(fake):
    pacer = Pacer(burst=5, per_second=10.0, clock=fake)
    assert all(pacer.enter() for _ in range(4))
    pacer.refused()
    assert pacer.enter(first=True)
    assert 0.1 < fake.now - 1_000.0 <= 1.0 + 0.1 + 1e-9  # the pause, and what one takes to start
    began = fake.now
    assert all(pacer.enter() for _ in range(5))  # at the rate: what was in hand is lost
    assert fake.now - began == pytest.approx(0.5)


def test_refusals_of_calls_that_were_sent_together_count_once(fake, monkeypatch):
    monkeypatch.setattr(pacing.random, "uniform", lambda low, high: high)
    pacer = Pacer(burst=100, per_second=1e6, clock=fake)
    pauses = []
    for _ in range(7):
        for _ in range(10):
            assert pacer.enter()
        for _ in range(10):
            pacer.refused()
        began = fake.now
        assert pacer.enter()
        pauses.append(fake.now - began)
        pacer.leave()
    assert pauses == pytest.approx([1.0, 2.0, 4.0, 8.0, 16.0, 20.0, 20.0], abs=1e-3)


def test_old_refusals_are_forgotten(fake, monkeypatch):
    monkeypatch.setattr(pacing.random, "uniform", lambda low, high: high)
    pacer = Pacer(burst=100, per_second=1e6, clock=fake)
    for waited, pause in ((0.0, 1.0), (1.0, 2.0), (61.0, 1.0), (1.0, 2.0)):
        fake.now += waited
        assert pacer.enter()
        pacer.refused()
        began = fake.now
        assert pacer.enter()
        assert fake.now - began == pytest.approx(pause, abs=1e-3)
        pacer.leave()


def test_calls_in_warm_environments_go_on_during_a_pause(fake):
    pacer = Pacer(burst=3, per_second=10.0, clock=fake)
    assert all(pacer.enter() for _ in range(3))
    pacer.leave()
    pacer.refused()
    assert pacer.enter()
    assert fake.now == 1_000.0


def test_a_service_smaller_than_was_thought_costs_few_requests(fake):
    service = Service(fake, burst=100, per_second=10.0)
    pacer = Pacer(burst=1_000, per_second=100.0, clock=fake)
    _, requests = run_calls(fake, pacer, service, 2_000, 1.0)
    assert requests - 2_000 == service.refused > 0
    assert requests <= 1.05 * 2_000


def test_no_more_run_at_once_than_the_limit(fake):
    service, pacer = Service(fake, limit=7), Pacer(clock=fake)
    pacer.limit = 7
    took, requests = run_calls(fake, pacer, service, 70, 3.0)
    assert (service.peak, requests, took) == (7, 70, pytest.approx(30.0))


@pytest.mark.parametrize(("burst", "per_second"), [(0, 1.0), (1, 0.0), (1, -1.0)])
def test_a_pace_at_which_nothing_could_start_is_refused(burst, per_second):
    with pytest.raises(ValueError, match="at least 1"):
        Pacer(burst, per_second)


@settings(max_examples=100, deadline=None)
@given(
    burst=st.integers(1, 8),
    per_second=st.floats(0.5, 50.0),
    limit=st.none() | st.integers(1, 6),
    calls=st.lists(st.tuples(st.floats(0.0, 4.0), st.booleans(), st.floats(0.0, 2.0)), max_size=60),
)
def test_never_more_environments_are_started_than_burst_and_rate_allow(
    burst, per_second, limit, calls
):
    """Each call lasts a while, or is refused; between two calls some time may pass."""
    with pytest.MonkeyPatch.context() as patch:
        fake = FakeTime()
        patch.setattr(pacing, "threading", fake)
        pacer = Pacer(burst, per_second, clock=fake)
        pacer.limit = limit
        began, running, warm, started = fake.now, 0, 0, 0

        def end():
            nonlocal running
            running -= 1
            pacer.leave()

        for lasts, is_refused, gap in calls:
            assert pacer.enter()
            running += 1
            if running > warm:
                warm, started = running, started + 1
            assert started <= burst + per_second * (fake.now - began) + 1e-6
            assert limit is None or running <= limit
            if is_refused:
                running -= 1
                warm = max(running, warm - 1)
                pacer.refused()
            else:
                fake.call_ends_in(lasts, end)
            fake.now += gap
            while fake.ends and fake.ends[0][0] <= fake.now:
                _, _, then = heapq.heappop(fake.ends)
                then()


def start(function, *args, **kwargs):
    thread = threading.Thread(target=function, args=args, kwargs=kwargs, daemon=True)
    thread.start()
    return thread


def join(threads):
    deadline = time.monotonic() + PATIENCE_S
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def waiting(pacer):
    return len(pacer._line)


def until(condition):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_who_was_refused_waits_at_the_head_of_the_line():
    pacer, entered = Pacer(burst=1, per_second=1e-6), []
    assert pacer.enter()
    threads = []
    for number, name in enumerate(("second", "third", "refused"), 1):
        threads.append(
            start(lambda n: (pacer.enter(first=n == "refused"), entered.append(n)), name)
        )
        until(lambda number=number: waiting(pacer) == number)
    for number in range(1, 4):
        pacer.leave()
        until(lambda number=number: len(entered) == number)
    assert entered == ["refused", "second", "third"]


def test_all_in_line_start_as_environments_do_though_no_call_ends():
    pacer = Pacer(burst=1, per_second=500.0)
    assert pacer.enter()
    threads = [start(pacer.enter) for _ in range(20)]
    join(threads)
    assert not any(thread.is_alive() for thread in threads)


def test_stopping_tells_all_who_wait_and_all_who_come():
    pacer, told = Pacer(burst=1, per_second=1e-6), []
    assert pacer.enter()
    threads = [start(lambda: told.append(pacer.enter())) for _ in range(50)]
    until(lambda: waiting(pacer) == 50)
    pacer.stop()
    join(threads)
    assert told == [False] * 50
    assert pacer.enter() is False


@pytest.mark.parametrize("limit", [None, 7])
def test_two_hundred_threads_all_get_through(limit):
    """A wake-up that is lost would leave its thread waiting, and all behind it."""
    pacer = Pacer(burst=20, per_second=2_000.0)
    pacer.limit = limit
    passed, most, running, lock = [], [0], [0], threading.Lock()

    def work(number):
        for turn in range(10):
            assert pacer.enter(first=turn % 3 == 0)
            with lock:
                running[0] += 1
                most[0] = max(most[0], running[0])
            time.sleep(0.0001)
            with lock:
                running[0] -= 1
            pacer.leave()
        passed.append(number)

    threads = [start(work, number) for number in range(200)]
    join(threads)
    assert sorted(passed) == list(range(200))
    assert waiting(pacer) == 0
    if limit:
        assert most[0] <= limit


def test_two_hundred_threads_get_through_refusals(monkeypatch):
    monkeypatch.setattr(pacing, "LONGEST_PAUSE_S", 0.002)
    pacer, passed = Pacer(burst=20, per_second=5_000.0), []

    def work(number):
        refused = False
        for turn in range(6):
            assert pacer.enter(first=refused)
            refused = (number + turn) % 5 == 0
            if refused:
                pacer.refused()
            else:
                time.sleep(0.0001)
                pacer.leave()
        passed.append(number)

    threads = [start(work, number) for number in range(200)]
    join(threads)
    assert sorted(passed) == list(range(200))

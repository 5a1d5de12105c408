"""What calls cost: reports as AWS writes them, prices, sums."""

from __future__ import annotations

import json
import threading

import pytest

from magg.executors.lambda_usage import Price, Report, Usage, ceiling

REQUEST = "8f507cfc-xmpl-4697-b07a-ac58fc914c95"
WARM = (
    f"REPORT RequestId: {REQUEST}\tDuration: 1102.34 ms\tBilled Duration: 1103 ms\t"
    "Memory Size: 2048 MB\tMax Memory Used: 310 MB\t"
)
COLD = WARM + "Init Duration: 512.77 ms\t"
TRACED = COLD + "\nXRAY TraceId: 1-5e34a614-10bdxmplf1fb44f07bc535a1\tSegmentId: 07f5xmpl2d1f6f85\t"
TIMED_OUT = (
    f"2026-01-01T00:00:00.000Z {REQUEST} Task timed out after 3.00 seconds\n\n"
    f"END RequestId: {REQUEST}\nREPORT RequestId: {REQUEST}\tDuration: 3000.00 ms\t"
    "Billed Duration: 3000 ms\tMemory Size: 128 MB\tMax Memory Used: 128 MB\tStatus: timeout"
)
RESTORED = WARM + "Restore Duration: 400.10 ms\tBilled Restore Duration: 401 ms\t"


def json_line(**metrics):
    record = {"requestId": REQUEST, "status": "success", "metrics": metrics}
    return json.dumps({"time": "2026-01-01T00:00:00Z", "type": "platform.report", "record": record})


JSON_WARM = json_line(
    durationMs=1102.34, billedDurationMs=1103, memorySizeMB=2048, maxMemoryUsedMB=310
)
JSON_COLD = json_line(
    durationMs=1102.34, billedDurationMs=1103, memorySizeMB=2048, maxMemoryUsedMB=310,
    initDurationMs=512.77,
)  # fmt: skip
EXPECTED = Report(billed_s=1.103, memory_mb=2048, peak_memory_mb=310, is_cold=False)
EXPECTED_COLD = Report(billed_s=1.103, memory_mb=2048, peak_memory_mb=310, is_cold=True)


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        (WARM, EXPECTED),
        (COLD, EXPECTED_COLD),
        (TRACED, EXPECTED_COLD),
        (RESTORED, EXPECTED),
        (JSON_WARM, EXPECTED),
        (JSON_COLD, EXPECTED_COLD),
        (TIMED_OUT, Report(3.0, 128, 128, is_cold=False)),
        (f"START RequestId: {REQUEST} Version: $LATEST\nhello\nEND RequestId: {REQUEST}\n{WARM}\n",
         EXPECTED),
        # What the function itself prints comes before.
        (f"REPORT of the day\nREPORT RequestId: x\tBilled Duration: 9 ms\n{COLD}", EXPECTED_COLD),
        (f'{{"type": "platform.report"}}\n{JSON_COLD}\n', EXPECTED_COLD),
        ("\x00\ufffd cut in the middle of a ch\n" + WARM, EXPECTED),
    ],
)  # fmt: skip
def test_a_report_is_read_as_aws_writes_it(log, expected):
    assert Report.parse(log) == expected


@pytest.mark.parametrize(
    "log",
    [
        "",
        "\n\n",
        "hello",
        "REPORT of the day: Billed Duration: 7 ms",
        WARM.removeprefix("REPORT "),  # the tail is the last 4 KB, and may begin anywhere
        WARM[20:],
        "say REPORT RequestId: x",
        '{"type": "platform.report"',
        '{"type": "platform.report"}',
        '{"type": "platform.report", "record": null}',
        '{"type": "platform.report", "record": {"metrics": 7}}',
        json_line(billedDurationMs=None),
        json_line(billedDurationMs="long"),
        '["platform.report"]',
    ],
)
def test_a_log_without_a_report_has_none(log):
    assert Report.parse(log) is None


def test_a_report_that_is_cut_holds_what_is_left_of_it():
    cut = WARM[: WARM.index("\tMax Memory")]
    assert Report.parse(cut) == Report(1.103, 2048, 0, is_cold=False)
    assert Report.parse(json_line(billedDurationMs=5)) == Report(0.005, 0, 0, is_cold=False)
    odd = "REPORT RequestId: x\tBilled Duration: ... ms\tMemory Size: 1.2.3 MB"
    assert Report.parse(odd) == Report(0.0, 1, 0, is_cold=False)


@pytest.mark.parametrize(
    ("region", "architecture", "per_gb_second", "per_million"),
    [
        ("us-west-2", "x86_64", 0.0000166667, 0.20),
        ("us-west-2", "arm64", 0.0000133334, 0.20),
        ("nowhere-1", "x86_64", 0.0000166667, 0.20),
        ("af-south-1", "x86_64", 0.0000221, 0.27),
        ("af-south-1", "arm64", 0.0000177, 0.27),
    ],
)
def test_a_price_is_that_of_region_and_architecture(
    region, architecture, per_gb_second, per_million
):
    price = Price.of(region, architecture)
    assert price.per_gb_second == pytest.approx(per_gb_second, rel=2e-3)
    assert price.per_million_calls == per_million


def test_a_cost_is_of_memory_times_time_and_of_calls():
    assert Price(0.5, 4.0).cost(gb_seconds=3.0, calls=500_000) == 1.5 + 2.0


def test_sums_are_right_whatever_threads_add():
    usage = Usage(Price(1.0, 1e6))
    report = Report(billed_s=2.0, memory_mb=512, peak_memory_mb=100, is_cold=True)

    def add(number):
        for turn in range(500):
            usage.add(report if turn % 5 else None)
            usage.add(Report(1.0, 1024, number, is_cold=False))
            usage.add_throttled()
            usage.add_resent()

    threads = [threading.Thread(target=add, args=(100 + n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert usage.summary() == {
        "lambda_calls": 8_000,
        "lambda_time_s": 3_200 * 2.0 + 4_000 * 1.0,
        "gb_seconds": 3_200 * 1.0 + 4_000 * 1.0,
        "estimated_cost_usd": 7_200.0 + 8_000.0,
        "peak_memory_mb": 107,
        "cold_starts": 3_200,
        "calls_throttled": 4_000,
        "calls_resent": 4_000,
        "calls_without_report": 800,
    }


def test_the_peak_is_that_of_the_hungriest_call():
    usage = Usage(Price(1.0, 1.0))
    for peak in (100, 300, 200):
        usage.add(Report(1.0, 1024, peak, is_cold=False))
    assert usage.summary()["peak_memory_mb"] == 300


def test_nothing_used_costs_nothing():
    summary = Usage(Price.of("us-west-2")).summary()
    assert set(summary.values()) == {0}
    assert json.loads(json.dumps(summary)) == summary


def test_the_ceiling_is_every_call_up_to_its_time_limit():
    price = Price.of("us-west-2")
    most = ceiling(1_700, timeout_s=900.0, memory_mb=2048, price=price)
    assert most["gb_seconds"] == 1_700 * 900.0 * 2
    assert most["cost_usd"] == pytest.approx(51.0, abs=0.01)
    assert ceiling(0, 900.0, 2048, price) == {"gb_seconds": 0.0, "cost_usd": 0.0}

"""The contract's checks: sound executors pass, and every broken one is caught by its check."""

from __future__ import annotations

import concurrent.futures.process
import inspect
import json
import os
import re
import subprocess
import sys
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import pytest
from cell_faults import cells_of, done_cells

from magg.testing import ExecutorTests
from magg.testing.contract import Settings, list_checks, run_check, run_checks
from magg.testing.contract.__main__ import main

ROOT = Path(__file__).parents[2]
FACTORIES = "magg.testing.contract.factories"
FALSE_ERRORS = "magg.Errors.test_an_exception_that_is_false_is_still_raised"
# Broken executor: the check that must catch it, and how.
BROKEN = {
    "LosesSystemExit": ("Errors.test_system_exit_ends_the_call_alone", "failed"),
    "CallsTwice": ("Submitting.test_a_call_is_made_once", "failed"),
    "ChangesErrors": ("Errors.test_result_raises_what_the_call_raised", "failed"),
    "LosesTracebacks": ("Errors.test_the_traceback_tells_where_it_was_raised", "failed"),
    "LosesFalseErrors": ("Errors.test_an_exception_that_is_false_is_still_raised", "failed"),
    "Remembers": ("Submitting.test_equal_calls_are_all_made", "failed"),
    "LosesOneInAThousand": ("Submitting.test_many_futures_all_get_their_own_result", "hung"),
    "RunsAtSubmit": ("Submitting.test_submit_does_not_wait_for_the_call", "failed"),
    "OneAtATime": ("Submitting.test_calls_run_side_by_side", "failed"),
    "TakesKeywords": ("Submitting.test_keywords_belong_to_the_function", "failed"),
    "NamesItsArguments": ("Submitting.test_a_keyword_may_be_named_self_or_fn", "failed"),
    "TakesAnyNumber": ("Submitting.test_the_number_of_workers_must_be_positive", "failed"),
    "NeverCancels": ("Cancelling.test_a_call_that_waits_can_be_cancelled", "failed"),
    "CancelsInNameOnly": ("Cancelling.test_a_call_that_was_cancelled_is_never_made", "failed"),
    "CallsBackTwice": (
        "Callbacks.test_a_callback_comes_once_with_the_future_that_is_done",
        "failed",
    ),
    "KeepsFutures": ("References.test_a_result_goes_with_its_future", "failed"),
    "KeepsArguments": ("References.test_arguments_are_let_go_after_the_call", "failed"),
    "MapsWithoutCancelling": (
        "Mapping.test_an_iterator_that_is_dropped_cancels_the_rest",
        "failed",
    ),
    "MapsLazily": ("Mapping.test_calls_start_before_anybody_iterates", "failed"),
    "WorksAfterShutdown": ("Shutdown.test_submit_afterwards_is_an_error", "failed"),
    "ShutsDownWithoutWaiting": ("Shutdown.test_shutdown_waits_for_all_calls", "failed"),
    "AlwaysWaits": ("Shutdown.test_shutdown_without_waiting_returns_at_once", "failed"),
    "CancelsNothing": ("Shutdown.test_calls_that_wait_can_be_cancelled_with_it", "failed"),
    "HangsAtShutdown": ("Submitting.test_the_result_comes_back", "hung"),
    "LocksAtShutdown": ("Shutdown.test_a_callback_may_submit_during_shutdown", "hung"),
    "one_for_all": ("Shutdown.test_the_end_of_one_executor_is_not_that_of_another", "failed"),
    "LosesCallsAtExit": ("Exit.test_calls_that_wait_are_finished", "failed"),
    "Crashes": ("Submitting.test_the_result_comes_back", "crashed"),
}


# These show only when something has not happened for a while.
WAITING = {
    *("AlwaysWaits", "CallsTwice", "CancelsNothing", "HangsAtShutdown", "KeepsArguments"),
    *("KeepsFutures", "LocksAtShutdown", "LosesOneInAThousand", "LosesSystemExit"),
    *("MapsLazily", "MapsWithoutCancelling", "OneAtATime", "RunsAtSubmit"),
}


# A limit against hangs: what comes to an end takes a few seconds, or much more on a busy machine.
LIMIT_S = 300.0


def broken(name, time_limit=LIMIT_S):
    return Settings(f"broken_executors:{name}", time_limit)


def sound(factory=f"{FACTORIES}:threads", **about):
    return Settings(factory, LIMIT_S, **about)


def run_until(far_enough, check, name):
    """Run a check that only its time limit ends, with a longer one where it did not get there."""
    for limit in (8.0, 30.0, 120.0):
        outcome = run_check(check, broken(name, limit))
        if far_enough(outcome):
            break
    return outcome


def statuses(names):
    """Run the check that must catch each broken executor, several at a time."""

    def status(name):
        check, expected = BROKEN[name]
        limit = 12.0 if expected == "hung" else 60.0 if name in WAITING else LIMIT_S
        return run_check(f"magg.{check}", broken(name, limit))

    with ThreadPoolExecutor(8) as pool:
        return dict(zip(names, pool.map(status, names), strict=True))


def assert_caught(names):
    outcomes = statuses(names)
    assert {n: o.status for n, o in outcomes.items()} == {n: BROKEN[n][1] for n in names}
    assert not [str(outcome) for outcome in outcomes.values() if outcome.ok]


def test_every_broken_executor_is_caught_by_the_check_for_it():
    assert_caught([name for name in BROKEN if name not in WAITING])


@pytest.mark.slow
def test_every_broken_executor_that_hangs_or_dawdles_is_caught_by_the_check_for_it():
    assert_caught(sorted(WAITING))


def test_threads_pass_all_checks_of_magg():
    checks = [check for check in list_checks() if check.startswith("magg.")]
    outcomes = run_checks(checks, sound(), jobs=8)
    assert not [str(outcome) for outcome in outcomes if not outcome.ok]
    skipped = {outcome.check for outcome in outcomes if outcome.status == "skipped"}
    assert skipped <= {
        "magg.Errors.test_a_worker_that_dies_fails_its_call",
        "magg.Errors.test_an_exception_that_is_false_is_still_raised",
    }


@pytest.mark.slow
class TestThreads(ExecutorTests):
    factory = f"{FACTORIES}:threads"


@pytest.mark.slow
class TestProcesses(ExecutorTests):
    factory = f"{FACTORIES}:processes"
    # gh-132063, mended in later Pythons.
    known: ClassVar = (
        {FALSE_ERRORS: "this Python's pool takes an exception that is false for none"}
        if "if result_item.exception:" in inspect.getsource(concurrent.futures.process)
        else {}
    )


@pytest.mark.slow
class TestExampleOfTheDocumentation(ExecutorTests):
    factory = "fresh_executor:make"
    many = 50

    @pytest.fixture(autouse=True)
    def installed(self, example):
        pass


def test_the_example_of_the_documentation_is_short(example):
    lines = Path(example, "fresh_executor.py").read_text().splitlines()
    assert len([line for line in lines if line.strip()]) < 40


def test_the_example_of_the_documentation_keeps_the_heart_of_the_contract(example):
    names = ("Errors.test_result_raises", "Exit.test_calls_that_wait", "Submitting.test_a_keyword")
    checks = [check for check in list_checks() if check.removeprefix("magg.").startswith(names)]
    assert len(checks) == 3
    outcomes = run_checks(checks, sound("fresh_executor:make"), jobs=3)
    assert [outcome.status for outcome in outcomes] == ["passed"] * 3, [*map(str, outcomes)]


def test_the_example_of_the_documentation_is_a_backend(example, small, tmp_path):
    store = tmp_path / "s.zarr"
    summary = small.run(store, backend="fresh", max_workers=2, max_cells=3, progress=False)
    assert (summary["cells_error"], summary["backend"]) == (0, "fresh"), summary["errors"]
    cells, done = cells_of(store), done_cells(store)
    assert len(done) == 3
    assert {cell: cells[cell] for cell in done} == {cell: small.cells[cell] for cell in done}


@pytest.fixture
def example(tmp_path, monkeypatch):
    """Install the example of the documentation in a folder on the path."""
    text = (ROOT / "docs" / "backends.md").read_text()
    blocks = dict(re.findall(r"```(python|toml)\n(.*?)```", text, re.DOTALL)[::-1])
    folder = tmp_path / "installed"
    about = folder / "fresh_executor-1.0.dist-info"
    about.mkdir(parents=True)
    (folder / "fresh_executor.py").write_text(blocks["python"])
    ((group, points),) = tomllib.loads(blocks["toml"])["project"]["entry-points"].items()
    lines = [f"[{group}]", *(f"{name} = {home}" for name, home in points.items())]
    (about / "entry_points.txt").write_text("\n".join(lines))
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: fresh-executor\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(ROOT)]))
    yield folder
    sys.modules.pop("fresh_executor", None)


def test_a_process_that_does_not_end_by_itself_is_no_success():
    check = "magg.Submitting.test_the_result_comes_back"
    outcome = run_until(lambda outcome: outcome.status == "passed", check, "KeepsTheProcess")
    assert (outcome.status, outcome.exited, outcome.ok) == ("passed", False, False)
    assert "did not end by itself" in str(outcome)


def test_an_executor_that_hangs_is_stopped_in_time_with_its_processes(tmp_path, monkeypatch):
    pids = tmp_path / "pids"
    monkeypatch.setenv("MAGG_TEST_PIDS", str(pids))
    check = "magg.States.test_a_call_that_failed_is_done"
    outcome = run_until(
        lambda outcome: pids.exists() and "broken_executors.py" in outcome.reason,
        check,
        "LeavesAProcess",
    )
    assert (outcome.status, outcome.exited, outcome.ok) == ("hung", False, False)
    assert "broken_executors.py" in outcome.reason, "the reason shows where it hangs"
    assert outcome.seconds < LIMIT_S
    end = time.monotonic() + 60
    alive = set(map(int, pids.read_text().split()))
    while alive := {pid for pid in alive if is_alive(pid)}:
        assert time.monotonic() < end, alive
        time.sleep(0.05)


def is_alive(pid):
    """Tell whether a process runs; a zombie that nobody has waited for does not."""
    told = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return told.stdout.strip()[:1] not in ("", "Z")


def test_a_known_failure_that_passes_is_reported():
    class Stale(ExecutorTests):
        factory = f"{FACTORIES}:threads"
        time_limit = LIMIT_S
        known: ClassVar = {
            "magg.Submitting.test_the_result_comes_back": "it cannot",
            "magg.X.test_y": "?",
        }

    with pytest.raises(pytest.fail.Exception, match="take it out of `known`"):
        Stale().test_the_contract_of_an_executor("magg.Submitting.test_the_result_comes_back")
    with pytest.raises(pytest.fail.Exception, match=r"no such check: magg\.X\.test_y"):
        Stale().test_known_failures_name_checks()


def test_a_known_failure_is_expected():
    check = "magg.Submitting.test_a_keyword_may_be_named_self_or_fn"

    class Known(ExecutorTests):
        factory = "broken_executors:NamesItsArguments"
        time_limit = LIMIT_S
        known: ClassVar = {check: "its arguments have names"}

    class Unknown(Known):
        known: ClassVar = {}

    with pytest.raises(pytest.xfail.Exception, match="its arguments have names"):
        Known().test_the_contract_of_an_executor(check)
    with pytest.raises(pytest.fail.Exception, match="multiple values for argument"):
        Unknown().test_the_contract_of_an_executor(check)


def test_checks_that_need_shared_files_are_skipped_without():
    settings = sound(shared_files=False)
    outcome = run_check("magg.Submitting.test_a_call_is_made_once", settings)
    assert (outcome.status, outcome.ok) == ("skipped", True)
    assert "share no files" in outcome.reason


def test_a_factory_may_refuse_a_number_of_workers():
    settings = sound("broken_executors:refuses_none")
    check = "magg.Submitting.test_the_number_of_workers_may_be_left_out"
    outcome = run_check(check, settings)
    assert (outcome.status, outcome.reason) == ("skipped", "say how many")


def test_the_environment_of_the_checks_can_be_added_to():
    settings = sound("broken_executors:needs_a_variable", environment={"MAGG_TEST_GIVEN": "1"})
    assert run_check("magg.Submitting.test_the_result_comes_back", settings).ok


def test_secrets_in_the_environment_show_in_no_list_of_processes():
    settings = sound("broken_executors:tells_arguments", environment={"KEY": "s3cr3t"})
    outcome = run_check("magg.Submitting.test_the_result_comes_back", settings)
    assert outcome.status == "skipped"
    assert "tells_arguments" in outcome.reason
    assert "s3cr3t" not in outcome.reason


def test_cpython_s_tests_are_run_where_there_are_any():
    names = [check for check in list_checks() if check.startswith("cpython.")]
    if find_spec("test.test_concurrent_futures"):
        assert len(names) >= 25
        settings = sound()
        assert run_check("cpython.ExecutorTest.test_submit_keyword", settings).status == "passed"
    else:
        (only,) = names
        outcome = run_check(only, sound())
        assert (outcome.status, outcome.ok) == ("skipped", True)
        assert "has no test.test_concurrent_futures" in outcome.reason


def test_the_command_prints_what_failed_and_keeps_all_outcomes(tmp_path, monkeypatch, capsys):
    file = tmp_path / "outcomes.json"
    command = ["broken_executors:NamesItsArguments", "-k", "Submitting.test_a_", "--jobs", "4"]
    command += ["--time-limit", str(LIMIT_S)]
    assert main([*command, "--json", str(file)]) == 1
    told = capsys.readouterr().out
    assert "3 of 4 passed, 1 failed" in told
    outcomes = json.loads(file.read_text())[command[0]]
    (bad,) = [outcome["check"] for outcome in outcomes if outcome["status"] != "passed"]
    assert bad == "magg.Submitting.test_a_keyword_may_be_named_self_or_fn"

    threads = f"{FACTORIES}:threads"
    command = [threads, "-k", "test_the_result_comes_back", "--time-limit", str(LIMIT_S)]
    assert main([*command, "--markdown"]) == 0
    assert "| threads | 0 of 0 passed | 1 of 1 passed | nothing |" in capsys.readouterr().out


def test_the_suite_imports_neither_pytest_nor_cpythons_tests():
    heavy = {"pytest", "test", "numpy", "unittest", "distributed", "loky"}
    code = (
        f"import sys; from magg.testing import ExecutorTests; print({heavy!r} & {{*sys.modules}})"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "set()"

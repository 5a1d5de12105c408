"""StepFunctionsExecutor: what becomes one execution, what fails, and what is left behind."""

from __future__ import annotations

import functools
import json
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from pathlib import Path

import pytest
from services.lambda_faults import Fault
from services.s3 import REGION
from sfn_calls import FUNCTIONS, die_at, double, fail, hold, length, nap, repeat, when

from magg.aws.state_machine import state_machine
from magg.errors import (
    AccessDeniedError,
    BackendError,
    CredentialsExpiredError,
    ExecutionStoppedError,
    FunctionNotFoundError,
    MaggError,
    PayloadError,
    RemoteError,
    ServiceUnreachableError,
    StateMachineNotFoundError,
    ThrottledError,
    WorkerLostError,
    WorkerTimeoutError,
)
from magg.executors import StepFunctionsExecutor, make_executor
from magg.executors.sfn_machine import Clients
from magg.executors.sfn_workers import Workers

boto3 = pytest.importorskip("boto3")
pytest.importorskip("awslambdaric")

ROOT = Path(__file__).parents[2]
HANDLER = """
from sfn_calls import FUNCTIONS
from magg.executors.serve import make_handler

handler = make_handler(FUNCTIONS)
"""
PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def deploy(lambda_service, s3_server, sfn_service, tmp_path_factory):
    """Return a function that deploys a handler and its state machine."""
    names = set()

    def make(name, body=HANDLER, **options):
        folder = tmp_path_factory.mktemp(name)
        (folder / "h.py").write_text(body)
        path = f"{ROOT}:{Path(__file__).parent}"
        environment = s3_server.environment() | {"PYTHONPATH": path}
        options = {"timeout": 300.0, "memory_mb": 1_000, "concurrency": 4} | options
        function = lambda_service.deploy(name, folder=folder, environment=environment, **options)
        names.add(name)
        return function, sfn_service.deploy(name, state_machine(function.arn))

    yield make
    for name in names:
        lambda_service.remove(name)


@pytest.fixture(scope="module")
def deployed(deploy):
    return deploy("calls-of-sfn")


@pytest.fixture
def at_aws(sfn_service, lambda_service, aws_environment, monkeypatch):
    aws_environment()
    monkeypatch.setenv("AWS_ENDPOINT_URL_LAMBDA", lambda_service.endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL_SFN", sfn_service.endpoint)
    yield sfn_service
    sfn_service.clear()


@pytest.fixture
def make(deployed, at_aws, s3_bucket):
    """Return a function that makes executors, which are left behind after the test."""
    function, arn = deployed
    function.clear_faults()
    until(lambda: function.busy == 0)  # what an earlier test has stopped runs to its end
    executors = []

    def make(machine=arn, *, fresh=False, together=None, **options):
        """Make an executor; so many calls together are an execution, however long they take."""
        clients = None if fresh else cached_clients()
        if together:
            options |= {"calls_per_execution": together, "window_s": PATIENCE_S}
        options = {"max_workers": 4, "window_s": 0.1, "poll_s": 0.05, "clients": clients} | options
        executor = StepFunctionsExecutor(
            machine, s3_bucket.url("s.zarr"), functions=FUNCTIONS, **options
        )
        executors.append(executor)
        return executor

    yield make
    for executor in executors:
        executor.shutdown(wait=False, cancel_futures=True)


@functools.cache
def cached_clients():
    """Return clients for all tests that break none: they take a while to make."""
    return Clients.make(REGION)


def until(condition):
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def results(futures):
    return [future.result(PATIENCE_S) for future in futures]


def error_of(future):
    return future.exception(PATIENCE_S)


def batches(service):
    """Return how many batches each execution had."""
    return [run.batches["total"] for run in (e.map_run for e in service.executions.values())]


# What becomes an execution.


def test_calls_that_are_submitted_together_are_one_execution(make, at_aws):
    executor = make(together=7)
    assert results([executor.submit(double, n) for n in range(7)]) == [2 * n for n in range(7)]
    (execution,) = at_aws.executions.values()
    assert execution.map_run.concurrency == 4
    assert batches(at_aws) == [7]
    # Three batches a file: the results were read from several.
    assert execution.output["ResultWriterDetails"]["Key"].endswith("/manifest.json")


def test_calls_that_come_later_are_another_execution(make, at_aws):
    executor = make()
    assert executor.submit(double, 1).result(PATIENCE_S) == 2
    assert executor.submit(double, x=2).result(PATIENCE_S) == 4
    assert batches(at_aws) == [1, 1]


def test_an_execution_takes_no_more_than_so_many_calls(make, at_aws):
    executor = make(together=5)
    assert executor.in_flight == 5
    futures = [executor.submit(double, n) for n in range(12)]
    executor.shutdown(wait=False)  # the last two wait for others no longer
    assert results(futures) == [2 * n for n in range(12)]
    assert sorted(batches(at_aws)) == [2, 5, 5]


def test_calls_are_batched(make, at_aws, deployed):
    before = len(deployed[0].calls)
    executor = make(calls_per_worker=4, together=10)
    assert results([executor.submit(double, n) for n in range(10)]) == [2 * n for n in range(10)]
    assert batches(at_aws) == [3]
    assert len(deployed[0].calls) == before + 3


def test_equal_calls_are_all_made(make, at_aws):
    executor = make(calls_per_worker=2)
    assert results([executor.submit(double, 3) for _ in range(4)]) == [6] * 4


@pytest.mark.slow
def test_executions_share_the_workers(make, at_aws):
    executor = make(max_workers=2, calls_per_execution=2)
    first = [executor.submit(when, 0.6) for _ in range(2)]
    time.sleep(0.3)  # these take both workers
    later = [executor.submit(when, 0.6) for _ in range(2)]
    end_of_first = max(end for _, end in results(first))
    assert min(began for began, _ in results(later)) > end_of_first - 0.6
    spans = results(first) + results(later)
    for began, _ in spans:
        assert sum(b <= began < e for b, e in spans) <= 2


def test_no_more_workers_are_lent_than_there_are():
    workers = Workers(5)
    first = workers.take(lambda: 3)
    second = workers.take(lambda: 9)
    assert (first.number, second.number) == (3, 2)
    with ThreadPoolExecutor() as pool:
        third = pool.submit(workers.take, lambda: 4)
        time.sleep(0.1)
        assert not third.done()
        first.keep(5)  # holds three
        first.keep(2)
        first.keep(2)
        assert third.result(PATIENCE_S).number == 1
        fourth = pool.submit(workers.take, lambda: 1)
        workers.open()
        assert fourth.result(PATIENCE_S).number == 0


@pytest.mark.slow
def test_workers_that_an_execution_needs_no_more_are_used_by_the_next(make, at_aws):
    executor = make(max_workers=2)
    slow = [executor.submit(nap, 5.0), executor.submit(nap, 0.1)]
    time.sleep(0.6)
    assert executor.submit(double, 1).result(4.0) == 2
    assert not slow[0].done()


def test_calls_that_wait_can_be_cancelled_and_are_not_sent(make, at_aws):
    executor = make(window_s=PATIENCE_S)
    futures = [executor.submit(double, n) for n in range(3)]
    assert futures[1].cancel()
    executor.shutdown(wait=False)  # sends those that wait
    assert futures[2].result(PATIENCE_S) == 4
    with pytest.raises(CancelledError):
        futures[1].result(0)
    assert batches(at_aws) == [2]


def test_nothing_is_left_in_the_bucket(make, s3_bucket):
    executor = make()
    results([executor.submit(double, n) for n in range(5)])
    error_of(executor.submit(die_at, 1, 1))
    executor.shutdown()
    assert s3_bucket.keys() == []


@pytest.mark.slow
def test_calls_and_answers_larger_than_states_may_hold_go_through_the_bucket(make, s3_bucket):
    executor = make(calls_per_worker=3)
    large = executor.submit(length, "x" * 400_000)
    answers = [executor.submit(repeat, "ab", 100_000) for _ in range(2)]
    assert large.result(PATIENCE_S) == 400_000
    assert [len(text) for text in results(answers)] == [200_000] * 2
    executor.shutdown()
    assert s3_bucket.keys() == []


def test_what_was_used_is_told(make):
    executor = make(calls_per_worker=2, together=4)
    results([executor.submit(nap, 0.2) for _ in range(4)])
    used = executor.used()
    assert (used["executions"], used["lambda_calls"], used["calls_without_report"]) == (1, 2, 0)
    assert used["state_transitions"] == 3 + 2 * 3
    assert 0.8 <= used["lambda_time_s"] < PATIENCE_S
    assert used["gb_seconds"] == pytest.approx(used["lambda_time_s"] * 1_000 / 1024)
    assert 10 < used["peak_memory_mb"] < 2_000
    assert used["estimated_cost_usd"] == pytest.approx(
        used["gb_seconds"] * 0.0000166667 + 2 * 2e-7 + 9 * 0.025 / 1000
    )
    json.dumps(used)


def test_progress_is_told_while_an_execution_runs(make):
    executor = make(max_workers=1, together=10)
    said = []
    executor.notify = said.append
    results([executor.submit(nap, 0.5) for _ in range(10)])
    done = [int(line.split()[2]) for line in said]
    assert done == sorted(done)
    assert 2 <= len(said) <= 10
    assert all("of 10 calls done" in line for line in said)


# What fails.


def test_a_call_that_raises_harms_no_other(make, at_aws):
    executor = make(calls_per_worker=3, together=3)
    calls = [(double, 1), (fail, "of mine"), (double, 2)]
    futures = [executor.submit(*call) for call in calls]
    error = error_of(futures[1])
    assert isinstance(error, RemoteError)
    assert error.type == "ValueError"
    assert "of mine" in str(error)
    assert [futures[0].result(0), futures[2].result(0)] == [2, 4]
    assert batches(at_aws) == [1]


def test_a_worker_that_dies_fails_its_own_call_alone(make, at_aws):
    executor = make(calls_per_worker=3, together=6)
    futures = [executor.submit(die_at, n, 4) for n in range(6)]
    wait(futures, PATIENCE_S)
    assert isinstance(error_of(futures[4]), WorkerLostError)
    assert "exit status 7" in str(error_of(futures[4]))
    assert [f.result(0) for n, f in enumerate(futures) if n != 4] == [0, 1, 2, 3, 5]
    # Its two companions were made once more, each alone.
    assert batches(at_aws) == [2, 3]
    assert executor.used()["calls_without_report"] == 2


@pytest.mark.slow
def test_a_worker_that_runs_into_its_time_limit_is_told_with_advice(make, deploy):
    _, arn = deploy("short-of-sfn", timeout=1.0)
    error = error_of(make(arn).submit(nap, 20.0))
    assert isinstance(error, WorkerTimeoutError)
    assert "raise its timeout" in str(error)


def test_throttled_calls_are_tried_again_by_the_state_machine(make, at_aws, deployed):
    deployed[0].inject(Fault("ConcurrentInvocationLimitExceeded", 6))
    executor = make(together=4)
    assert results([executor.submit(double, n) for n in range(4)]) == [0, 2, 4, 6]
    (execution,) = at_aws.executions.values()
    assert execution.attempts == 10
    assert len(execution.waits) == 6
    assert max(execution.waits) <= 60.0


@pytest.mark.slow
def test_calls_that_lambda_refuses_for_too_long_are_given_up(make, at_aws, deployed, monkeypatch):
    monkeypatch.setattr(at_aws, "time_scale", 0.0)
    deployed[0].inject(Fault("ConcurrentInvocationLimitExceeded", 13))
    error = error_of(make().submit(double, 1))
    assert isinstance(error, ThrottledError)
    assert "fewer workers" in str(error)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ServiceException", "drop"])
def test_failures_of_lambda_itself_are_tried_again_by_the_state_machine(make, deployed, kind):
    deployed[0].inject(Fault(kind, 2))
    assert make().submit(double, 4).result(PATIENCE_S) == 8


def test_a_call_that_no_handler_knows_is_refused_at_once(make):
    with pytest.raises(BackendError, match="does not know"):
        make().submit(len, "x")


@pytest.mark.slow
def test_a_handler_that_is_not_maggs_is_told(make, deploy):
    _, arn = deploy("foreign-of-sfn", "def handler(event, context): return {'hello': 'world'}")
    error = error_of(make(arn).submit(double, 1))
    assert isinstance(error, PayloadError)
    assert "deploy magg's handler" in str(error)


def test_an_execution_that_somebody_stops_is_an_error_and_not_a_hang(make, at_aws, tmp_path):
    executor = make(together=8)
    futures = [executor.submit(hold, str(tmp_path / "go")) for _ in range(8)]
    until(lambda: at_aws.map_runs and at_aws.executions)
    (execution,) = at_aws.executions.values()
    execution.stop(cause="by the operator")
    for future in futures:
        error = error_of(future)
        assert isinstance(error, ExecutionStoppedError)
        assert "by the operator" in str(error)
    (tmp_path / "go").touch()


def test_shutdown_that_waits_for_nothing_stops_the_execution(
    make, at_aws, deployed, s3_bucket, tmp_path
):
    executor = make(max_workers=2, together=8)
    futures = [executor.submit(hold, str(tmp_path / "go")) for _ in range(8)]
    until(lambda: at_aws.executions and deployed[0].busy == 2)
    executor.shutdown(wait=False, cancel_futures=True)
    assert deployed[0].busy == 2  # and would be for ever
    (execution,) = at_aws.executions.values()
    assert execution.status == "ABORTED"
    assert "by the client" in execution.cause
    assert {type(error_of(future)) for future in futures} == {WorkerLostError}
    (tmp_path / "go").touch()
    until(lambda: deployed[0].busy == 0)
    assert execution.attempts == 2
    assert s3_bucket.keys() == []


@pytest.mark.slow
def test_an_execution_is_asked_for_again_when_the_service_fails_for_a_while(make, at_aws):
    executor = make(fresh=True)
    said = []
    executor.notify = said.append
    future = executor.submit(nap, 1.0)
    until(lambda: at_aws.executions)
    at_aws.inject("ExpiredTokenException", "DescribeExecution", 3)
    assert future.result(PATIENCE_S) == 1.0
    assert any("expired" in line and "goes on" in line for line in said)


@pytest.mark.slow
def test_an_execution_of_which_nothing_can_be_learned_is_given_up_in_the_end(make, at_aws):
    executor = make(patience_s=0.3)
    future = executor.submit(nap, 2.0)
    until(lambda: at_aws.executions)
    at_aws.inject("ExpiredTokenException", "DescribeExecution", 1_000)
    assert isinstance(error_of(future), CredentialsExpiredError)


@pytest.mark.slow
def test_progress_that_may_not_be_asked_for_hinders_nothing(make, at_aws):
    at_aws.inject("AccessDeniedException", "ListMapRuns", 1_000)
    assert make().submit(nap, 0.5).result(PATIENCE_S) == 0.5


# An execution of another process.


@pytest.mark.slow
def test_calls_of_an_execution_that_another_started_are_not_made_again(make, at_aws, deployed):
    first = make(poll_s=1_000.0)  # as good as dead: it never looks after what it started
    for n in range(3):
        first.submit(nap, 1.0 + n / 100)
    until(lambda: at_aws.executions)
    (arn,) = at_aws.executions
    second = make(resume_execution=arn)
    before = len(deployed[0].calls)
    futures = [second.submit(nap, 1.0 + n / 100) for n in (2, 0)]
    other = second.submit(double, 5)
    assert second.preflight() == []
    assert results([*futures, other]) == [1.02, 1.0, 10]
    assert batches(at_aws) == [3, 1]
    assert len(deployed[0].calls) <= before + 4


@pytest.mark.slow
def test_a_batch_that_failed_in_an_execution_of_another_is_made_again(make, at_aws):
    first = make(poll_s=1_000.0, calls_per_worker=3)
    for n in range(3):
        first.submit(die_at, n, 1)
    until(lambda: at_aws.executions)
    (arn,) = at_aws.executions
    second = make(resume_execution=arn)
    futures = [second.submit(die_at, n, 1) for n in range(3)]
    assert isinstance(error_of(futures[1]), WorkerLostError)
    assert results([futures[0], futures[2]]) == [0, 2]


def test_an_execution_that_is_not_there_cannot_be_attached_to(make, deployed):
    arn = deployed[1].replace(":stateMachine:", ":execution:") + ":nowhere"
    with pytest.raises(BackendError, match="ExecutionDoesNotExist"):
        make(resume_execution=arn)


def test_an_execution_whose_results_are_gone_cannot_be_attached_to(make, at_aws):
    first = make()
    first.submit(double, 1).result(PATIENCE_S)
    first.shutdown()
    (arn,) = at_aws.executions
    with pytest.raises(BackendError, match=r"is gone.*MAGG_RESUME_EXECUTION"):
        make(resume_execution=arn)


# Bad input: one clear error within seconds.


@pytest.fixture
def soon():
    """Fail a test that takes longer than any error may."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < PATIENCE_S


def both_errors(executor):
    """Return what preflight says, and what a call ends with."""
    with pytest.raises(MaggError) as raised:
        executor.preflight()
    return raised.value, error_of(executor.submit(double, 1))


@pytest.mark.usefixtures("soon")
class TestBadInput:
    def test_a_state_machine_that_is_not_there(self, make, deployed):
        arn = deployed[1].replace("calls-of-sfn", "nowhere")
        for error in both_errors(make(arn)):
            assert isinstance(error, StateMachineNotFoundError)
            assert "state machine 'nowhere' in us-west-2: it does not exist" in str(error)

    @pytest.mark.parametrize("arn", ["magg", "arn:aws:lambda:us-west-2:123456789012:function:f"])
    def test_what_is_no_arn(self, make, arn):
        with pytest.raises(BackendError, match="no ARN of a state machine, such as"):
            make(arn)

    def test_denied_access(self, make, at_aws):
        at_aws.inject("AccessDeniedException", times=2)
        for error in both_errors(make()):
            assert isinstance(error, AccessDeniedError)
            assert "states:" in str(error)

    @pytest.mark.parametrize(
        ("action", "words"),
        [
            ("lambda:InvokeFunction", "needs lambda:InvokeFunction"),
            ("s3:GetObject", "role of the state machine"),
            ("s3:PutObject", "role of the state machine"),
        ],
    )
    def test_a_role_that_may_not_do_what_it_must(self, make, at_aws, monkeypatch, action, words):
        monkeypatch.setattr(at_aws, "time_scale", 0.0)
        at_aws.role_denied.add(action)
        error = error_of(make().submit(double, 1))
        assert isinstance(error, AccessDeniedError)
        assert words in str(error)

    def test_a_bucket_that_is_not_there(self, deployed, at_aws):
        executor = StepFunctionsExecutor(deployed[1], "s3://no-such-bucket/s", functions=FUNCTIONS)
        with executor:
            for error in both_errors(executor):
                assert isinstance(error, BackendError)
                assert "no-such-bucket" in str(error)

    def test_a_prefix_that_is_not_in_s3(self, deployed, at_aws, tmp_path):
        with pytest.raises(BackendError, match="is not in S3"):
            StepFunctionsExecutor(deployed[1], str(tmp_path))

    def test_expired_credentials(self, make, at_aws):
        at_aws.inject("ExpiredTokenException", times=4)
        for error in both_errors(make(fresh=True)):
            assert isinstance(error, CredentialsExpiredError)

    def test_expired_credentials_are_fetched_anew_once(self, make, at_aws, monkeypatch):
        made, really = [], Clients.make
        monkeypatch.setattr(Clients, "make", lambda region: made.append(1) or really(region))
        executor = make(fresh=True)
        at_aws.inject("ExpiredTokenException", times=1)
        assert executor.submit(double, 2).result(PATIENCE_S) == 4
        assert len(made) == 2

    def test_missing_credentials(self, make, monkeypatch):
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        with pytest.raises(AccessDeniedError, match="AWS_PROFILE"):
            make(fresh=True)

    def test_wrong_credentials(self, make, monkeypatch):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAWRONG")
        for error in both_errors(make(fresh=True)):
            assert isinstance(error, AccessDeniedError)

    @pytest.mark.slow
    def test_an_endpoint_that_cannot_be_reached(self, make, monkeypatch):
        monkeypatch.setenv("AWS_ENDPOINT_URL_SFN", "http://127.0.0.1:1")
        with pytest.raises(ServiceUnreachableError, match="cannot be reached"):
            make(fresh=True).preflight()

    @pytest.mark.slow
    def test_a_function_that_is_not_there(self, make, deployed, sfn_service):
        definition = state_machine(deployed[0].arn.replace("calls-of-sfn", "gone"))
        executor = make(sfn_service.deploy("of-nothing", definition))
        for error in both_errors(executor):
            assert isinstance(error, FunctionNotFoundError)

    def test_a_state_machine_that_is_not_maggs(self, make, deployed, sfn_service):
        definition = json.loads(state_machine(deployed[0].arn))
        (state,) = definition["States"].values()
        del state["ItemBatcher"]["BatchInput"]["magg_batch"]
        executor = make(sfn_service.deploy("foreign", json.dumps(definition)))
        with pytest.raises(BackendError, match="is not magg's; deploy"):
            executor.preflight()

    @pytest.mark.parametrize("workers", [0, -1, 10_001])
    def test_an_impossible_number_of_workers(self, make, workers):
        with pytest.raises(ValueError, match=r"greater than 0|at most 10,000"):
            make(max_workers=workers)


@pytest.mark.slow
def test_preflight_tells_of_executions_that_run_already(make, at_aws):
    executor = make()
    assert executor.preflight() == []
    executor.submit(nap, 5.0)
    until(lambda: at_aws.executions)
    (notice,) = make().preflight()
    assert next(iter(at_aws.executions)) in notice
    assert "done twice" in notice


def test_preflight_asks_about_the_function(make):
    executor = make(max_workers=50)
    (notice,) = executor.preflight()
    assert "reserves 4 calls at once" in notice
    assert executor.longest_call_s == 300.0
    most = executor.ceiling(100)
    assert most["gb_seconds_ceiling"] == pytest.approx(100 * 300 * 1_000 / 1024)
    assert most["state_transitions_ceiling"] == 303
    assert most["cost_usd_ceiling"] == pytest.approx(
        most["gb_seconds_ceiling"] * 0.0000166667 + 100 * 2e-7 + 303 * 0.025 / 1000
    )


# By name.


def test_the_backend_takes_the_state_machine_from_argument_or_environment(
    deployed, at_aws, monkeypatch
):
    options = {"functions": FUNCTIONS, "store": "s3://bucket/s", "region": "us-west-2"}
    with make_executor("sfn", 3, function_name=deployed[1], **options) as executor:
        assert executor._max_workers == 3
    with pytest.raises(BackendError, match="MAGG_STATE_MACHINE_ARN"):
        make_executor("sfn", function_name="process-morton-cell", **options)
    monkeypatch.setenv("MAGG_STATE_MACHINE_ARN", deployed[1])
    with make_executor("sfn", function_name="process-morton-cell", **options) as executor:
        assert executor._max_workers == 1_000

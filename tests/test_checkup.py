"""What `magg check` says, against AWS and Earthdata on loopback."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from magg.checkup import check
from magg.cli import main

pytest.importorskip("boto3")

IDENTITY = """<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
<GetCallerIdentityResult><Arn>arn:aws:iam::123456789012:user/glaciologist</Arn>
<UserId>AIDA</UserId><Account>123456789012</Account></GetCallerIdentityResult>
</GetCallerIdentityResponse>"""
FUNCTION = {
    "FunctionName": "process-morton-cell",
    "Runtime": "python3.12",
    "MemorySize": 2048,
    "Timeout": 720,
    "Architectures": ["arm64"],
    "State": "Active",
}


ARN = "arn:aws:states:us-west-2:123456789012:stateMachine:cells"


class Aws(BaseHTTPRequestHandler):
    """STS, Lambda, S3 and Step Functions, as far as they are asked."""

    protocol_version = "HTTP/1.1"
    asked: list[str]
    machines: list[dict[str, str]]
    region = "us-west-2"

    def log_message(self, *_):
        """Stay silent."""

    def do_POST(self):
        text = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        self.asked.append(f"{self.command} {self.path}")
        if "GetCallerIdentity" in text:
            self.reply(200, IDENTITY)
        elif "DescribeStateMachine" in self.headers.get("X-Amz-Target", ""):
            known = [one for one in self.machines if one["stateMachineArn"] == ARN]
            missing = '{"__type": "StateMachineDoesNotExist", "message": "no such machine"}'
            self.reply(200 if known else 400, json.dumps(known[0]) if known else missing)
        elif self.path.startswith("/2015-03-31/functions/process-morton-cell/"):
            self.reply(200, json.dumps(FUNCTION))
        elif self.path.startswith("/2015-03-31/functions/"):
            self.reply(404, '{"Message": "Function not found"}')
        else:
            self.reply(200 if self.path.startswith("/mine") else 404, "")

    do_GET = do_HEAD = do_POST  # noqa: N815 - names that the base class looks for

    def reply(self, status, text):
        self.send_response(status)
        self.send_header("x-amz-bucket-region", self.region)
        if status == 404 and text:
            self.send_header("x-amzn-errortype", "ResourceNotFoundException")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text.encode())


@pytest.fixture
def aws(monkeypatch):
    handler = type("Bound", (Aws,), {"asked": [], "machines": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIACHECKCHECK")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "aws-secret-of-the-test")
        yield handler
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def nothing_set_up(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("LITHOPS_CONFIG_FILE", raising=False)
    monkeypatch.delenv("MAGG_LITHOPS_CONFIG", raising=False)
    monkeypatch.setenv("MAGG_STATE_MACHINE_ARN", ARN)
    monkeypatch.delenv("MAGG_LAMBDA_FUNCTION_NAME", raising=False)


def found(**arguments):
    return {(one.group, one.what): one for one in check(**arguments)}


def test_where_nothing_is_set_up_everything_has_a_fix(earthdata, monkeypatch):
    monkeypatch.delenv("EARTHDATA_USERNAME")
    told = found()
    assert told["local", "versions"].status == "ok"
    for key in [("local", "Earthdata login"), ("aws", "identity"), ("lithops", "config")]:
        one = told.get(key) or told["lithops", "package"]
        assert one.status == "missing"
        assert one.fix
    assert "EARTHDATA_TOKEN" in told["local", "Earthdata login"].fix
    assert "aws configure" in told["aws", "identity"].fix
    assert told["lambda", "function"].found == "needs an AWS identity"


def test_what_is_set_up_is_said_to_be(earthdata, aws, tmp_path):
    aws.machines.append(
        {"name": "cells", "stateMachineArn": ARN, "type": "STANDARD", "status": "ACTIVE"}
    )
    (tmp_path / ".lithops_config").write_text("lithops: {backend: aws_lambda, storage: aws_s3}")
    told = found(store="s3://mine/out.zarr")
    assert told["local", "Earthdata login"].found == f"as {earthdata.user}"
    assert "user/glaciologist, region us-west-2" in told["aws", "identity"].found
    assert told["aws", "bucket"].found == "mine, in us-west-2"
    assert (
        told["lambda", "function"].found == "process-morton-cell: python3.12, 2048 MB, 720 s, arm64"
    )
    assert told["sfn", "state machine"].found == "cells, standard"
    if ("lithops", "config") in told:
        assert "aws_lambda, storage aws_s3" in told["lithops", "config"].found
    assert {one.status for one in told.values()} == {"ok"}


def test_what_is_in_another_region_or_not_deployed_has_its_fix(earthdata, aws):
    aws.region = "eu-central-1"
    told = found(store="s3://mine/out.zarr", function_name="other")
    assert told["aws", "bucket"].fix == "use --region eu-central-1"
    assert told["lambda", "function"].status == "missing"
    assert told["lambda", "function"].fix.startswith("deploy other in us-west-2")
    assert told["sfn", "state machine"].status == "missing"


def test_a_check_changes_nothing_and_shows_no_secret(earthdata, aws, capfd, tmp_path):
    (tmp_path / ".lithops_config").write_text("aws: {secret_access_key: lithops-secret")
    assert main(["check", "--store", "s3://mine/out.zarr"]) == 0
    assert main(["check", "--json", "--store", "s3://mine/out.zarr"]) == 0
    out, err = capfd.readouterr()
    for secret in (*earthdata.secrets, "aws-secret-of-the-test", "lithops-secret"):
        assert secret not in out + err
    ways = ("POST / ", "HEAD /mine", "GET /2015-03-31/functions/process-morton-cell/configuration")
    assert all(f"{asked} ".startswith(ways) for asked in aws.asked)
    assert len(out.partition("[")[0].splitlines()) < 60


def test_the_table_names_every_finding_and_fits_on_a_screen(earthdata, aws, capsys):
    main(["check"])
    told = capsys.readouterr().out
    for word in ("Earthdata login", "identity", "bucket", "function", "state machine", "->"):
        assert word in told
    assert len(told.splitlines()) < 45

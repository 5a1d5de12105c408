"""Configurations for lithops: those of the repository, and where one is looked for."""

from __future__ import annotations

import functools
import json
import re
import sys
import types
from pathlib import Path

import pytest

from magg.errors import BackendError
from magg.executors.lithops_config import argument_limit, find_config, prepared

FOLDER = Path(__file__).parents[2] / "lithops_config"
FILES = sorted(FOLDER.glob("*.yaml"))


@pytest.fixture(autouse=True)
def at_home(lithops_home, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return lithops_home


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_lithops_takes_every_configuration_of_the_repository(path, tmp_path, monkeypatch):
    from lithops.config import default_config

    # Their clients need more packages than their configurations do.
    for package in ("serverless.backends.gcp_cloudrun", "storage.backends.gcp_storage"):
        name = f"lithops.{package}"
        bare = types.ModuleType(name)
        bare.__path__ = [str(Path(lithops_folder(), *package.split(".")))]
        monkeypatch.setitem(sys.modules, name, bare)
    key = tmp_path / "key.json"
    key.write_text("{}")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
    config = default_config(config_data=prepared(find_config(path), {}, 7))
    assert config["lithops"]["backend"] == path.stem
    section = config[path.stem]
    assert section["worker_processes" if path.stem == "localhost" else "max_workers"] == 7
    # A call is ended by lithops, which tells, before the cloud does, which does not.
    longest = section.get("runtime_timeout", 3600)
    assert config["lithops"]["execution_timeout"] < longest
    written = find_config(path)
    assert written["lithops"].keys() - config["lithops"].keys() == set()


def lithops_folder():
    import lithops

    return Path(lithops.__file__).parent


def test_there_are_three_configurations():
    assert [path.stem for path in FILES] == ["aws_lambda", "gcp_cloudrun", "localhost"]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("Dockerfile.*")), ids=lambda path: path.name)
def test_a_runtime_is_built_from_what_is_there(path):
    text = path.read_text()
    copied = re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE)
    for name in " ".join(copied).split():
        assert (FOLDER.parent / name).exists() or re.fullmatch(r"lithops_\w+\.zip", name), name
    backend = path.name.removeprefix("Dockerfile.")
    assert f"lithops_{backend.removeprefix('aws_').removeprefix('gcp_')}.zip" in text


def allowed(name):
    policy = json.loads((FOLDER / name).read_text())
    assert policy["Version"] == "2012-10-17"
    actions = [one["Action"] for one in policy["Statement"] if one["Effect"] == "Allow"]
    return {name for one in actions for name in ([one] if isinstance(one, str) else one)}


def test_the_policies_allow_what_lithops_calls():
    import lithops.serverless.backends.aws_lambda.aws_lambda as compute
    import lithops.storage.backends.aws_s3.aws_s3 as storage

    @functools.cache
    def operations(service):
        keys = dict.fromkeys(["aws_access_key_id", "aws_secret_access_key"], "none")
        client = pytest.importorskip("boto3").client(service, region_name="us-west-2", **keys)
        return client.meta.method_to_api_mapping

    needed = set()
    for module in (compute, storage):
        source = re.sub(r"^\s*#.*$", "", Path(module.__file__).read_text(), flags=re.MULTILINE)
        for service, method in re.findall(r"\b(\w+)_client\.(\w+)\(", source):
            operation = operations(service).get(method)
            if operation is not None:
                needed.add(f"{service}:{ACTIONS.get(operation, operation)}")
    assert "lambda:InvokeFunction" in needed
    assert needed - allowed("aws_policy_user.json") == set()
    assert {"s3:GetObject", "s3:PutObject", "s3:ListBucket"} <= allowed("aws_policy_role.json")


# Operations that are allowed under another name (AWS Service Authorization Reference).
ACTIONS = {
    "Invoke": "InvokeFunction",
    "HeadBucket": "ListBucket",
    "ListObjectsV2": "ListBucket",
    "HeadObject": "GetObject",
    "DeleteObjects": "DeleteObject",
}


def named(path, name):
    path.write_text(f"lithops: {{backend: {name}}}")
    return str(path)


def backend_of(config):
    return config["lithops"]["backend"]


def test_a_configuration_is_looked_for_as_documented(tmp_path, monkeypatch):
    named(tmp_path / ".lithops_config", "folder")
    assert backend_of(find_config()) == "folder"
    monkeypatch.setenv("LITHOPS_CONFIG_FILE", named(tmp_path / "file.yaml", "file"))
    assert backend_of(find_config()) == "file"
    monkeypatch.setenv("LITHOPS_CONFIG", '{"lithops": {"backend": "json"}}')
    assert backend_of(find_config()) == "json"
    monkeypatch.setenv("MAGG_LITHOPS_CONFIG", named(tmp_path / "magg.yaml", "magg"))
    assert backend_of(find_config()) == "magg"
    assert backend_of(find_config(named(tmp_path / "own.yaml", "own"))) == "own"
    given = {"lithops": {"backend": "given"}}
    assert find_config(given) == given
    assert find_config(given) is not given


def test_a_file_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("MAGG_LITHOPS_CONFIG", str(tmp_path / "gone.yaml"))
    with pytest.raises(BackendError, match=r"no lithops configuration at .*gone\.yaml"):
        find_config()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("aws:\n  secret_access_key: hush\n :", "line 3 is no YAML"),
        ("- hush", "mapping of sections"),
        ("lithops: hush", "'lithops' must hold settings"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_without_showing_it(tmp_path, text, said):
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(BackendError, match=said) as refused:
        find_config(path)
    assert "hush" not in str(refused.value)


def test_options_and_workers_win_over_the_file():
    config = {"lithops": {"backend": "aws_lambda"}, "aws_lambda": {"worker_processes": 3}}
    whole = prepared(config, {"runtime_memory": 512}, 10)
    assert whole["aws_lambda"] == {
        "worker_processes": 3,
        "runtime_memory": 512,
        "max_workers": 4,
    }
    assert config["aws_lambda"] == {"worker_processes": 3}


@pytest.mark.parametrize(
    ("said", "limit"), [(None, (4 * 2**20, False)), (2, (2 * 2**20, True)), (0, (2**62, False))]
)
def test_the_limit_of_arguments_is_that_of_lithops_unless_the_file_has_one(said, limit):
    assert argument_limit({"lithops": {"data_limit": said}}) == limit

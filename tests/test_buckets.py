"""Buckets with the credentials of their user, wherever these are kept."""

from __future__ import annotations

import sys

import obstore
import pytest

from magg import run
from magg.buckets import forget_credentials, open_bucket
from magg.errors import CredentialsError, MissingExtraError

pytest.importorskip("boto3")
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@pytest.fixture
def profile(s3_server, aws_environment, monkeypatch, tmp_path):
    """Keep the credentials in a profile, and nowhere else."""
    aws_environment()
    for name in KEYS:
        monkeypatch.delenv(name)
    file = tmp_path / "credentials"
    file.write_text(
        f"[glaciers]\naws_access_key_id = {s3_server.access_key}\n"
        f"aws_secret_access_key = {s3_server.secret_key}\n[empty]\nregion = us-west-2\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_PROFILE", "glaciers")
    forget_credentials()
    yield file
    forget_credentials()


def test_a_profile_is_as_good_as_the_environment(profile, s3_bucket):
    bucket = open_bucket(s3_bucket.name, "folder", "us-west-2")
    obstore.put(bucket, "key", b"ice")
    assert s3_bucket.get("folder/key") == b"ice"


def test_the_default_profile_needs_no_name(profile, s3_bucket, monkeypatch):
    monkeypatch.delenv("AWS_PROFILE")
    profile.write_text(profile.read_text().replace("[glaciers]", "[default]"))
    obstore.put(open_bucket(s3_bucket.name), "key", b"ice")
    assert s3_bucket.get("key") == b"ice"


def test_keys_of_the_environment_come_before_a_profile(profile, s3_server, s3_bucket, monkeypatch):
    profile.write_text("[glaciers]\naws_access_key_id = AKIAOTHER\naws_secret_access_key = x\n")
    monkeypatch.setenv(KEYS[0], s3_server.access_key)
    monkeypatch.setenv(KEYS[1], s3_server.secret_key)
    obstore.put(open_bucket(s3_bucket.name), "key", b"ice")
    assert s3_bucket.keys() == ["key"]


def test_keys_that_were_replaced_are_read_again_when_told_to(profile, s3_bucket):
    right = profile.read_text()
    profile.write_text(right.replace("aws_secret_access_key = ", "aws_secret_access_key = no"))
    with pytest.raises(obstore.exceptions.BaseError):
        obstore.put(open_bucket(s3_bucket.name), "key", b"ice")
    profile.write_text(right)
    forget_credentials()
    obstore.put(open_bucket(s3_bucket.name), "key", b"ice")


@pytest.mark.parametrize("name", ["nobody", "empty"])
def test_a_profile_that_gives_nothing_is_named(profile, monkeypatch, name):
    monkeypatch.setenv("AWS_PROFILE", name)
    with pytest.raises(CredentialsError, match=f"'{name}'.*aws sso login"):
        open_bucket("any")


def test_a_profile_needs_boto3(profile, monkeypatch):
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(MissingExtraError, match=r"magg-healpix\[aws\]"):
        open_bucket("any")


def test_boto3_is_not_imported_without_a_profile(aws_environment, s3_bucket, monkeypatch):
    aws_environment()
    monkeypatch.setitem(sys.modules, "boto3", None)
    obstore.put(open_bucket(s3_bucket.name), "key", b"ice")


def test_a_run_writes_with_a_profile(config, catalog, profile, s3_bucket):
    summary = run(config, catalog=catalog, store=s3_bucket.url("s.zarr"), max_cells=1)
    assert summary["cells_error"] == 0
    assert s3_bucket.keys("s.zarr/.magg/cells")

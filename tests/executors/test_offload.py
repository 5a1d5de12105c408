"""Payloads in a bucket: put there, fetched and deleted, and nothing else touched."""

from __future__ import annotations

import re

import pytest

from magg.errors import PayloadError
from magg.executors import offload

HEX = "0123456789abcdef" * 2
NAMED = f".magg/payloads/{HEX}.json"


@pytest.fixture
def bucket(s3_bucket, aws_environment):
    aws_environment()
    return s3_bucket


def reference(url, **more):
    return {"reference": {"url": url, "region": "us-west-2"} | more}


@pytest.mark.parametrize("prefix", ["", "out.zarr", "deep/er/out.zarr", "what?is#this/out.zarr"])
def test_what_is_put_is_fetched_until_it_is_deleted(bucket, prefix):
    url = offload.put(f"s3://{bucket.name}/{prefix}", b'{"a": [1, 2]}', "us-west-2")
    assert re.fullmatch(r"s3://.*/\.magg/payloads/[0-9a-f]{32}\.json", url)
    assert [bucket.url(key) for key in bucket.keys(None)] == [url]
    for _ in range(2):
        assert offload.fetched(reference(url)) == {"a": [1, 2]}
    offload.delete(url, "us-west-2")
    assert bucket.keys() == []


def test_what_is_wanted_once_is_deleted_when_it_is_fetched(bucket):
    url = offload.put(bucket.url("p"), b"[1]", "us-west-2")
    assert offload.fetched(reference(url, once=True)) == [1]
    assert bucket.keys() == []


def test_deleting_what_is_gone_is_no_error(bucket):
    url = offload.put(bucket.url("p"), b"[1]", "us-west-2")
    offload.delete(url, "us-west-2")
    offload.delete(url, "us-west-2")


def test_a_leftover_that_cannot_be_deleted_is_no_error(bucket):
    url = offload.put(bucket.url("p"), b"[1]", "us-west-2")
    offload.delete(url.replace(bucket.name, "no-such-bucket"), "us-west-2")
    assert offload.fetched(reference(url)) == [1]


def test_fetching_what_is_gone_is_an_error(bucket):
    with pytest.raises(FileNotFoundError):
        offload.fetched(reference(bucket.url(NAMED)))


def test_every_payload_has_a_name_of_its_own(bucket):
    urls = {offload.put(bucket.url("p"), b"1", "us-west-2") for _ in range(5)}
    assert len(urls) == 5


def test_without_a_region_the_environment_decides(bucket):
    url = offload.put(bucket.url("p"), b"[1]", None)
    assert offload.fetched({"reference": {"url": url}}) == [1]


@pytest.mark.parametrize(
    "document", [None, 7, "reference", [], {}, {"reference": None}, {"reference": "s3://b/x"}]
)
def test_what_names_nothing_is_itself(document):
    assert offload.fetched(document) is document


FOREIGN = [
    "",
    "None",
    f"https://bucket.s3.amazonaws.com/{NAMED}",
    f"file:///etc/{NAMED}",
    f"/etc/{NAMED}",
    f"s3:///{NAMED}",
    "s3://{bucket}/zarr.json",
    "s3://{bucket}/.magg/cells/0/1.data.json",
    f"s3://{{bucket}}/.magg/payloads/{HEX}",
    f"s3://{{bucket}}/.magg/payloads/{HEX[:-1]}.json",
    f"s3://{{bucket}}/.magg/payloads/{HEX.upper()}.json",
    f"s3://{{bucket}}/.magg/payloads/x/{HEX}.json",
    f"s3://{{bucket}}/x.magg/payloads/{HEX}.json",
    f"s3://{{bucket}}/{NAMED}/zarr.json",
    f"s3://{{bucket}}/{NAMED}\n",
    f"s3://{{bucket}}/{NAMED}?versionId=1",
    f"s3://{{bucket}}/../{{bucket}}/{NAMED}",
    f"s3://{{bucket}}/a/../{NAMED}",
    f"s3://{{bucket}}/../../{NAMED}",
]


@pytest.mark.parametrize("url", FOREIGN)
def test_nothing_but_a_payload_is_ever_read_or_deleted(bucket, url):
    bucket.put("zarr.json", b"{}")
    bucket.put(NAMED, b"{}")
    url = url.replace("{bucket}", bucket.name)
    for touch in (
        lambda: offload.fetched(reference(url, once=True)),
        lambda: offload.delete(url, "us-west-2"),
    ):
        with pytest.raises(PayloadError, match="nothing else is read or written") as caught:
            touch()
        assert not url or url not in str(caught.value)  # it may be signed
    assert bucket.keys() == sorted(["zarr.json", NAMED])


@pytest.mark.parametrize("mark", ["?", "#"])
def test_a_key_that_ends_like_a_payload_behind_a_question_mark_is_not_cut(bucket, mark):
    """A parser of URLs would see the object zarr.json, and a query or fragment."""
    bucket.put("zarr.json", b"{}")
    url = f"s3://{bucket.name}/zarr.json{mark}/{NAMED}"
    with pytest.raises(FileNotFoundError):
        offload.fetched(reference(url, once=True))
    offload.delete(url, "us-west-2")
    assert bucket.keys() == ["zarr.json"]


@pytest.mark.parametrize("prefix", ["/tmp/out.zarr", "out.zarr", "https://h/x", "s3://b/../c", ""])  # noqa: S108
def test_payloads_are_put_nowhere_but_into_a_bucket(prefix):
    with pytest.raises(PayloadError, match="s3://bucket/prefix"):
        offload.put(prefix, b"[1]", "us-west-2")

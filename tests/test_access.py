"""Where this machine is, and which granules are Earthdata's to give."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from magg import Catalog
from magg.access import SIGNS_OF_AWS, aws_region, reach_of
from magg.catalog import GranuleInfo
from magg.errors import CatalogError

CELL = "-6134114"
NOTED = {"nasa": {"endpoint": "https://data.nsidc.earthdatacloud.nasa.gov/s3credentials"}}


class Metadata(BaseHTTPRequestHandler):
    """The metadata service of a cloud machine, version 2: nothing without a session token."""

    def log_message(self, *_):
        """Stay silent."""

    def do_PUT(self):
        self.reply(200, "session")

    def do_GET(self):
        known = self.headers.get("X-aws-ec2-metadata-token") == "session"
        asked = self.path == "/latest/meta-data/placement/region"
        self.reply(200 if known and asked else 401, "us-west-2" if known and asked else "no")

    def reply(self, status, text):
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


@pytest.fixture
def elsewhere(monkeypatch):
    for name in (*SIGNS_OF_AWS, "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_EC2_METADATA_DISABLED"):
        monkeypatch.delenv(name, raising=False)


def test_the_metadata_service_tells_where_a_cloud_machine_is(elsewhere, monkeypatch):
    with ThreadingHTTPServer(("127.0.0.1", 0), Metadata) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        monkeypatch.setattr("magg.access.METADATA", f"127.0.0.1:{server.server_port}")
        monkeypatch.setattr("magg.access.METADATA_TIMEOUT_S", 120.0)
        assert aws_region() == "us-west-2"
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        assert aws_region() is None
        server.shutdown()
        thread.join()


def test_where_no_metadata_service_is_this_is_not_aws(elsewhere):
    assert aws_region() is None  # the address is blocked in tests


def test_a_region_that_is_only_a_preference_does_not_count(elsewhere, monkeypatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-2")
    assert aws_region() is None
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/token")
    assert aws_region() == "us-west-2"


@pytest.mark.parametrize("granule", ["/data/a.h5", "s3://mine/a.h5", "https://mine.test/a.h5"])
def test_granules_that_are_not_earthdatas_need_nothing(granule):
    for metadata in ({}, {"s3_credentials": NOTED}, {"s3_credentials": "nonsense"}):
        assert reach_of(Catalog(6, {CELL: (granule,)}, metadata), [CELL], "auto") is None


@pytest.mark.parametrize(("access", "first"), [("direct", "s3://nasa/a.h5"), ("external", "https")])
def test_only_earthdatas_granules_change_their_link(access, first):
    link = "https://data.nsidc.earthdatacloud.nasa.gov/nasa/a.h5"
    names = ("s3://nasa/a.h5", "s3://mine/a.h5", "/data/a.h5")
    info = {"s3://nasa/a.h5": GranuleInfo(link), "s3://mine/a.h5": GranuleInfo(link)}
    catalog = Catalog(6, {CELL: names}, {"s3_credentials": NOTED}, info)
    reach = reach_of(catalog, [CELL], access)
    urls = [reach._url(granule) for granule in names]
    assert urls[0].startswith(first)
    assert urls[1:] == ["s3://mine/a.h5", "/data/a.h5"]


def test_a_granule_without_the_needed_link_says_what_to_do():
    catalog = Catalog(6, {CELL: ("s3://nasa/a.h5",)}, {"s3_credentials": NOTED})
    with pytest.raises(CatalogError, match=r"s3://nasa/a\.h5.*no HTTPS link.*magg catalog cmr"):
        reach_of(catalog, [CELL], "external").ready([CELL])

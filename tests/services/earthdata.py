"""Earthdata on loopback: NASA's hosts by their own names, over TLS, behind a proxy of the tests.

Programs are sent there by the environment alone (`FakeEarthdata.environment`): ``HTTPS_PROXY``
names the server, and its certificate authority, made for the test, is the only one trusted. So
nothing is patched, worker processes included, and a request to any other host fails and is noted.

Answers have the shapes that the services document: CMR's search (paging by ``CMR-Search-After``,
errors as ``{"errors": [...]}``), Earthdata Login's tokens, the S3-credentials endpoint and data
host of a DAAC (redirects to signed URLs), and reading from S3 with temporary credentials.
"""

from __future__ import annotations

import base64
import itertools
import json
import re
import secrets
import ssl
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest

LOGIN, CMR = "urs.earthdata.nasa.gov", "cmr.earthdata.nasa.gov"
DATA, S3, SIGNED = (
    "data.nsidc.earthdatacloud.nasa.gov",
    "s3.us-west-2.amazonaws.com",
    "d111111abcdef8.cloudfront.net",
)
HOSTS = (LOGIN, CMR, DATA, S3, SIGNED)
METADATA = "169.254.169.254"
BUCKET = "nsidc-cumulus-prod-protected"
COLLECTION = "C2670138092-NSIDC_CPRD"
HANG_UP = -1
PARAMETERS = {"concept_id[]", "temporal[]", "bounding_box", "page_size"}


@dataclass
class Answer:
    """What to answer in place of the real thing; status 0 only waits, `HANG_UP` answers nothing."""

    status: int
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    after_s: float = 0.0


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    host: str
    path: str
    query: list[tuple[str, str]]
    headers: dict[str, str]


class FakeEarthdata:
    """The services; use as a context manager.

    Attributes
    ----------
    granules : list of dict
        What CMR knows, as UMM-G records.
    files : dict of str to Path
        Keys of the bucket to the files behind them.
    lifetime_s : float
        Of S3 credentials.
    asked : list of Asked
        All requests, in order.
    strangers : list of str
        Hosts that are not Earthdata's, and were asked for.
    """

    def __init__(self, folder: Path, user: str = "glaciologist", password: str = "") -> None:
        self.folder, self.user = folder, user
        self.password = password or secrets.token_hex(8)
        self.token = "edl" + secrets.token_hex(20)
        self.granules: list[dict[str, Any]] = []
        self.collections = [umm_collection()]
        self.files: dict[str, Path] = {}
        self.lifetime_s = 3600.0
        self.issued: dict[str, tuple[str, str, float]] = {}
        self.refused_keys: set[str] = set()
        self.signatures: set[str] = set()
        self.asked: list[Asked] = []
        self.strangers: list[str] = []
        self._instead: dict[str, deque[Answer]] = defaultdict(deque)
        self._server = ThreadingHTTPServer(
            ("127.0.0.1", 0), type("Bound", (_Handler,), {"fake": self})
        )
        self._server.daemon_threads = True
        self.ca = folder / "ca.pem"
        self.tls = _authority(self.ca, folder / "leaf.pem")

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def environment(self, *, login: bool = True) -> dict[str, str]:
        """Return what sends programs here, and lets them log in."""
        proxy = f"http://127.0.0.1:{self._server.server_port}"
        names = dict.fromkeys(["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"], proxy)
        names |= dict.fromkeys(["NO_PROXY", "no_proxy"], "127.0.0.1,localhost")
        names |= dict.fromkeys(["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"], str(self.ca))
        names |= {"NETRC": str(self.folder / "netrc"), "HOME": str(self.folder)}
        if login:
            names |= {"EARTHDATA_USERNAME": self.user, "EARTHDATA_PASSWORD": self.password}
        return names

    def instead(self, host: str, *answers: Answer) -> None:
        """Answer the next requests to a host like this."""
        self._instead[host].extend(answers)

    def next_instead(self, host: str) -> Answer | None:
        return self._instead[host].popleft() if self._instead[host] else None

    def requests_to(self, host: str, path: str = "") -> list[Asked]:
        """Return the requests to a host whose path begins like this."""
        return [one for one in self.asked if one.host == host and one.path.startswith(path)]

    @property
    def secrets(self) -> set[str]:
        """Everything that nobody but the services may see."""
        issued = {text for key, (a, b, _) in self.issued.items() for text in (key, a, b)}
        return issued | {self.password, self.token} | self.signatures

    def serve(self, path: Path, **about: Any) -> None:
        """Serve a file as a granule that CMR knows."""
        key = f"ATLAS/ATL06/007/{path.name}"
        self.files[key] = path
        self.granules.append(umm_granule(path.name, **about))

    def issue(self) -> dict[str, str]:
        """Return new S3 credentials, as the endpoint of a DAAC does."""
        key, secret, session = (
            "ASIA" + secrets.token_hex(8).upper(),
            *map(secrets.token_hex, (20, 60)),
        )
        expires = time.time() + self.lifetime_s
        self.issued[key] = secret, session, expires
        moment = datetime.fromtimestamp(expires, UTC).replace(microsecond=0)
        return {
            "accessKeyId": key,
            "secretAccessKey": secret,
            "sessionToken": session,
            "expiration": moment.isoformat(sep=" "),
        }


def umm_collection(
    version: str = "007", concept: str = COLLECTION, **spatial: Any
) -> dict[str, Any]:
    """Return a UMM-C record of ATL06."""
    return {
        "meta": {"concept-id": concept, "provider-id": "NSIDC_CPRD"},
        "umm": {
            "ShortName": "ATL06",
            "Version": version,
            "SpatialExtent": {"GranuleSpatialRepresentation": "GEODETIC", **spatial},
            "DirectDistributionInformation": {
                "Region": "us-west-2",
                "S3BucketAndObjectPrefixNames": [f"{BUCKET}/ATLAS/ATL06/{version}"],
                "S3CredentialsAPIEndpoint": f"https://{DATA}/s3credentials",
                "S3CredentialsAPIDocumentationURL": f"https://{DATA}/s3credentialsREADME",
            },
        },
    }


def umm_granule(
    name: str,
    extent: dict[str, Any] | None = None,
    start: str = "2019-04-16T09:39:11.123Z",
    end: str = "2019-04-16T09:44:40.456Z",
    **more: Any,
) -> dict[str, Any]:
    """Return a UMM-G record."""
    key = f"ATLAS/ATL06/007/{name}"
    links = [
        ("GET DATA", f"https://{DATA}/{BUCKET}/{key}"),
        ("GET DATA VIA DIRECT ACCESS", f"s3://{BUCKET}/{key}"),
        ("EXTENDED METADATA", f"https://{DATA}/{BUCKET}/{key}.dmrpp"),
        ("VIEW RELATED INFORMATION", f"https://{DATA}/s3credentials"),
    ]
    umm = {
        "GranuleUR": name,
        "TemporalExtent": {"RangeDateTime": {"BeginningDateTime": start, "EndingDateTime": end}},
        "RelatedUrls": [{"Type": kind, "URL": url} for kind, url in links],
        "CollectionReference": {"ShortName": "ATL06", "Version": "007"},
        "DataGranule": {"DayNightFlag": "Unspecified", "ProductionDateTime": end},
    }
    if extent is not None:
        umm["SpatialExtent"] = extent
    meta = {"concept-id": f"G{abs(hash(name)) % 10**10}-NSIDC_CPRD", "provider-id": "NSIDC_CPRD"}
    return {"meta": {**meta, "collection-concept-id": COLLECTION}, "umm": umm | more}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: FakeEarthdata
    tunnel = ""

    def log_message(self, *_: Any) -> None:
        """Stay silent."""

    def do_CONNECT(self) -> None:
        host = self.path.partition(":")[0]
        if host not in HOSTS:
            self.fake.strangers.append(host)
            self.send_error(502, "no such host in these tests")
            return
        self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        self.tunnel = host
        try:
            self.connection = self.fake.tls.wrap_socket(self.connection, server_side=True)
        except (ssl.SSLError, OSError):
            self.close_connection = True
            return
        self.rfile = self.connection.makefile("rb")
        self.wfile = self.connection.makefile("wb", buffering=0)
        self.close_connection = False

    def finish(self) -> None:
        try:
            super().finish()
        finally:
            self.connection.close()

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        host = self.tunnel or parts.netloc.partition(":")[0]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        del body
        query = parse_qsl(parts.query, keep_blank_values=True)
        headers = {name.lower(): value for name, value in self.headers.items()}
        asked = Asked(self.command, host, unquote(parts.path), query, headers)
        self.fake.asked.append(asked)
        if not self.tunnel:  # in the clear: the metadata address of cloud machines, most likely
            self.fake.strangers.append(host)
            self.reply(403, "not from here")
            return
        answer = self.fake.next_instead(host)
        if answer is not None:
            time.sleep(answer.after_s)
            if answer.status == HANG_UP:
                self.close_connection = True
                return
            if answer.status:
                self.reply(answer.status, answer.body, **answer.headers)
                return
        {LOGIN: _login, CMR: _cmr, DATA: _data, S3: _s3, SIGNED: _signed}[host](self, asked)

    do_HEAD = do_PUT = do_POST = do_GET  # noqa: N815 - names that the base class looks for

    def reply(self, status: int, body: str | bytes = b"", **headers: str) -> None:
        data = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def reply_json(self, status: int, data: Any, **headers: str) -> None:
        self.reply(status, json.dumps(data), Content_Type="application/json", **headers)

    def reply_file(self, path: Path | None, asked: Asked) -> None:
        """Answer as S3 does, by ranges."""
        if path is None:
            self.reply(404, "<Error><Code>NoSuchKey</Code></Error>")
            return
        content, status, headers = path.read_bytes(), 200, {}
        if found := re.fullmatch(r"bytes=(\d+)-(\d+)", asked.headers.get("range", "")):
            first, last = int(found[1]), min(int(found[2]), len(content) - 1)
            headers["Content_Range"] = f"bytes {first}-{last}/{len(content)}"
            content, status = content[first : last + 1], 206
        moment = "Tue, 16 Apr 2019 09:39:11 GMT"
        self.reply(status, content, ETag='"abc"', Last_Modified=moment, **headers)


def _login(handler: _Handler, asked: Asked) -> None:
    fake = handler.fake
    if asked.path == "/api/users/find_or_create_token":
        given = asked.headers.get("authorization", "")
        basic = base64.b64encode(f"{fake.user}:{fake.password}".encode()).decode()
        if given not in (f"Basic {basic}", f"Bearer {fake.token}"):
            error = {
                "error": "invalid_credentials",
                "error_description": "Invalid user credentials",
            }
            handler.reply_json(401, error, WWW_Authenticate='Basic realm="EDL"')
            return
        token = {"token_type": "Bearer", "expiration_date": "12/31/2030"}
        handler.reply_json(200, {"access_token": fake.token, **token})
    else:
        handler.reply(200, "<!DOCTYPE html><html>Earthdata Login</html>", Content_Type="text/html")


def _cmr(handler: _Handler, asked: Asked) -> None:
    query = dict(asked.query)
    if asked.path == "/search/collections.umm_json":
        known = [
            one
            for one in handler.fake.collections
            if one["umm"]["ShortName"] == query.get("short_name")
        ]
        _page(handler, asked, known)
        return
    if unknown := {name for name, _ in asked.query} - PARAMETERS:
        errors = [f"Parameter [{name}] was not recognized." for name in sorted(unknown)]
        handler.reply_json(400, {"errors": errors})
        return
    found = [
        one
        for one in handler.fake.granules
        if one["meta"]["collection-concept-id"] == query["concept_id[]"]
    ]
    if "temporal[]" in query:
        first, last = query["temporal[]"].split(",")[:2]
        found = [one for one in found if _measured(one, first, last)]
    if "bounding_box" in query:
        box = [float(edge) for edge in query["bounding_box"].split(",")]
        found = [one for one in found if _near(one, *box)]
    _page(handler, asked, found)


def _page(handler: _Handler, asked: Asked, found: list[dict[str, Any]]) -> None:
    size = int(dict(asked.query).get("page_size", 10))
    if size > 2000:
        handler.reply_json(400, {"errors": ["page_size must be a number between 0 and 2000"]})
        return
    first = json.loads(asked.headers.get("cmr-search-after", "[0]"))[0]
    page = found[first : first + size]
    headers = {"CMR_Hits": str(len(found)), "CMR_Took": "7"}
    if page:
        headers["CMR_Search_After"] = json.dumps([first + len(page), "atl06", 1])
    handler.reply_json(200, {"hits": len(found), "took": 7, "items": page}, **headers)


def _measured(record: dict[str, Any], first: str, last: str) -> bool:
    span = record["umm"]["TemporalExtent"]["RangeDateTime"]
    return (not last or span["BeginningDateTime"] <= last) and span["EndingDateTime"] >= first


def _near(record: dict[str, Any], west: float, south: float, east: float, north: float) -> bool:
    """Tell whether a footprint enters a box; granules without one are always near."""
    text = json.dumps(record["umm"].get("SpatialExtent", {}))
    found = re.findall(r'"Longitude": ([-\d.e]+), "Latitude": ([-\d.e]+)', text)
    points = [(float(lon), float(lat)) for lon, lat in found]
    width = (east - west) % 360.0 or 360.0
    for (lon1, lat1), (lon2, lat2) in itertools.pairwise(points):
        turn = (lon2 - lon1 + 180.0) % 360.0 - 180.0
        for part in range(21):
            lon, lat = lon1 + part / 20 * turn, lat1 + part / 20 * (lat2 - lat1)
            if south <= lat <= north and (lon - west) % 360.0 <= width:
                return True
    return not points


def _data(handler: _Handler, asked: Asked) -> None:
    """Answer as the data host of a DAAC does: it hands out credentials and signed URLs."""
    fake = handler.fake
    if asked.headers.get("authorization") != f"Bearer {fake.token}":
        if asked.path == "/s3credentials":
            handler.reply(401, "HTTP Status 401: bad credentials")
        else:
            handler.reply(302, Location=f"https://{LOGIN}/oauth/authorize?client_id=tea&state=x")
    elif asked.path == "/s3credentials":
        handler.reply_json(200, fake.issue())
    else:
        signature = secrets.token_hex(24)
        fake.signatures.add(signature)
        expires = int(time.time()) + 3600
        where = f"https://{SIGNED}/s3-0a1b2c{asked.path}"
        signed = f"{where}?A-userid={fake.user}&Expires={expires}&Signature={signature}"
        handler.reply(303, Location=signed)


def _signed(handler: _Handler, asked: Asked) -> None:
    if "authorization" in asked.headers:
        error = "<Error><Code>InvalidArgument</Code><Message>Only one auth mechanism allowed"
        handler.reply(400, error + "</Message></Error>")
    elif dict(asked.query).get("Signature") not in handler.fake.signatures:
        handler.reply(403, "<Error><Code>AccessDenied</Code></Error>")
    else:
        key = asked.path.partition(f"/{BUCKET}/")[2]
        handler.reply_file(handler.fake.files.get(key), asked)


def _s3(handler: _Handler, asked: Asked) -> None:
    """Answer as S3 does to temporary credentials; the signature itself is not computed."""
    fake = handler.fake
    found = re.search(r"Credential=(\w+)/", asked.headers.get("authorization", ""))
    key = found[1] if found else ""
    _, session, expires = fake.issued.get(key, ("", "", 0.0))
    code = ""
    if not session or session != asked.headers.get("x-amz-security-token"):
        code, status = "InvalidAccessKeyId", 403
    elif key in fake.refused_keys:
        code, status = "AccessDenied", 403
    elif time.time() > expires:
        code, status = "ExpiredToken", 400
    if code:
        # S3 repeats what it was given.
        echo = f"<AWSAccessKeyId>{key}</AWSAccessKeyId><Token-0>{session}</Token-0>"
        error = f"<Error><Code>{code}</Code><Message>no</Message>{echo}</Error>"
        handler.reply(status, f'<?xml version="1.0" encoding="UTF-8"?>\n{error}')
        return
    bucket, _, name = asked.path.lstrip("/").partition("/")
    handler.reply_file(fake.files.get(name) if bucket == BUCKET else None, asked)


def _authority(ca: Path, leaf: Path) -> ssl.SSLContext:
    """Make a certificate authority and a certificate for all hosts; return the server's side."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    now = datetime.now(UTC)
    root, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    blank = (
        x509.CertificateBuilder()
        .issuer_name(name("tests of magg"))
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
    )
    # Python 3.13 insists on what RFC 5280 demands of certificates.
    usage = x509.BasicConstraints(ca=True, path_length=None)
    may = dict.fromkeys(
        ["digital_signature", "content_commitment", "key_encipherment", "data_encipherment"], False
    )
    may |= {"key_agreement": False, "encipher_only": False, "decipher_only": False}
    signs = x509.KeyUsage(**may, key_cert_sign=True, crl_sign=True)
    authority = (
        blank.subject_name(name("tests of magg"))
        .public_key(root.public_key())
        .serial_number(x509.random_serial_number())
        .add_extension(usage, critical=True)
        .add_extension(signs, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(root.public_key()), critical=False)
        .sign(root, hashes.SHA256())
    )
    hosts = x509.SubjectAlternativeName([x509.DNSName(host) for host in HOSTS])
    certificate = (
        blank.subject_name(name("earthdata"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .add_extension(hosts, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(root.public_key()), critical=False
        )
        .sign(root, hashes.SHA256())
    )
    ca.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    leaf.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(leaf)
    return context


def forget_login() -> None:
    """Make earthaccess forget who is logged in: it keeps that for the life of a process."""
    import earthaccess

    earthaccess._auth = earthaccess.__auth__ = earthaccess.Auth()


@pytest.fixture
def earthdata(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeEarthdata]:
    """Send this process, and those that it starts, to Earthdata on loopback."""
    pytest.importorskip("earthaccess")
    for name in ("EARTHDATA_TOKEN", "EARTHDATA_USERNAME", "EARTHDATA_PASSWORD", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("magg.credentials.PAUSE_S", 0.01)
    monkeypatch.setattr("magg.catalog.cmr.PAUSE_S", 0.01)
    monkeypatch.setattr("magg.granules.remote._access", _no_access())
    with FakeEarthdata(tmp_path_factory.mktemp("earthdata")) as fake:
        for name, value in fake.environment().items():
            monkeypatch.setenv(name, value)
        forget_login()
        yield fake
    forget_login()
    _forget_sources()


def _no_access() -> Any:
    from magg.credentials import Access

    return Access()


def _forget_sources() -> None:
    from magg.granules import forget_sources

    forget_sources()

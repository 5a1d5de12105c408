"""Logging in to Earthdata, and credentials that are replaced before they expire."""

from __future__ import annotations

import io
import time

import pytest
from services.earthdata import DATA, LOGIN, Answer

from magg import credentials
from magg.credentials import Earthdata, is_earthdata, login, redact
from magg.errors import CredentialsError, EarthdataError

ENDPOINT = f"https://{DATA}/s3credentials"


@pytest.fixture
def clock(monkeypatch):
    """Return a clock that the test sets."""
    moment = [time.time()]
    monkeypatch.setattr(credentials.time, "time", lambda: moment[0])
    return moment


def test_the_environment_comes_before_netrc(earthdata):
    (earthdata.folder / "netrc").write_text(f"machine {LOGIN} login other password wrong")
    assert login().username == earthdata.user


def test_netrc_is_used_where_the_environment_is_silent(earthdata, monkeypatch):
    monkeypatch.delenv("EARTHDATA_PASSWORD")
    netrc = earthdata.folder / "netrc"
    netrc.write_text(f"machine {LOGIN} login {earthdata.user} password {earthdata.password}")
    assert login().token["access_token"] == earthdata.token


def test_a_token_alone_needs_no_request(earthdata, monkeypatch):
    monkeypatch.setenv("EARTHDATA_TOKEN", earthdata.token)
    assert Earthdata().token().secret.reveal() == earthdata.token
    assert not earthdata.asked


def test_a_login_that_was_made_before_is_kept(earthdata):
    first = login()
    asked = len(earthdata.asked)
    assert login() is first
    assert len(earthdata.asked) == asked


def test_where_nobody_can_type_the_error_says_what_to_set(earthdata, monkeypatch):
    monkeypatch.delenv("EARTHDATA_USERNAME")
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(CredentialsError, match=r"EARTHDATA_TOKEN.*~/\.netrc"):
        login()


def test_in_a_terminal_the_user_is_asked(earthdata, monkeypatch):
    monkeypatch.delenv("EARTHDATA_USERNAME")
    monkeypatch.setattr(credentials, "can_ask", lambda: True)
    monkeypatch.setattr("builtins.input", lambda _: earthdata.user)
    monkeypatch.setattr("getpass.getpass", lambda prompt: earthdata.password)
    assert login().authenticated


def test_a_terminal_that_closes_is_the_same_as_none(earthdata, monkeypatch):
    monkeypatch.delenv("EARTHDATA_USERNAME")
    monkeypatch.setattr(credentials, "can_ask", lambda: True)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(CredentialsError, match="there is no Earthdata login"):
        login()


def test_a_wrong_password_is_said_to_be_wrong(earthdata, monkeypatch):
    monkeypatch.setenv("EARTHDATA_PASSWORD", "not the password")
    with pytest.raises(CredentialsError, match="refuses the user name or password") as caught:
        login()
    assert "not the password" not in str(caught.value)


def test_a_login_service_that_is_down_may_come_back(earthdata):
    earthdata.instead(LOGIN, *[Answer(200, "<html>maintenance</html>")] * 2)
    with pytest.raises(EarthdataError, match="Earthdata Login does not answer as it should"):
        login()
    assert login().authenticated


def test_the_metadata_address_is_never_told_the_token(earthdata):
    login()
    assert not earthdata.strangers


def test_s3_credentials_are_kept_while_they_last(earthdata, clock):
    mine = Earthdata()
    first = mine.s3(ENDPOINT)
    clock[0] += 3600 - 901
    assert mine.s3(ENDPOINT) == first
    clock[0] += 2
    second = mine.s3(ENDPOINT)
    assert second != first
    assert second.expires - clock[0] > 3590 - 2700
    assert len(earthdata.issued) == 2


def test_credentials_last_a_quarter_of_an_hour_at_any_time_of_a_long_run(earthdata, clock):
    earthdata.issue = _issue_by(earthdata, clock)
    mine = Earthdata()
    for _ in range(10 * 60):  # ten hours, a task a minute
        assert mine.s3(ENDPOINT).expires - clock[0] >= 900
        clock[0] += 60
    assert 10 <= len(earthdata.issued) <= 14


def _issue_by(fake, clock):
    issue = fake.issue

    def at_that_time():
        from datetime import UTC, datetime

        answer = issue()
        moment = datetime.fromtimestamp(clock[0] + 3600, UTC).replace(microsecond=0)
        return answer | {"expiration": moment.isoformat(sep=" ")}

    return at_that_time


def test_a_renewal_that_fails_leaves_what_still_lasts(earthdata, clock, caplog):
    mine = Earthdata()
    first = mine.s3(ENDPOINT)
    earthdata.instead(DATA, *[Answer(503, "busy")] * 3)
    clock[0] += 3000
    assert mine.s3(ENDPOINT) == first
    assert "could not be renewed yet" in caplog.text
    clock[0] += 61
    assert mine.s3(ENDPOINT) != first


def test_refused_credentials_are_replaced_at_once(earthdata):
    mine = Earthdata()
    first = mine.s3(ENDPOINT)
    assert not first.renewed
    second = mine.s3(ENDPOINT, refused=first)
    assert second.renewed
    assert mine.s3(ENDPOINT, refused=first) == second  # another cell with the old ones


def test_a_busy_endpoint_is_asked_again(earthdata):
    earthdata.instead(DATA, Answer(503, "busy"), Answer(503, "busy"))
    assert Earthdata().s3(ENDPOINT).key.reveal() in earthdata.issued


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(403, "You must accept the EULA"), "You must accept the EULA"),
        (Answer(200, "{}"), "the answer was empty"),
        (Answer(200, '{"message": "no"}'), "gave no S3 credentials"),
    ],
)
def test_an_empty_answer_says_why(earthdata, answer, words):
    earthdata.instead(DATA, *[answer] * 3)
    with pytest.raises(CredentialsError, match=words):
        Earthdata().s3(ENDPOINT)


def test_an_answer_that_is_no_json_is_an_error_of_earthdata(earthdata):
    earthdata.instead(DATA, Answer(200, "<html>login</html>"))
    with pytest.raises(EarthdataError, match="does not answer as it should"):
        Earthdata().s3(ENDPOINT)


@pytest.mark.parametrize(
    ("host", "is_one"),
    [
        ("urs.earthdata.nasa.gov", True),
        ("data.nsidc.earthdatacloud.nasa.gov:443", True),
        ("earthdata.nasa.gov.evil.test", False),
        ("notearthdata.nasa.gov", False),
        ("d1.cloudfront.net", False),
    ],
)
def test_hosts_of_earthdata_are_known_by_their_domain(host, is_one):
    assert is_earthdata(host) == is_one


def test_signed_urls_and_bearer_tokens_are_cut_out_of_texts():
    text = (
        "GET https://a.test/b?A-userid=me&Signature=abc failed, Authorization: Bearer abcdefgh123"
    )
    assert redact(text) == "GET https://a.test/b?<secret> failed, Authorization: Bearer <secret>"
    assert redact("https://a.test/b?page=2 said no") == "https://a.test/b?page=2 said no"

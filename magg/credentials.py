"""Earthdata Login: who is asked, how its credentials stay fresh, and how they stay secret.

The client logs in and holds an `Earthdata`. What a task needs of it travels as an `Access`, which
is made anew for every task, so that a run may outlast any credential. AWS credentials of the user
are no business of this module: boto3 and obstore find them by themselves.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from magg.errors import CredentialsError, EarthdataError, require_extra

log = logging.getLogger(__name__)

# The bearer token goes to these hosts and their subdomains, over HTTPS, and to no other.
EARTHDATA_DOMAINS = ("earthdata.nasa.gov", "earthdatacloud.nasa.gov", "asf.alaska.edu")
DEFAULT_REGION = "us-west-2"
# S3 credentials are replaced when so little of their hour is left: the longest a call may take.
MARGIN_S = 900.0
LIFETIME_S = 3600.0
ATTEMPTS, PAUSE_S = 3, 1.0
HIDDEN = "<secret>"
SHORTEST = 6  # characters of what `redact` looks for

_secrets: set[str] = set()
_SIGNED = re.compile(
    r"\?[^\s\"'<>)]*(signature|x-amz-|a-userid|token|code=|policy=)[^\s\"'<>)]*", re.IGNORECASE
)
_BEARER = re.compile(r"(bearer|basic)\s+[\w.~+/=-]{8,}", re.IGNORECASE)


@dataclass(frozen=True)
class Secret:
    """Text that shows itself to those alone who ask for it with `reveal`."""

    value: str = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.value) >= SHORTEST:
            _secrets.add(self.value)

    def __repr__(self) -> str:
        return HIDDEN

    def reveal(self) -> str:
        """Return the text."""
        return self.value


@dataclass(frozen=True)
class S3Credentials:
    """Temporary credentials of one DAAC.

    Parameters
    ----------
    key, secret, session : Secret
    region : str
        Of the buckets; from another region they are refused.
    expires : float
        Seconds since 1970.
    renewed : bool
        Whether these replace ones that were refused; if they are refused too, no others help.
    """

    key: Secret
    secret: Secret
    session: Secret
    region: str = DEFAULT_REGION
    expires: float = 0.0
    renewed: bool = False


@dataclass(frozen=True)
class BearerToken:
    """A token of Earthdata Login; ``renewed`` is that of `S3Credentials`."""

    secret: Secret
    renewed: bool = False


@dataclass(frozen=True)
class Access:
    """What a task may open its granules with: nothing at all where they need nothing.

    Parameters
    ----------
    buckets : dict of str to S3Credentials
        By the name of the bucket.
    token : BearerToken, optional
        For HTTPS.
    """

    buckets: dict[str, S3Credentials] = field(default_factory=dict, repr=False)
    token: BearerToken | None = field(default=None, repr=False)


def is_earthdata(host: str) -> bool:
    """Tell whether a host is one of Earthdata's, to which the bearer token may go."""
    name = host.lower().partition(":")[0]
    return any(name == domain or name.endswith(f".{domain}") for domain in EARTHDATA_DOMAINS)


def own_token() -> BearerToken | None:
    """Return the token in this process's environment, for workers that are sent none."""
    token = os.environ.get("EARTHDATA_TOKEN")
    return BearerToken(Secret(token), renewed=True) if token else None


def holds_secret(text: str) -> bool:
    """Tell whether a text holds a secret that this process knows of."""
    return any(secret in text for secret in _secrets.copy())


def redact(text: str) -> str:
    """Return a text without the secrets and signed URLs that libraries may have put into it."""
    for secret in sorted(_secrets.copy(), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return _BEARER.sub(rf"\1 {HIDDEN}", _SIGNED.sub(f"?{HIDDEN}", text))


def login(*, again: bool = False, ask: bool = True) -> Any:
    """Log in to Earthdata in earthaccess's usual order: environment, netrc, then by asking.

    Parameters
    ----------
    again : bool
        Log in anew where that has been done already, by magg or by the user.
    ask : bool
        Ask whoever sits at the terminal or notebook, if nothing else helps.

    Returns
    -------
    earthaccess.Auth

    Raises
    ------
    MissingExtraError
        If earthaccess is not installed.
    CredentialsError
        If there are no credentials and nobody to ask, or they are wrong.
    EarthdataError
        If Earthdata Login does not answer.
    """
    earthaccess = import_earthaccess()
    from earthaccess.exceptions import LoginAttemptFailure, LoginStrategyUnavailable

    # Not by earthaccess.login(), which goes on to ask the metadata address of cloud machines, with
    # the bearer token in its request.
    auth = earthaccess.__auth__
    if auth.authenticated and not again:
        return _known(auth)
    strategies = ["environment", "netrc"] + ["interactive"] * (ask and can_ask())
    for strategy in strategies:
        try:
            with answering("Earthdata Login"):
                auth.login(strategy=strategy)
        except LoginStrategyUnavailable:
            continue
        except LoginAttemptFailure:
            raise CredentialsError(
                f"Earthdata Login refuses the user name or password ({strategy}); correct them, "
                "or set EARTHDATA_TOKEN"
            ) from None
        except (EOFError, NotImplementedError):  # the latter in notebooks that nobody looks at
            break
        if auth.authenticated:
            Secret(auth.token["access_token"])
            Secret(auth.password or "")
            return auth
    raise CredentialsError(
        "there is no Earthdata login: set EARTHDATA_TOKEN, or EARTHDATA_USERNAME and "
        "EARTHDATA_PASSWORD, or put a line 'machine urs.earthdata.nasa.gov login NAME password "
        "PASSWORD' into ~/.netrc (register at https://urs.earthdata.nasa.gov)"
    )


def _known(auth: Any) -> Any:
    """Make what a login holds known to `redact`."""
    for text in (auth.token["access_token"], auth.password or ""):
        Secret(text)
    return auth


def can_ask() -> bool:
    """Tell whether somebody can type: in a terminal, or in a notebook."""
    if "ipykernel" in sys.modules:
        return True
    return bool(sys.stdin and sys.stdin.isatty() and sys.stderr.isatty())


def import_earthaccess() -> Any:
    """Return earthaccess, or raise what tells how to install it."""
    try:
        import earthaccess
    except ImportError as error:
        raise require_extra("earthaccess", "earthdata") from error
    return earthaccess


class Earthdata:
    """The client's login, and credentials that are replaced before they expire.

    Nothing is asked of anybody before the first credentials are wanted.
    """

    def __init__(self) -> None:
        self._auth: Any = None
        self._token: BearerToken | None = None
        self._held: dict[str, tuple[S3Credentials, float]] = {}

    def s3(
        self, endpoint: str, region: str = DEFAULT_REGION, refused: S3Credentials | None = None
    ) -> S3Credentials:
        """Return S3 credentials that are good for a quarter of an hour or more.

        Parameters
        ----------
        endpoint : str
            The DAAC's S3-credentials URL.
        region : str
            Of the DAAC's buckets.
        refused : S3Credentials, optional
            Do not return these.

        Raises
        ------
        CredentialsError, EarthdataError
            If there are none to be had; says why.
        """
        held, renew_at = self._held.get(endpoint, (None, 0.0))
        is_refused = held is not None and held == refused
        now = time.time()
        if held is not None and not is_refused and now < renew_at:
            return held
        try:
            new = self._fetched(endpoint, region, renewed=is_refused)
        except (CredentialsError, EarthdataError) as error:
            if held is None or is_refused or now > held.expires - 60.0:
                raise
            log.warning("S3 credentials could not be renewed yet: %s", redact(str(error)))
            self._held[endpoint] = held, now + 60.0
            return held
        # A DAAC may hand out the same ones until they expire: then they are not asked for at once.
        margin = min(MARGIN_S, (new.expires - now) / 2)
        self._held[endpoint] = new, max(new.expires - margin, now + 1.0)
        return new

    def token(self, refused: BearerToken | None = None) -> BearerToken:
        """Return the bearer token, another one than was refused if there is any."""
        if self._token is None or self._token == refused:
            renewed = self._token is not None
            self._auth = login(again=renewed)
            self._token = BearerToken(Secret(self._auth.token["access_token"]), renewed)
        return self._token

    def _fetched(self, endpoint: str, region: str, *, renewed: bool) -> S3Credentials:
        parts = urlsplit(endpoint)
        if parts.scheme != "https" or not is_earthdata(parts.netloc):
            raise CredentialsError(
                f"{endpoint} is no https:// address of Earthdata, so the login is not sent there; "
                "make the catalog anew"
            )
        self._auth = self._auth or login()
        said: list[str] = []
        for attempt in range(ATTEMPTS):
            time.sleep(PAUSE_S * attempt)
            with _overheard(said), answering(endpoint):
                answer = self._auth.get_s3_credentials(endpoint=endpoint)
            if answer:
                break
        return _s3_credentials(answer, said, endpoint, region, renewed=renewed)


def _s3_credentials(
    answer: Any, said: list[str], endpoint: str, region: str, *, renewed: bool
) -> S3Credentials:
    try:
        key, secret = (Secret(answer[name]) for name in ("accessKeyId", "secretAccessKey"))
        session = Secret(answer.get("sessionToken", ""))
    except (KeyError, TypeError, AttributeError):
        why = redact(" ".join(said)) or "the answer was empty"
        raise CredentialsError(
            f"{endpoint} gave no S3 credentials ({why[:300]}); accept the licence agreement and "
            "the application of the DAAC at https://urs.earthdata.nasa.gov, or read over HTTPS "
            "with data_source.access: external"
        ) from None
    expires = time.time() + LIFETIME_S
    if text := answer.get("expiration"):
        moment = datetime.fromisoformat(str(text))
        expires = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return S3Credentials(key, secret, session, region, expires, renewed)


@contextmanager
def answering(service: str) -> Iterator[None]:
    """Turn what requests raises about a service into this package's error."""
    from requests import RequestException

    try:
        yield
    except (RequestException, ValueError) as error:
        # Requests' own text holds addresses, and these may hold codes and signatures.
        raise EarthdataError(
            f"{service} does not answer as it should ({type(error).__name__}); try again later"
        ) from None


@contextmanager
def _overheard(said: list[str]) -> Iterator[None]:
    """Keep what earthaccess logs: it tells there, and nowhere else, why an answer is empty."""

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage() not in said:
                said.append(record.getMessage())

    logger, listener = logging.getLogger("earthaccess.auth"), Listener(logging.INFO)
    level = logger.level
    logger.addHandler(listener)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(listener)
        logger.setLevel(level)

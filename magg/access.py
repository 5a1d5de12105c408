"""How the granules of a run are reached: by which link, and with which credentials."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from http.client import HTTPConnection, HTTPException
from typing import Any, Literal
from urllib.parse import urlsplit

from magg.catalog import Catalog, GranuleInfo
from magg.credentials import DEFAULT_REGION, Access, BearerToken, Earthdata, is_earthdata, redact
from magg.errors import CatalogError, EarthdataError, MissingExtraError

log = logging.getLogger(__name__)

Mode = Literal["direct", "external"]
METADATA = "169.254.169.254"
METADATA_TIMEOUT_S = 1.0
# Any of these says that the region in the environment is that of the machine, not a preference.
SIGNS_OF_AWS = (
    "AWS_LAMBDA_FUNCTION_NAME",
    "AWS_EXECUTION_ENV",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)


class Reach:
    """Links and credentials of the granules of a run, cell by cell.

    Parameters
    ----------
    catalog : Catalog
    buckets : mapping of str to mapping
        Buckets of Earthdata: each with the ``endpoint`` that gives credentials and the ``region``.
    mode : {"direct", "external"}
    earthdata : Earthdata
        The login; asked only for granules that need it.
    """

    def __init__(
        self,
        catalog: Catalog,
        buckets: Mapping[str, Mapping[str, str]],
        mode: Mode,
        earthdata: Earthdata,
    ) -> None:
        self.mode = mode
        self._catalog, self._buckets, self._earthdata = catalog, buckets, earthdata
        self._given: dict[str, Access] = {}
        self._refused: set[str] = set()
        self._gives = True

    def __repr__(self) -> str:
        return f"<Reach: {self.mode}>"

    def of(self, cell: str) -> tuple[tuple[str, ...], Access]:
        """Return the URLs of a cell's granules, and what to open them with."""
        return self.to(cell, self._catalog.cells[cell])

    def to(self, unit: str, granules: Iterable[str]) -> tuple[tuple[str, ...], Access]:
        """Return the URLs of granules, and what a unit of work opens them with."""
        urls = tuple(self._url(granule) for granule in granules)
        refused = self._given.get(unit) if unit in self._refused else None
        self._refused.discard(unit)
        self._given[unit] = access = self._access(urls, refused or Access())
        return urls, access

    def keep_credentials(self) -> None:
        """Give none from now on: granules are read over HTTPS, with what workers have themselves.

        For executors that write calls down on their way.
        """
        self.mode, self._gives = "external", False
        log.info(
            "granules are read over HTTPS with EARTHDATA_TOKEN of the workers' environment: this "
            "backend writes calls to a bucket, where credentials may not be"
        )

    def refuse(self, cell: str) -> None:
        """Note that a cell was refused: if what it had is still in use, it is replaced."""
        self._refused.add(cell)

    def ready(self, cells: Iterable[str]) -> None:
        """Get the credentials that cells will need, so that a run without them never starts.

        Raises
        ------
        CredentialsError, EarthdataError
            If there are none to be had; says why.
        CatalogError
            If a granule cannot be reached.
        """
        granules = {granule for cell in cells for granule in self._catalog.cells[cell]}
        self._access([self._url(granule) for granule in granules], Access())

    def _access(self, urls: Iterable[str], refused: Access) -> Access:
        """Return what URLs are opened with, other than what was refused."""
        if not self._gives:
            return Access()
        places = {(parts.scheme, parts.netloc) for parts in map(urlsplit, urls)}
        buckets = {
            host: self._earthdata.s3(
                self._buckets[host]["endpoint"],
                self._buckets[host].get("region", DEFAULT_REGION),
                refused=refused.buckets.get(host),
            )
            for scheme, host in sorted(places)
            if scheme == "s3" and host in self._buckets
        }
        token: BearerToken | None = None
        if any(scheme == "https" and is_earthdata(host) for scheme, host in places):
            token = self._earthdata.token(refused=refused.token)
        return Access(buckets, token)

    def _url(self, granule: str) -> str:
        """Return the link by which a granule is read."""
        parts = urlsplit(granule)
        if self.mode == "direct" or parts.scheme != "s3" or parts.netloc not in self._buckets:
            return granule
        https = self._catalog.info.get(granule, GranuleInfo()).https
        if not https:
            raise CatalogError(
                f"{granule}: the catalog has no HTTPS link, and direct S3 works in "
                f"{self._buckets[parts.netloc].get('region', DEFAULT_REGION)} alone; make the "
                "catalog anew with `magg catalog cmr`, or set data_source.access to direct where "
                "the cells run there"
            )
        return https


def reach_of(
    catalog: Catalog,
    cells: Iterable[str],
    access: Literal["auto", "direct", "external"],
    cells_run_in: str | None = None,
) -> Reach | None:
    """Return how the granules of cells are reached, or None if none is Earthdata's.

    Looks at the network only if granules are Earthdata's.

    Parameters
    ----------
    catalog : Catalog
    cells : iterable of str
    access : {"auto", "direct", "external"}
        See `magg.config.DataSource`.
    cells_run_in : str, optional
        AWS region; that of this machine where left out.
    """
    granules = {granule for cell in cells for granule in catalog.cells[cell]}
    places = {(parts.scheme, parts.netloc) for parts in map(urlsplit, granules)}
    hosts = {host for scheme, host in places if scheme == "s3"}
    known = {host: one for host, one in _buckets(catalog, hosts).items() if host in hosts}
    if not known and not any(s == "https" and is_earthdata(host) for s, host in places):
        return None
    regions = {one.get("region", DEFAULT_REGION) for one in known.values()}
    if access == "auto":
        here = cells_run_in or aws_region()
        mode: Mode = "direct" if known and regions == {here} else "external"
        where = f"cells run in {here}" if here else "cells run outside AWS, as far as can be told"
    else:
        mode, where = access, f"data_source.access is {access}"
    how = "directly from S3" if mode == "direct" else "over HTTPS"
    log.info("granules are read %s (%s)", how, where)
    return Reach(catalog, known, mode, Earthdata())


def aws_region() -> str | None:
    """Return the AWS region that this machine is in, or None.

    A region in the environment counts where something else there says that this is AWS; else the
    metadata service is asked, unless ``AWS_EC2_METADATA_DISABLED`` is set.
    """
    if any(os.environ.get(sign) for sign in SIGNS_OF_AWS):
        return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        return None
    # By http.client, which knows no proxy: one would tell where the proxy is.
    connection = HTTPConnection(METADATA, timeout=METADATA_TIMEOUT_S)
    try:
        lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
        connection.request("PUT", "/latest/api/token", headers=lifetime)
        token = connection.getresponse().read().decode()
        headers = {"X-aws-ec2-metadata-token": token}
        connection.request("GET", "/latest/meta-data/placement/region", headers=headers)
        answer = connection.getresponse()
        region = answer.read().decode()
        return region if answer.status == 200 else None
    except (OSError, ValueError, HTTPException):
        return None
    finally:
        connection.close()


def _is_source(one: Any) -> bool:
    return isinstance(one, Mapping) and isinstance(one.get("endpoint"), str)


def _buckets(catalog: Catalog, hosts: set[str]) -> Mapping[str, Mapping[str, str]]:
    """Return the buckets of Earthdata; CMR is asked where an older catalog does not tell."""
    noted: Any = catalog.metadata.get("s3_credentials")
    name: Any = catalog.metadata.get("short_name")
    if isinstance(noted, Mapping):
        return {host: one for host, one in noted.items() if _is_source(one)}
    if not hosts or not isinstance(name, str):
        return {}
    from magg.catalog.cmr import describe_collections

    try:
        found = describe_collections(name)
    except (CatalogError, EarthdataError, MissingExtraError) as error:
        log.warning(
            "whether the granules are Earthdata's cannot be told (%s); they are read with your own "
            "credentials",
            redact(str(error)),
        )
        return {}
    return {bucket: one for one in found for bucket in one["buckets"] if one["endpoint"]}

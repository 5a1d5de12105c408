"""S3 buckets, opened with the credentials of their user that boto3 would find.

obstore finds those of the environment and the role of a cloud machine. Profiles (``AWS_PROFILE``,
the files in ``~/.aws``, single sign-on) are for boto3 alone to read, so it is asked for them.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magg.errors import CredentialsError, require_extra

if TYPE_CHECKING:
    from obstore.store import S3Store

# Any of these comes before profiles, for boto3 as for obstore.
_ENVIRONMENT = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
_FILES = {
    "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials",
    "AWS_CONFIG_FILE": "~/.aws/config",
}


def open_bucket(name: str, prefix: str | None = None, region: str | None = None) -> S3Store:
    """Open a bucket, or what is below a prefix of it.

    Parameters
    ----------
    name : str
    prefix : str, optional
    region : str, optional
        AWS region of the bucket; that of the environment where left out.

    Raises
    ------
    CredentialsError
        If ``AWS_PROFILE`` names no profile, or one without credentials.
    MissingExtraError
        If it is set and boto3 is not installed.
    """
    from obstore.store import S3Store

    options: dict[str, Any] = {"region": region} if region else {}  # obstore takes no None
    profile, files = os.environ.get("AWS_PROFILE"), _files()
    if (profile or any(map(os.path.isfile, files))) and not any(map(os.environ.get, _ENVIRONMENT)):
        provider = _credentials_of(profile, files)
        if provider is not None:
            options["credential_provider"] = provider
    return S3Store(name, prefix=prefix, **options)


def forget_credentials() -> None:
    """Read profiles again when a bucket is opened next."""
    _credentials_of.cache_clear()


def _files() -> tuple[str, ...]:
    return tuple(
        str(Path(os.environ.get(name, usual)).expanduser()) for name, usual in _FILES.items()
    )


@lru_cache(maxsize=4)
def _credentials_of(profile: str | None, _files: tuple[str, ...]) -> Any:
    """Return what gives obstore a profile's credentials, and new ones before they expire."""
    try:
        import boto3
        from botocore.exceptions import BotoCoreError
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        if profile is None:
            return None
        raise require_extra("boto3", "aws") from None
    try:
        return Boto3CredentialProvider(boto3.session.Session(profile_name=profile))
    except (BotoCoreError, ValueError) as error:
        if profile is None:
            return None  # files without credentials; a cloud machine may have a role all the same
        raise CredentialsError(
            f"AWS_PROFILE is {profile!r}, which gives no credentials ({error}); name another "
            "profile, or run `aws sso login`"
        ) from None

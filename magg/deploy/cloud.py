"""The clients of AWS that deploying needs, and who asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from magg import __version__
from magg.deploy.errors_of_aws import told
from magg.deploy.settings import partition_of
from magg.errors import AccessDeniedError
from magg.executors.lambda_errors import missing_boto3, no_credentials

_SERVICES = {
    "stacks": "cloudformation",
    "s3": "s3",
    "functions": "lambda",
    "logs": "logs",
}


@dataclass(frozen=True)
class Cloud:
    """An account of AWS in one region.

    Parameters
    ----------
    region, account, identity : str
        The identity is an ARN.
    stacks, s3, functions, logs : botocore clients
        Of CloudFormation, S3, Lambda and CloudWatch Logs.
    """

    region: str
    account: str
    identity: str
    stacks: Any
    s3: Any
    functions: Any
    logs: Any

    @property
    def code_bucket(self) -> str:
        """Return the name of the bucket for code, one for all stacks of an account and region."""
        return f"magg-code-{self.account}-{self.region}"

    @property
    def partition(self) -> str:
        """Return the second part of ARNs."""
        return partition_of(self.region)


def connect(region: str, profile: str | None = None) -> Cloud:
    """Find out who asks, by boto3's own chain of credentials.

    Parameters
    ----------
    region : str
    profile : str, optional
        Of AWS; ``AWS_PROFILE`` where left out.

    Raises
    ------
    MissingExtraError, AccessDeniedError, DeployError
        If boto3 is missing, or there are no credentials, or none that are valid.
    """
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import ProfileNotFound
    except ImportError:
        raise missing_boto3() from None
    try:
        session = boto3.session.Session(region_name=region, profile_name=profile)
    except ProfileNotFound as error:
        raise AccessDeniedError(f"{error}; name a profile that exists") from None
    with told("AWS"):
        if session.get_credentials() is None:
            raise no_credentials("deploying")
        config = Config(
            connect_timeout=10,
            read_timeout=120,
            retries={"mode": "standard", "total_max_attempts": 5},
            user_agent_extra=f"magg/{__version__}",
        )
        known = session.client("sts", config=config).get_caller_identity()
        clients = {
            name: session.client(service, config=config) for name, service in _SERVICES.items()
        }
    return Cloud(region, known["Account"], known["Arn"], **clients)

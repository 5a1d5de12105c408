"""The bucket of the code, which is magg's own, and buckets of stores, which are their user's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from magg.deploy.cloud import Cloud
from magg.deploy.errors_of_aws import told
from magg.deploy.package import Package, digest_of
from magg.errors import AccessDeniedError, DeployError
from magg.executors import lambda_errors

_HAS_NO_REGION = "us-east-1"


@dataclass(frozen=True)
class Upload:
    """A file and where it goes in the code bucket; its name tells its content.

    Parameters
    ----------
    path : Path
    key : str
    """

    path: Path
    key: str


def uploads(package: Package, stack: str) -> dict[str, Upload]:
    """Return what is uploaded for a stack, by the parameter that names it."""
    files = {"FunctionKey": package.function, "LayerKey": package.layer}
    return {
        parameter: Upload(path, f"{stack}/{path.stem}-{digest_of(path)[:16]}.zip")
        for parameter, path in files.items()
    }


def bucket_exists(cloud: Cloud, name: str) -> bool:
    """Tell whether there is a bucket of a name in this account.

    Raises
    ------
    AccessDeniedError, DeployError
        If there is, but it is another's, or may not be looked at, or is in another region.
    """
    with told(f"bucket {name!r}"):
        try:
            known = cloud.s3.head_bucket(Bucket=name, ExpectedBucketOwner=cloud.account)
        except cloud.s3.exceptions.ClientError as error:
            code = lambda_errors.code_of(error)
            if code in ("404", "NoSuchBucket"):
                return False
            if code == "403":
                raise AccessDeniedError(
                    f"bucket {name!r} belongs to another account, or the credentials in use are "
                    "not allowed s3:ListBucket on it; name one of your own"
                ) from None
            raise
    there = known.get("BucketRegion", cloud.region)
    if there != cloud.region:
        raise DeployError(
            f"bucket {name!r} is in {there}, and the function would be in {cloud.region}; name "
            f"another bucket, or deploy there (--region {there})"
        )
    return True


def ensure_code_bucket(cloud: Cloud, tags: Mapping[str, str]) -> None:
    """Make the bucket of the code, if there is none, closed to the public."""
    name = cloud.code_bucket
    if bucket_exists(cloud, name):
        return
    place = {"LocationConstraint": cloud.region}
    options = {} if cloud.region == _HAS_NO_REGION else {"CreateBucketConfiguration": place}
    with told(f"creating bucket {name!r}"):
        cloud.s3.create_bucket(Bucket=name, **options)
        cloud.s3.put_public_access_block(
            Bucket=name,
            PublicAccessBlockConfiguration=dict.fromkeys(
                (
                    "BlockPublicAcls",
                    "IgnorePublicAcls",
                    "BlockPublicPolicy",
                    "RestrictPublicBuckets",
                ),
                True,
            ),
        )
        # Shared by the stacks of this account and region, so that it bears the name of none.
        shared = {key: value for key, value in tags.items() if not key.startswith("magg:")}
        pairs = [{"Key": key, "Value": value} for key, value in shared.items()]
        cloud.s3.put_bucket_tagging(Bucket=name, Tagging={"TagSet": pairs})


def upload(cloud: Cloud, one: Upload) -> bool:
    """Upload a file unless it is there; return whether it was not."""
    with told(f"uploading to bucket {cloud.code_bucket!r}"):
        if one.key in {key for key, _ in code_of(cloud, one.key)}:
            return False
        with one.path.open("rb") as file:
            cloud.s3.put_object(
                Bucket=cloud.code_bucket,
                Key=one.key,
                Body=file,
                ExpectedBucketOwner=cloud.account,
            )
    return True


def code_of(cloud: Cloud, prefix: str) -> Iterator[tuple[str, int]]:
    """Yield key and size of what is in the code bucket below a prefix."""
    with told(f"listing bucket {cloud.code_bucket!r}"):
        try:
            pages = cloud.s3.get_paginator("list_objects_v2").paginate(
                Bucket=cloud.code_bucket, Prefix=prefix, ExpectedBucketOwner=cloud.account
            )
            for page in pages:
                for one in page.get("Contents", ()):
                    yield one["Key"], one["Size"]
        except cloud.s3.exceptions.ClientError as error:
            if lambda_errors.code_of(error) not in ("404", "NoSuchBucket"):
                raise


def remove_code(cloud: Cloud, stack: str, keep: frozenset[str] = frozenset()) -> list[str]:
    """Delete what was uploaded for a stack but for what is kept, and return the keys."""
    doomed = [key for key, _ in code_of(cloud, f"{stack}/") if key not in keep]
    with told(f"deleting code from bucket {cloud.code_bucket!r}"):
        for key in doomed:
            cloud.s3.delete_object(
                Bucket=cloud.code_bucket, Key=key, ExpectedBucketOwner=cloud.account
            )
    return doomed


def remove_if_empty(cloud: Cloud, name: str) -> bool | None:
    """Delete a bucket, which S3 does to empty ones alone.

    Returns
    -------
    bool or None
        False where something is in it, and it stays; None where there is no such bucket.
    """
    with told(f"deleting bucket {name!r}"):
        try:
            cloud.s3.delete_bucket(Bucket=name, ExpectedBucketOwner=cloud.account)
        except cloud.s3.exceptions.ClientError as error:
            code = lambda_errors.code_of(error)
            if code == "BucketNotEmpty":
                return False
            if code in ("404", "NoSuchBucket"):
                return None
            raise
    return True

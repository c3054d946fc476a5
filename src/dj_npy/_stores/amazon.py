"""What both ways to S3, obstore and s3fs, want to know of a store's settings."""

import os
import re
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from dj_npy._errors import StoreError
from dj_npy._stores import remote

AMAZON = re.compile(r"s3(?:[.-](?P<region>[a-z0-9-]+))?\.amazonaws\.com(?P<china>\.cn)?")
_HOST = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d+)?")


def endpoint_of(name: str, spec: dict[str, Any]) -> str:
    """Return the endpoint as a URL without a path."""
    said = str(spec["endpoint"]).rstrip("/")
    if not said.startswith(("http://", "https://")):
        # DataJoint's default; the description in a pickle has none.
        said = f"{'https' if spec.get('secure', True) else 'http'}://{said}"
    parts = urlsplit(said)
    if not _HOST.fullmatch(parts.netloc) or parts.path or parts.query:
        raise StoreError(
            f"store {name!r}: `endpoint` must be a host, or http:// or https:// and a host, with "
            f"its port if need be, and nothing else"
        )
    return said


def region_of(spec: dict[str, Any]) -> str:
    """Return the region: of the endpoint, the environment, or the bucket."""
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if amazon := AMAZON.fullmatch(urlsplit(spec["endpoint"]).netloc):
        region = amazon["region"] or region or bucket_region(f"{spec['endpoint']}/{spec['bucket']}")
    return region or "us-east-1"


def bucket_region(url: str) -> str | None:
    """Ask S3 in which region a bucket is; it tells that to anybody."""
    try:
        with urlopen(Request(url, method="HEAD"), timeout=remote.CONNECT_TIMEOUT_S) as answer:
            headers = answer.headers
    except HTTPError as error:
        headers = error.headers
    except OSError:
        return None
    region = headers.get("x-amz-bucket-region")
    return str(region) if region else None


def s3_filesystem(spec: dict[str, Any], *, once: bool = False) -> Any:
    """Return an s3fs file system; `once`, one that sends no request a second time."""
    import s3fs

    proxy = spec.get("proxy_server")
    filesystem = s3fs.S3FileSystem(
        key=spec.get("access_key") or None,
        secret=spec.get("secret_key") or None,
        client_kwargs={"endpoint_url": spec["endpoint"], "region_name": spec["region"]},
        config_kwargs={
            "connect_timeout": remote.CONNECT_TIMEOUT_S,
            "read_timeout": remote.SILENCE_S,
            # Some servers send the checksum of the object with a part of it.
            "response_checksum_validation": "when_required",
            "request_checksum_calculation": "when_required",
            **({"proxies": {"http": proxy, "https": proxy}} if proxy else {}),
            **({"retries": {"total_max_attempts": 1}} if once else {}),
        },
        skip_instance_cache=True,
    )
    if once:
        filesystem.retries = 1
    return filesystem

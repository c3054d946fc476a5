"""
The settings of S3: endpoint, region, the server's clock; whether a server is Amazon's own.

Objects are read and written in `obstore`, and where that cannot be used, in `fsspec`.
"""

import os
import re
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request

from dj_npy._errors import StoreError
from dj_npy._stores import remote
from dj_npy._stores.deadline import open_url

_REGION = r"[a-z]{2}(?:-[a-z]+)+-\d"
_AMAZON = re.compile(rf"s3(?:[.-]{_REGION})?\.amazonaws\.com(?:\.cn)?")
_HOST = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d+)?")


def is_amazon(host: str) -> bool:
    """Whether a host is Amazon S3, not another server with the S3 protocol."""
    return bool(_AMAZON.fullmatch(host.lower().removesuffix(":443")))


def endpoint_of(name: str, spec: dict[str, Any]) -> str:
    """Return the endpoint as a URL without a path."""
    endpoint = str(spec["endpoint"]).rstrip("/")
    if not re.match("(?i)https?://", endpoint):
        # DataJoint's default for `secure`; a pickled description has no `secure`.
        endpoint = f"{'https' if spec.get('secure', True) else 'http'}://{endpoint}"
    parts = urlsplit(endpoint)
    port = int(parts.netloc.rpartition(":")[2]) if re.search(r":\d+$", parts.netloc) else 443
    if not _HOST.fullmatch(parts.netloc) or parts.path or parts.query or port > 65535:
        raise StoreError(
            f"store {name!r}: `endpoint` must be a host, or http:// or https:// and a host, with "
            f"its port if need be, and nothing else"
        )
    return f"{parts.scheme}://{parts.netloc.lower()}"


def region_of(spec: dict[str, Any]) -> str:
    """Return the region named by the endpoint, the environment or the bucket."""
    host = urlsplit(spec["endpoint"]).netloc
    if match := re.search(rf"({_REGION})(?:\.vpce)?\.amazonaws\.com", host):
        return match[1]
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not region and is_amazon(host):
        region = bucket_region(f"{spec['endpoint']}/{spec['bucket']}", spec.get("proxy_server"))
    return region or "us-east-1"


def bucket_region(url: str, proxy: str | None = None) -> str | None:
    """Ask S3 for the region of a bucket. Needs no credentials."""
    try:
        until = time.monotonic() + remote.SILENCE_S
        with open_url(
            Request(url, method="HEAD"), remote.CONNECT_TIMEOUT_S, until, proxy
        ) as answer:
            headers = answer.headers
    except HTTPError as error:
        headers = error.headers
    except (OSError, HTTPException) as error:
        raise StoreError(
            f"could not ask {urlsplit(url).netloc} for the region of a bucket "
            f"({type(error).__name__}). Is there a network? Otherwise set AWS_REGION"
        ) from None
    region = headers.get("x-amz-bucket-region")
    return str(region) if region else None


def server_time(url: str, proxy: str | None) -> datetime | None:
    """Return the server's time from an anonymous HEAD; None if there is none, or it is cached."""
    time.sleep(1)  # `Date` has whole seconds: nothing written before this call has a later time
    until = time.monotonic() + remote.SILENCE_S
    try:
        try:
            request = Request(url, method="HEAD", headers={"Cache-Control": "no-cache"})
            with open_url(request, remote.CONNECT_TIMEOUT_S, until, proxy) as answer:
                headers = answer.headers
        except HTTPError as error:
            headers = error.headers
            error.close()
        now = None if headers.get("Age") else parsedate_to_datetime(headers.get("Date"))
    except (OSError, HTTPException, TypeError, ValueError):
        return None
    return now if now is None or now.tzinfo else now.replace(tzinfo=UTC)

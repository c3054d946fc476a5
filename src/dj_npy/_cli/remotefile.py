"""Read the beginning of a file at a URL."""

import base64
import os
import re
import time
from http.client import HTTPException
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, unquote, urlsplit, urlunsplit
from urllib.request import Request

from dj_npy._cli.command import UsageError
from dj_npy._errors import ArrayMissingError, StoreError
from dj_npy._format.npyfile import ReadBeginning
from dj_npy._stores import open_store, remote
from dj_npy._stores.deadline import open_url
from dj_npy._stores.described import own_config


def beginning_of_url(url: str) -> tuple[str, ReadBeginning]:
    """
    Return a printable form of an ``http://`` or ``https://`` URL, and a function that reads it.

    The printable form lacks user, password and query, as the query of a signed URL grants access.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname
        netloc = parts.netloc.rpartition("@")[2]
        path = quote(parts.path, safe="/%:@!$&'()*+,;=~")
        display_url = urlunsplit((parts.scheme, netloc, path, "", ""))
        request_url = urlunsplit(
            (parts.scheme, netloc, path, quote(parts.query, safe="%/?:@&=+,;~"), "")
        )
    except ValueError:
        host = None
    if not host:
        raise UsageError("the address is no URL of a file")

    def read_beginning(length: int) -> tuple[bytes, int]:
        request = Request(
            request_url, headers={"Range": f"bytes=0-{length - 1}", "User-Agent": "dj-npy"}
        )
        if parts.username is not None:
            user = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            # Not sent to where the server may redirect.
            request.add_unredirected_header(
                "Authorization", f"Basic {base64.b64encode(user).decode()}"
            )
        try:
            deadline = time.monotonic() + remote.REQUEST_S
            with open_url(request, remote.SILENCE_S, deadline) as answer:
                data = answer.read(length)
                content_range = re.fullmatch(
                    r"bytes 0-\d+/(\d+)", answer.headers["Content-Range"] or ""
                )
                nbytes = content_range[1] if content_range else answer.headers["Content-Length"]
                if nbytes is None or answer.status not in (200, 206):
                    raise StoreError(f"{display_url}: the server does not say how long the file is")
                return data, int(nbytes)
        except HTTPError as error:
            if error.code == 416 and (error.headers["Content-Range"] or "").endswith("/0"):
                return b"", 0
            if error.code in (404, 410):
                raise ArrayMissingError(f"there is no file at {display_url}") from None
            raise StoreError(
                f"could not read {display_url}: the server answers {error.code}"
            ) from None
        except StoreError:
            raise
        except (OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            kind = f"{type(reason).__name__}: {reason}" if isinstance(reason, OSError) else ""
            raise StoreError(
                f"could not read {display_url} ({kind or type(error).__name__})"
            ) from None

    return display_url, read_beginning


def beginning_on_s3(url: str) -> tuple[str, ReadBeginning]:
    """Return a printable form of ``s3://bucket/key``, and a function that reads it."""
    match = re.fullmatch(r"[Ss]3://([^/@?]+)/(.+)", url, re.DOTALL)
    if match is None:
        raise UsageError("an address on S3 is s3://BUCKET/KEY")
    bucket, key = match.groups()
    name, settings = f"s3://{bucket}", _settings(bucket, key)
    config: Any = SimpleNamespace(stores={name: settings}, get_store_spec=lambda _: settings)
    store = open_store(config, name)

    def read_beginning(length: int) -> tuple[bytes, int]:
        data, found = store.read_beginning(key, length)
        return data, found.nbytes

    return f"{name}/{key}", read_beginning


def _settings(bucket: str, key: str) -> dict[str, Any]:
    """Return settings of the configured store with the key or the bucket, or the default ones."""
    configured = [
        settings
        for settings in own_config().stores.values()
        if isinstance(settings, dict)
        and str(settings.get("protocol")).lower() == "s3"
        and settings.get("bucket") == bucket
    ]
    configured.sort(key=lambda settings: not _contains_key(settings, key))
    if configured:
        return {"secure": True, **configured[0], "location": ""}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return {
        "protocol": "s3",
        "bucket": bucket,
        "location": "",
        "endpoint": endpoint or "s3.amazonaws.com",
    }


def _contains_key(settings: dict[str, Any], key: str) -> bool:
    location = str(settings.get("location") or "").strip("/")
    return not location or key.startswith(f"{location}/")

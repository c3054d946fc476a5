"""S3 for obstore and s3fs: endpoint, region, credentials, and what only botocore can ask for."""

import base64
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache, partial
from hashlib import md5
from http.client import HTTPException
from io import BytesIO
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request

from dj_npy._concurrency.threads import each_in_time, in_time
from dj_npy._errors import StoreError
from dj_npy._stores import remote
from dj_npy._stores.base import Listed
from dj_npy._stores.deadline import Timed, open_url
from dj_npy._stores.environment import ca_bundle, encryption, payer_header, proxy_for

ATTEMPTS = 5
"""Tries of botocore per request; the pauses between them grow up to 8 s, about 15 s in all."""
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


def s3_filesystem(spec: dict[str, Any]) -> Any:
    """Return an s3fs file system."""
    import s3fs
    from aiobotocore.session import AioSession

    filesystem = s3fs.S3FileSystem(
        key=spec.get("access_key") or None,
        secret=spec.get("secret_key") or None,
        client_kwargs={
            "endpoint_url": spec["endpoint"],
            "region_name": spec["region"],
            "verify": ca_bundle(),
        },
        s3_additional_kwargs=encryption(),
        config_kwargs={**_config(spec), "http_session_cls": _session_without_redirects()},
        session=_session(AioSession, spec),
        skip_instance_cache=True,
    )
    filesystem.retries = 1  # s3fs would retry each of botocore's `ATTEMPTS`
    # Buckets with Object Lock require a checksum; every server supports Content-MD5.
    events = filesystem.s3.meta.events
    for operation in ("PutObject", "UploadPart"):
        events.register(f"before-call.s3.{operation}", _add_checksum)
    _stop_redirects(events, spec)
    return filesystem


def _stop_redirects(events: Any, spec: dict[str, Any]) -> None:
    """Stop botocore's region redirects, which never end on servers other than Amazon S3."""

    def stop(context: dict[str, Any], **_: Any) -> None:
        context.setdefault("s3_redirect", {})["redirected"] = True

    if not is_amazon(urlsplit(spec["endpoint"]).netloc):
        events.register("before-call.s3", stop)


def _session_without_redirects() -> type:
    """Return the HTTP session class of s3fs, changed to follow no redirects."""
    from aiobotocore.httpsession import AIOHTTPSession

    get_session = AIOHTTPSession._get_session

    class SessionWithoutRedirects(AIOHTTPSession):
        async def _get_session(self, proxy_url: str | None) -> Any:
            session = await get_session(self, proxy_url)
            return SimpleNamespace(request=partial(session.request, allow_redirects=False))

    return SessionWithoutRedirects


def _add_checksum(params: dict[str, Any], **_: Any) -> None:
    body = params["body"] or b""
    if isinstance(body, BytesIO):
        body = body.getbuffer()
    if isinstance(body, (bytes, bytearray, memoryview)):
        checksum = md5(body, usedforsecurity=False).digest()
        params["headers"]["Content-MD5"] = base64.b64encode(checksum).decode()


def ambient_secrets() -> Callable[[], Iterable[str | None]]:
    """Return a function that lists this machine's credentials, found as s3fs finds them."""

    @cache
    def credentials() -> Any:
        from botocore.session import get_session

        return get_session().get_credentials()

    def frozen() -> Iterable[str | None]:
        found = credentials()
        return found.get_frozen_credentials() if found else ()

    return frozen


def s3_remove(spec: dict[str, Any]) -> Callable[[str], None]:
    """
    Return a function that removes ``bucket/key`` with exactly one request.

    s3fs retries a removal, and so does aiohttp when a connection closes. botocore can be told not
    to.
    """
    client = cache(partial(_client, spec, 1))

    def remove(full_path: str) -> None:
        bucket, _, key = full_path.partition("/")
        with _botocore_errors():
            client().delete_object(Bucket=bucket, Key=key)

    return remove


def s3_info(spec: dict[str, Any]) -> Callable[[str], dict[str, Any]]:
    """
    Return a function that gets size, version and time of ``bucket/key`` with a GET.

    s3fs sends a HEAD, whose answer has no error code, then lists, which needs another permission;
    and it requires a Content-Length.
    """
    client = cache(partial(_client, spec))

    def get(bucket: str, key: str, **more: str) -> dict[str, Any]:
        answer = client().get_object(Bucket=bucket, Key=key, **more)
        with closing(answer["Body"]) as body:
            content_range = re.fullmatch(r"bytes \d+-\d+/(\d+)", answer.get("ContentRange") or "")
            size = int(content_range[1]) if content_range else None
            if size is None and more:
                return get(bucket, key)
            if size is None:
                size = answer.get("ContentLength")
            if size is None:
                size = sum(map(len, body.iter_chunks(remote.PART)))
        found = {"size": size, "ETag": answer.get("ETag", ""), "name": f"{bucket}/{key}"}
        return {**found, "LastModified": answer.get("LastModified"), "type": "file"}

    def info(full_path: str) -> dict[str, Any]:
        bucket, _, key = full_path.partition("/")
        with _botocore_errors():
            try:
                return get(bucket, key, Range="bytes=0-0")
            except client().exceptions.ClientError as error:
                if error.response.get("Error", {}).get("Code") != "InvalidRange":
                    raise
                return get(bucket, key)

    return info


def s3_find(spec: dict[str, Any]) -> Callable[[str], Iterator[tuple[str, dict[str, Any]]]]:
    """
    Return a function that lists path, size, version and time of objects by ``bucket/prefix``.

    With the listing of s3fs, a time limit could cover only the whole, not each page.
    """
    client = cache(partial(_client, spec))

    def find(prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
        bucket, _, prefix = prefix.partition("/")
        pages = client().get_paginator("list_objects_v2")
        with _botocore_errors():
            for page in each_in_time(
                pages.paginate(Bucket=bucket, Prefix=prefix), remote.REQUEST_S
            ):
                for entry in page.get("Contents", ()):
                    if not entry["Key"].endswith("/"):  # some tools make such objects for folders
                        yield f"{bucket}/{entry['Key']}", {**entry, "size": entry["Size"]}

    return find


class MultipartUploads:
    """
    Multipart uploads of a bucket that were neither completed nor aborted.

    Parameters
    ----------
    spec : dict
        Settings of the store; `location` without empty components.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        self._spec, self._client = spec, cache(partial(_client, spec))
        self._location = f"{spec['location']}/" if spec["location"] else ""

    def listed(self, folder: str) -> Iterator[Listed]:
        """Yield the uploads in `folder` of the store and below; their size is not known."""
        prefix = self._location + (f"{folder}/" if folder else "")
        client = self._client()
        # rclone answers with this error if there are no uploads.
        with suppress(client.exceptions.NoSuchUpload), _botocore_errors():
            pages = client.get_paginator("list_multipart_uploads")
            paginated = pages.paginate(Bucket=self._spec["bucket"], Prefix=prefix)
            for page in each_in_time(paginated, remote.REQUEST_S):
                for upload in page.get("Uploads", []):
                    path = upload["Key"].removeprefix(self._location)
                    yield Listed(path, 0, upload["Initiated"], upload["UploadId"])

    def abort(self, upload: Listed) -> None:
        """Abort an upload; one that no longer exists counts as aborted."""
        client = self._client()
        with suppress(client.exceptions.NoSuchUpload), _botocore_errors():
            abort = partial(
                client.abort_multipart_upload,
                Bucket=self._spec["bucket"],
                Key=self._location + upload.path,
                UploadId=upload.version,
            )
            in_time(abort, remote.REQUEST_S)  # safe after a time-out: upload ids are unique


@contextmanager
def _botocore_errors() -> Iterator[None]:
    """Raise botocore's errors as built-in ones, which `translate_error` describes."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        kinds = {401: PermissionError, 403: PermissionError, 404: FileNotFoundError}
        kind = kinds.get(status, OSError)
        if code == "NoSuchUpload":
            raise
        raise kind(f"{code}: {error.response.get('Error', {}).get('Message', '')}") from error
    except BotoCoreError as error:
        raise OSError(str(error)) from None


def _client(spec: dict[str, Any], attempts: int | None = None) -> Any:
    """Return a botocore client whose requests, headers included, have a time limit."""
    from botocore.config import Config
    from botocore.session import Session

    client = _session(Session, spec).create_client(
        "s3",
        endpoint_url=spec["endpoint"],
        region_name=spec["region"],
        verify=ca_bundle(),
        aws_access_key_id=spec.get("access_key") or None,
        aws_secret_access_key=spec.get("secret_key") or None,
        config=Config(**_config(spec, attempts)),
    )
    client._endpoint.http_session._pool_classes_by_scheme.update(_pools())
    _stop_redirects(client.meta.events, spec)
    return client


@cache
def _pools() -> dict[str, type]:
    """Return botocore's connection pools by scheme, changed to connections with a time limit."""
    from botocore import awsrequest

    class Plain(_TimeLimited, awsrequest.AWSHTTPConnection):
        pass

    class Secure(_TimeLimited, awsrequest.AWSHTTPSConnection):
        pass

    class Plains(awsrequest.AWSHTTPConnectionPool):
        ConnectionCls = Plain

    class Secures(awsrequest.AWSHTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": Plains, "https": Secures}


class _TimeLimited(Timed):
    """A botocore connection that answers within `remote.REQUEST_S`."""

    def connect(self) -> None:
        self.until = time.monotonic() + remote.REQUEST_S  # covers the CONNECT to a proxy
        super().connect()

    def request(self, *args: Any, **options: Any) -> None:
        self.until = time.monotonic() + remote.REQUEST_S
        super().request(*args, **options)


def _config(spec: dict[str, Any], attempts: int | None = None) -> dict[str, Any]:
    proxy = proxy_for(spec["endpoint"], spec.get("proxy_server"))
    return {
        "connect_timeout": remote.CONNECT_TIMEOUT_S,
        "read_timeout": remote.SILENCE_S,
        "retries": {"mode": "legacy", "total_max_attempts": attempts or ATTEMPTS},
        # Some servers send the checksum of the whole object with a range.
        "response_checksum_validation": "when_required",
        "request_checksum_calculation": "when_required",
        # Without this, botocore would read the environment.
        "proxies": {"http": proxy, "https": proxy} if proxy else {},
    }


@cache
def _service_descriptions() -> Any:
    """Return botocore's loader for all sessions: each would take 0.1 s to read the same files."""
    from botocore.loaders import create_loader

    return create_loader()


def _session(kind: Any, spec: dict[str, Any]) -> Any:
    """Return a session that reads only credentials from the environment and files."""
    bare = {
        name: (None, None, default, convert)
        for name, (_, _, default, convert) in kind.SESSION_VARIABLES.items()
    }
    no_file = (None, None, os.devnull, None)
    session = kind(session_vars={**bare, "config_file": no_file, "credentials_file": no_file})
    if not spec.get("access_key"):
        found = kind().get_component("credential_provider")
        session.register_component("credential_provider", found)
    session.register_component("data_loader", _service_descriptions())
    headers = payer_header()
    session.register("before-call.s3", lambda params, **_: params["headers"].update(headers))
    return session

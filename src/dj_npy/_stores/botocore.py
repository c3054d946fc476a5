"""Requests to S3 that neither obstore nor s3fs can make, by botocore."""

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import cache, partial
from typing import Any
from urllib.parse import urlsplit

from dj_npy._concurrency.threads import each_in_time, in_time
from dj_npy._stores import remote
from dj_npy._stores.amazon import is_amazon
from dj_npy._stores.deadline import Timed
from dj_npy._stores.environment import ca_bundle, payer_header, proxy_for
from dj_npy._stores.listed import Listed

ATTEMPTS = 5
"""Tries of botocore per request; the pauses between them grow up to 8 s, about 15 s in all."""


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


class S3Requests:
    """
    Requests for objects by ``bucket/key`` that s3fs would send otherwise.

    Parameters
    ----------
    spec : dict
        Settings of the store.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        self._client = cache(partial(_client, spec))
        self._single_try = cache(partial(_client, spec, 1))

    def remove(self, full_path: str) -> None:
        """
        Remove an object with exactly one request.

        s3fs retries a removal, and so does aiohttp when a connection closes. botocore can be told
        not to.
        """
        bucket, _, key = full_path.partition("/")
        with _botocore_errors():
            self._single_try().delete_object(Bucket=bucket, Key=key)

    def info(self, full_path: str) -> dict[str, Any]:
        """
        Return size, version and time of an object, with a GET.

        s3fs sends a HEAD, whose answer has no error code, then lists, which needs another
        permission; and it requires a Content-Length.
        """
        bucket, _, key = full_path.partition("/")
        with _botocore_errors():
            try:
                return self._get(bucket, key, Range="bytes=0-0")
            except self._client().exceptions.ClientError as error:
                if error.response.get("Error", {}).get("Code") != "InvalidRange":
                    raise
                return self._get(bucket, key)

    def _get(self, bucket: str, key: str, **more: str) -> dict[str, Any]:
        answer = self._client().get_object(Bucket=bucket, Key=key, **more)
        with closing(answer["Body"]) as body:
            content_range = re.fullmatch(r"bytes \d+-\d+/(\d+)", answer.get("ContentRange") or "")
            size = int(content_range[1]) if content_range else None
            if size is None and more:
                return self._get(bucket, key)
            if size is None:
                size = answer.get("ContentLength")
            if size is None:
                size = sum(map(len, body.iter_chunks(remote.PART)))
        found = {"size": size, "ETag": answer.get("ETag", ""), "name": f"{bucket}/{key}"}
        return {**found, "LastModified": answer.get("LastModified"), "type": "file"}

    def find(self, prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """
        Yield path, size, version and time of the objects with a prefix.

        With the listing of s3fs, a time limit could cover only the whole, not each page.
        """
        bucket, _, prefix = prefix.partition("/")
        pages = self._client().get_paginator("list_objects_v2")
        with _botocore_errors():
            for page in each_in_time(
                pages.paginate(Bucket=bucket, Prefix=prefix), remote.REQUEST_S
            ):
                for entry in page.get("Contents", ()):
                    if not entry["Key"].endswith("/"):  # some tools make such objects for folders
                        yield f"{bucket}/{entry['Key']}", {**entry, "size": entry["Size"]}


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

    client = bare_session(Session, spec).create_client(
        "s3",
        endpoint_url=spec["endpoint"],
        region_name=spec["region"],
        verify=ca_bundle(),
        aws_access_key_id=spec.get("access_key") or None,
        aws_secret_access_key=spec.get("secret_key") or None,
        config=Config(**client_config(spec, attempts)),
    )
    client._endpoint.http_session._pool_classes_by_scheme.update(_pools())
    stop_redirects(client.meta.events, spec)
    return client


def stop_redirects(events: Any, spec: dict[str, Any]) -> None:
    """Stop botocore's region redirects, which never end on servers other than Amazon S3."""

    def stop(context: dict[str, Any], **_: Any) -> None:
        context.setdefault("s3_redirect", {})["redirected"] = True

    if not is_amazon(urlsplit(spec["endpoint"]).netloc):
        events.register("before-call.s3", stop)


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


def client_config(spec: dict[str, Any], attempts: int | None = None) -> dict[str, Any]:
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


def bare_session(kind: Any, spec: dict[str, Any]) -> Any:
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

"""File systems of s3fs, gcsfs and adlfs, with our certificates and proxies."""

import base64
import os
from functools import partial
from hashlib import md5
from io import BytesIO
from types import SimpleNamespace
from typing import Any

from dj_npy._stores.botocore import bare_session, client_config, stop_redirects
from dj_npy._stores.environment import ca_bundle, encryption, proxy_for, tls


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
        config_kwargs={**client_config(spec), "http_session_cls": _session_without_redirects()},
        session=bare_session(AioSession, spec),
        skip_instance_cache=True,
    )
    filesystem.retries = 1  # s3fs would retry each of botocore's attempts
    # Buckets with Object Lock require a checksum; every server supports Content-MD5.
    events = filesystem.s3.meta.events
    for operation in ("PutObject", "UploadPart"):
        events.register(f"before-call.s3.{operation}", _add_checksum)
    stop_redirects(events, spec)
    return filesystem


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


def google_filesystem(spec: dict[str, Any]) -> Any:
    """Return a gcsfs file system with our proxy and certificates."""
    import aiohttp
    import gcsfs
    from fsspec.asyn import get_loop, sync

    async def connector() -> Any:
        return aiohttp.TCPConnector(ssl=tls())

    url = os.environ.get("STORAGE_EMULATOR_HOST") or "https://storage.googleapis.com"
    proxy = proxy_for(url if "://" in url else f"http://{url}", spec.get("proxy_server"))
    return gcsfs.GCSFileSystem(
        project=spec.get("project"),
        token=spec.get("token"),
        session_kwargs={"proxy": proxy, "connector": sync(get_loop(), connector)},
        skip_instance_cache=True,
    )


def azure_filesystem(spec: dict[str, Any]) -> Any:
    """Return an adlfs file system without redirects: a copy has a signature in a header."""
    from adlfs import AzureBlobFileSystem
    from azure.core.pipeline.policies import AsyncRedirectPolicy

    connection = spec.get("connection_string")
    if not connection and spec.get("account_key"):
        # adlfs would prefer a connection string from the environment, and its account.
        account = f"AccountName={spec.get('account_name')};AccountKey={spec['account_key']}"
        connection = f"{account};EndpointSuffix=core.windows.net"
    filesystem = AzureBlobFileSystem(
        account_name=spec.get("account_name"),
        account_key=spec.get("account_key"),
        connection_string=connection,
        # A SAS may be valid for objects only: adlfs would check the container, fail, and warn.
        assume_container_exists="sharedaccesssignature=" in (connection or "").lower() or None,
        skip_instance_cache=True,
    )
    policies = filesystem.service_client._pipeline._impl_policies
    [redirects] = [each for each in policies if isinstance(each, AsyncRedirectPolicy)]
    redirects.allow = False
    return filesystem

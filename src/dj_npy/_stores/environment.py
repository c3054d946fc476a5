"""What the environment says of the network, alike for every client: certificates, proxies, keys."""

import os
import ssl
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from dj_npy._errors import StoreError
from dj_npy._regularfile import open_regular

_BUNDLES = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
UNKNOWN_CERTIFICATE = (
    "the server's certificate is not of an authority that is known here: set AWS_CA_BUNDLE to a "
    "file with that authority's certificate"
)
_ENCRYPTION = {
    "AWS_SERVER_SIDE_ENCRYPTION": "ServerSideEncryption",
    "AWS_SSE_KMS_KEY_ID": "SSEKMSKeyId",
    "AWS_SSE_BUCKET_KEY_ENABLED": "BucketKeyEnabled",
}
"""As obstore reads them, and what botocore calls them."""


def ca_bundle() -> str | None:
    """
    Return the file of certificates to trust: the first that a variable names, or None.

    Raises
    ------
    StoreError
        If it cannot be read.
    """
    for variable in _BUNDLES:
        if path := os.environ.get(variable):
            if os.path.isdir(path):  # requests takes one; nobody else does
                continue
            try:
                with open(path, "rb", opener=open_regular):
                    return path
            except OSError as error:
                raise StoreError(
                    f"the environment variable {variable} names {path!r}, a file of certificates "
                    f"that cannot be read: {error.strerror}"
                ) from None
    return None


def trusted() -> bytes | None:
    """Return the certificates of :func:`ca_bundle`."""
    path = ca_bundle()
    if path is None:
        return None
    with open(path, "rb", opener=open_regular) as file:
        return file.read()


def tls() -> ssl.SSLContext:
    """Return what trusts the system's certificates, and those of :func:`ca_bundle`."""
    context = ssl.create_default_context()
    if path := ca_bundle():
        context.load_verify_locations(path)
    return context


def proxy_for(url: str, said: Any = None) -> str | None:
    """Return the proxy of requests to `url`: of the store's settings, or the environment's."""
    if said:
        return str(said)
    parts = urlsplit(url)
    proxies = getproxies()
    found = proxies.get(parts.scheme) or proxies.get("all")
    if not found or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    return found if "://" in found else f"http://{found}"


def encryption() -> dict[str, Any]:
    """Return the arguments of botocore for an object that the bucket wants encrypted."""
    found: dict[str, Any] = {
        name: os.environ[variable]
        for variable, name in _ENCRYPTION.items()
        if os.environ.get(variable)
    }
    if "BucketKeyEnabled" in found:
        found["BucketKeyEnabled"] = found["BucketKeyEnabled"].lower() in ("true", "1", "yes", "on")
    return found

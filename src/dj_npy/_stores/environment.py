"""Network settings from the environment, the same for every client: certificates, proxies, keys."""

import base64
import os
import ssl
from contextlib import suppress
from ipaddress import ip_address, ip_network
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import ProxyHandler, Request, getproxies, proxy_bypass

from dj_npy._errors import StoreError
from dj_npy._stores.regularfile import open_regular

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
"""The variables that obstore reads, and botocore's arguments."""
_TRUE = ("true", "1", "yes", "on")


def ca_bundle() -> str | None:
    """
    Return the file of CA certificates: the first one that a variable names, or None.

    Raises
    ------
    StoreError
        If it cannot be read, or has no certificates.
    """
    for variable in _BUNDLES:
        path = os.environ.get(variable)
        if not path or os.path.isdir(path):  # only requests accepts a folder
            continue
        what = f"the environment variable {variable} names {path!r}, a file of certificates"
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(
                cadata=_contents(path).decode("ascii", "ignore")
            )
        except (ssl.SSLError, ValueError):
            raise StoreError(f"{what} that has none, as PEM has them, or a broken one") from None
        except OSError as error:
            raise StoreError(f"{what} that cannot be read: {error.strerror}") from None
        return path
    return None


def _contents(path: str) -> bytes:
    with open(path, "rb", opener=open_regular) as file:
        return file.read()


def ca_certificates() -> bytes | None:
    """Return the contents of :func:`ca_bundle`."""
    path = ca_bundle()
    return None if path is None else _contents(path)


def tls() -> ssl.SSLContext:
    """Return an SSL context with the system's certificates and those of :func:`ca_bundle`."""
    context = ssl.create_default_context()
    if path := ca_bundle():
        context.load_verify_locations(path)
    return context


def proxy_for(url: str, configured: Any = None) -> str | None:
    """
    Return the proxy for requests to `url`: from the store's settings, or the environment.

    The only place where this is decided: every client is configured with the result.

    Raises
    ------
    StoreError
        If not every client supports this kind of proxy.
    """
    if configured:
        return str(configured)
    parts, proxies = urlsplit(url), getproxies()
    found = proxies.get(parts.scheme) or proxies.get("all")
    if not found or _bypasses_proxy(parts, proxies.get("no", "")):
        return None
    found = found if "://" in found else f"http://{found}"
    if not found.lower().startswith(("http://", "https://")):
        raise StoreError(
            f"the environment names a proxy that begins with {found.partition('://')[0]}://, and "
            f"must begin with http:// or https://. For a host without a proxy, set NO_PROXY"
        )
    return found


def _bypasses_proxy(parts: SplitResult, exceptions: str) -> bool:
    """Whether `NO_PROXY` matches: by host, domain, port, network, or ``*``."""
    host = parts.hostname or ""
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    if proxy_bypass(f"{host}:{port}"):
        return True
    for exception in exceptions.split(","):
        if exception.strip() == "*":
            return True
        with suppress(ValueError):  # not IP addresses
            if ip_address(host) in ip_network(exception.strip(), strict=False):
                return True
    return False


class Proxies(ProxyHandler):
    """The proxy of :func:`proxy_for` for `urllib`, whose own exceptions differ."""

    def __init__(self, configured: Any = None) -> None:
        super().__init__({})
        self._configured = configured

    def http_open(self, request: Request) -> Any:
        """Send a request through the proxy."""
        proxy = urlsplit(proxy_for(request.full_url, self._configured) or "")
        if not proxy.netloc or request.has_proxy():
            return None
        if proxy.username is not None:
            login = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}".encode()
            value = f"Basic {base64.b64encode(login).decode()}"
            request.add_unredirected_header("Proxy-Authorization", value)
        scheme = request.type
        request.set_proxy(proxy.netloc.rpartition("@")[2], proxy.scheme)
        if scheme in ("https", proxy.scheme):
            return None  # left to the handler that opens connections
        return self.parent.open(request, timeout=request.timeout)

    https_open = http_open


def encryption() -> dict[str, Any]:
    """Return botocore's arguments for server-side encryption."""
    found: dict[str, Any] = {
        name: os.environ[variable]
        for variable, name in _ENCRYPTION.items()
        if os.environ.get(variable)
    }
    if "BucketKeyEnabled" in found:
        found["BucketKeyEnabled"] = found["BucketKeyEnabled"].lower() in _TRUE
    return found


def payer_header() -> dict[str, str]:
    """Return the header for requester-pays buckets."""
    value = os.environ.get("AWS_REQUEST_PAYER", "").lower()
    return {"x-amz-request-payer": "requester"} if value in (*_TRUE, "requester") else {}

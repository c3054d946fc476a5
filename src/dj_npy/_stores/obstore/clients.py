"""Create obstore clients from a DataJoint store's settings."""

import base64
import json
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, S3Store

from dj_npy._errors import StoreError
from dj_npy._stores import remote
from dj_npy._stores.amazon import is_amazon
from dj_npy._stores.botocore import MultipartUploads
from dj_npy._stores.environment import ca_certificates, proxy_for
from dj_npy._stores.obstore.failures import first_line
from dj_npy._stores.obstore.reader import Client
from dj_npy._stores.obstore.store import CloudStore
from dj_npy._stores.regularfile import open_regular
from dj_npy._stores.secret import Redactor

Spec = dict[str, Any]
MakeClient = Callable[..., Client]
"""Takes options of the HTTP client, the number of retries, and more settings."""

MAX_RETRIES = 8
_BACK_OFF = {
    "init_backoff": timedelta(milliseconds=100),
    "max_backoff": timedelta(seconds=10),
    "base": 2,
}
_CREDENTIALS_LAST = timedelta(minutes=5)
_NO_PROXY = {"proxy_url": "http://none.invalid", "proxy_excludes": "*,0.0.0.0/0,::/0"}
"""A proxy that no host uses: without one, obstore reads the environment."""
_MICROSOFT = re.compile(
    r".+\.(core\.(windows\.net|usgovcloudapi\.net|chinacloudapi\.cn|cloudapi\.de)"
    r"|storage\.azure\.net|fabric\.microsoft\.com)"
)
_FOLLOWS = "obstore would take the secret along to wherever the server redirects it"


class UnsupportedByObstore(Exception):  # noqa: N818
    """obstore cannot express these settings, or would leak a secret with them; fsspec may do."""


def cloud_store(name: str, spec: Spec, identity: str, redactor: Redactor) -> CloudStore:
    """
    Return the store that a DataJoint configuration describes.

    Parameters
    ----------
    name : str
        Name of the store in the configuration.
    spec : dict
        Its settings, with protocol ``s3``, ``gcs`` or ``azure``; `location` without empty
        components, `endpoint` as a URL, `region`.
    identity : str
        Unique description of the location.
    redactor : Redactor
        Removes the credentials from all messages.

    Raises
    ------
    UnsupportedByObstore
        If obstore does not support this kind of credentials.
    StoreError
        If the settings contradict each other, or there are no credentials.
    """
    make = {"s3": _s3, "gcs": _gcs, "azure": _azure}[spec["protocol"]]
    try:
        client = make(name, spec, redactor)
        # Buckets with Object Lock require a checksum; obstore computes SHA-256 for the signature
        # anyway.
        checksums = {"checksum_algorithm": "SHA256"} if spec["protocol"] == "s3" else {}
        silence = {"read_timeout": timedelta(seconds=remote.SILENCE_S)}
        reader, asker = client(silence, MAX_RETRIES), client(silence, 0)
        writer, remover = client({}, MAX_RETRIES, **checksums), client({}, 0, **checksums)
        plain = (client({}, MAX_RETRIES), client({}, 0)) if spec["protocol"] == "s3" else None
    except (BaseError, ValueError, TypeError) as error:
        message = redactor.redact(str(error))
        raise StoreError(
            f"store {name!r} is not configured as obstore wants it: {first_line(message)}"
        ) from None
    return CloudStore(
        name,
        reader,
        writer,
        remover,
        identity,
        redactor=redactor,
        direct=spec["protocol"] == "s3"
        and not proxy_for(spec["endpoint"], spec.get("proxy_server")),
        proxy=spec.get("proxy_server"),
        asker=asker,
        plain=plain,
        # Azure and Google delete unfinished uploads themselves after a week.
        unfinished=MultipartUploads(spec) if spec["protocol"] == "s3" else None,
    )


def _retry_config(retries: int) -> Any:
    limit = timedelta(seconds=remote.RETRY_S)
    return {"max_retries": retries, "backoff": _BACK_OFF, "retry_timeout": limit}


def _client_options(spec: Spec, url: str, more: Spec) -> Any:
    options = {
        **more,
        "connect_timeout": timedelta(seconds=remote.CONNECT_TIMEOUT_S),
        "timeout": timedelta(seconds=remote.REQUEST_S),
        "allow_http": url.startswith("http://"),
        "user_agent": "dj-npy",
    }
    if certificates := ca_certificates():
        options["root_certificate"] = certificates
    proxy = proxy_for(url, spec.get("proxy_server"))
    return {**options, **({"proxy_url": proxy} if proxy else _NO_PROXY)}


def _s3(name: str, spec: Spec, redactor: Redactor) -> MakeClient:
    url, virtual = spec["endpoint"], False
    if is_amazon(urlsplit(url).netloc):
        # The certificate for *.s3.amazonaws.com does not cover bucket names with dots.
        virtual = "." not in spec["bucket"]
        host = f"s3.{spec['region']}.amazonaws.com{'.cn' if url.endswith('.cn') else ''}"
        url = f"https://{spec['bucket']}.{host}" if virtual else f"https://{host}"
    # All that obstore would otherwise read from the environment, where no other client reads it.
    options: Spec = {
        "endpoint": url,
        "aws_endpoint_url_s3": url,  # takes precedence over `endpoint`
        "virtual_hosted_style_request": virtual,
        "conditional_put": "etag",
        "skip_signature": False,
        "unsigned_payload": False,
        "s3_express": False,
    }
    access, secret = spec.get("access_key"), spec.get("secret_key")
    if bool(access) != bool(secret):
        raise StoreError(
            f"store {name!r} has only one of `access_key` and `secret_key`: set both, or none "
            f"to use the credentials of this machine"
        )
    if access:
        # As a provider, because the environment may have a session token of other credentials.
        keys = {"access_key_id": access, "secret_access_key": secret, "expires_at": None}
        options["credential_provider"] = lambda: keys
    else:
        options |= _ambient_s3(name, spec, redactor)

    def client(more: Spec, retries: int, **settings: Any) -> Client:
        return S3Store(
            spec["bucket"],
            prefix=spec["location"] or None,
            region=spec["region"],
            client_options=_client_options(spec, url, more),
            retry_config=_retry_config(retries),
            **options,
            **settings,
        )

    return client


def _ambient_s3(name: str, spec: Spec, redactor: Redactor) -> Spec:
    """Return credentials as botocore finds them: environment, profile, single sign-on, instance."""
    is_on_amazon = is_amazon(urlsplit(spec["endpoint"]).netloc)
    try:
        from botocore.credentials import Credentials
        from botocore.session import get_session
    except ImportError:  # obstore itself looks in some of these places
        if not is_on_amazon:
            raise UnsupportedByObstore(_FOLLOWS) from None
        return {}
    credentials = get_session().get_credentials()
    if credentials is None:
        raise StoreError(
            f"store {name!r} has no `access_key` and `secret_key`, and there are no AWS "
            f"credentials on this machine: set these, or AWS_ACCESS_KEY_ID and "
            f"AWS_SECRET_ACCESS_KEY, or run `aws configure`"
        )

    if not is_on_amazon and credentials.get_frozen_credentials().token:
        raise UnsupportedByObstore(_FOLLOWS)

    def provide() -> Spec:
        nonlocal credentials
        if type(credentials) is Credentials:  # from a file, which may have changed
            credentials = get_session().get_credentials() or credentials
        frozen = credentials.get_frozen_credentials()  # botocore renews them when they expire
        redactor.add(*frozen)
        if not is_on_amazon and frozen.token:
            raise PermissionError("the credentials have a session token by now: try again")
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + _CREDENTIALS_LAST,
        }

    return {"credential_provider": provide}


def _gcs(name: str, spec: Spec, redactor: Redactor) -> MakeClient:
    if os.environ.get("STORAGE_EMULATOR_HOST"):
        raise UnsupportedByObstore("an emulator speaks Google's JSON API only")
    credentials = _google_credentials(name, spec.get("token"), redactor)
    key = json.loads(credentials.get("service_account_key", "{}"))
    url = key.get("gcs_base_url", "https://storage.googleapis.com")

    def client(more: Spec, retries: int) -> Client:
        return GCSStore(
            spec["bucket"],
            prefix=spec["location"] or None,
            client_options=_client_options(spec, url, more),
            retry_config=_retry_config(retries),
            **{"skip_signature": False, **credentials},
        )

    return client


def _google_credentials(name: str, token: Any, redactor: Redactor) -> Spec:
    """
    Translate gcsfs's `token` into obstore's settings.

    https://gcsfs.readthedocs.io/en/latest/#credentials
    """
    if token == "anon":
        return {"skip_signature": True}
    if token in (None, "", "google_default"):
        try:
            import google.auth
            from obstore.auth.google import GoogleCredentialProvider
        except ImportError:  # obstore looks for a key file and the metadata server
            return {}
        try:
            return {
                "credential_provider": partial(
                    _credentials_of, GoogleCredentialProvider(), redactor
                )
            }
        except google.auth.exceptions.DefaultCredentialsError:
            if not token:
                raise UnsupportedByObstore("gcsfs looks in more places") from None
            raise StoreError(
                f"store {name!r} has token 'google_default', and there are no Google credentials "
                f"on this machine: run `gcloud auth application-default login`, or set "
                f"GOOGLE_APPLICATION_CREDENTIALS or the store's `token` to a key file"
            ) from None
    if isinstance(token, str) and (os.path.isfile(token) or token.endswith(".json")):
        with open(token, encoding="utf-8", opener=open_regular) as file:
            token = json.load(file)
    if isinstance(token, dict) and token.get("type") == "service_account":
        return {"service_account_key": json.dumps(token)}
    raise UnsupportedByObstore("a token that gcsfs may know")


def _azure(name: str, spec: Spec, redactor: Redactor) -> MakeClient:
    parts = dict(
        part.split("=", 1)
        for part in str(spec.get("connection_string") or "").split(";")
        if "=" in part
    )
    settings = {key.lower(): value for key, value in parts.items()}
    options: Spec = {}
    account = settings.get("accountname") or spec.get("account_name")
    url = settings.get("blobendpoint", "").rstrip("/")
    if settings.get("usedevelopmentstorage", "").lower() == "true":
        options = {"use_emulator": True}
        url = "http://"
    else:
        if not account and url:
            account = urlsplit(url).netloc.split(".")[0]
        if not account:
            raise StoreError(f"store {name!r} has no `account_name` and no `connection_string`")
        if not url and "endpointsuffix" in settings:
            scheme = settings.get("defaultendpointsprotocol", "https")
            url = f"{scheme}://{account}.blob.{settings['endpointsuffix']}"
        # Always given, because the environment may name another.
        url = url or f"https://{account}.blob.core.windows.net"
        options = {
            "endpoint": url,
            "account_name": account,
            "use_emulator": False,
            "skip_signature": False,
        }
        if settings.get("sharedaccesssignature") and not _is_microsoft(url):
            raise UnsupportedByObstore(_FOLLOWS)
        options |= _azure_credentials(
            name,
            settings.get("accountkey") or spec.get("account_key"),
            settings.get("sharedaccesssignature"),
            redactor,
        )

    def client(more: Spec, retries: int) -> Client:
        return AzureStore(
            spec["container"],
            prefix=spec["location"] or None,
            client_options=_client_options(spec, url, more),
            retry_config=_retry_config(retries),
            **options,
        )

    return client


def _is_microsoft(url: str) -> bool:
    """Whether a URL is Azure itself, not another server with its protocol."""
    parts = urlsplit(url)
    return parts.scheme == "https" and bool(_MICROSOFT.fullmatch((parts.hostname or "").lower()))


def _azure_credentials(
    name: str, key: str | None, signature: str | None, redactor: Redactor
) -> Spec:
    # As providers, because a token in the environment would take precedence.
    if key:
        try:
            base64.b64decode(key, validate=True)
        except ValueError:
            raise StoreError(f"store {name!r}: the account key is not base64") from None
        return {"credential_provider": lambda: {"access_key": key, "expires_at": None}}
    if signature:
        token = {"sas_token": signature.removeprefix("?"), "expires_at": None}
        return {"credential_provider": lambda: token}
    try:
        from obstore.auth.azure import AzureCredentialProvider
    except ImportError:  # obstore reads the environment and a managed identity
        return {}
    return {"credential_provider": partial(_credentials_of, AzureCredentialProvider(), redactor)}


def _credentials_of(provider: Callable[[], Any], redactor: Redactor) -> Any:
    """Return the credentials of a provider, and have them redacted from messages."""
    found = provider()
    redactor.add(*(value for value in found.values() if isinstance(value, str)))
    return found

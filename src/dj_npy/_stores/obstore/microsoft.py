"""Azure settings that obstore and adlfs share."""

import re
from typing import Any
from urllib.parse import urlsplit

_HOSTS = re.compile(
    r".+\.(core\.(windows\.net|usgovcloudapi\.net|chinacloudapi\.cn|cloudapi\.de)"
    r"|storage\.azure\.net|fabric\.microsoft\.com)"
)


def is_microsoft(url: str) -> bool:
    """Whether a URL is Azure itself, not another server with its protocol."""
    parts = urlsplit(url)
    return parts.scheme == "https" and bool(_HOSTS.fullmatch((parts.hostname or "").lower()))


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

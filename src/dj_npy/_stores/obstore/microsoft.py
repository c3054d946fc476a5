"""What both ways to Azure, obstore and adlfs, want to know of a store's settings."""

import re
from typing import Any
from urllib.parse import urlsplit

_HOSTS = re.compile(
    r".+\.(core\.(windows\.net|usgovcloudapi\.net|chinacloudapi\.cn|cloudapi\.de)"
    r"|storage\.azure\.net|fabric\.microsoft\.com)"
)


def is_microsoft(url: str) -> bool:
    """Whether an address is of Azure itself, rather than of a server that speaks its protocol."""
    parts = urlsplit(url)
    return parts.scheme == "https" and bool(_HOSTS.fullmatch((parts.hostname or "").lower()))


def azure_filesystem(spec: dict[str, Any]) -> Any:
    """Return an adlfs file system that follows no redirect: a copy has a signature in a header."""
    from adlfs import AzureBlobFileSystem
    from azure.core.pipeline.policies import AsyncRedirectPolicy

    connection = spec.get("connection_string")
    if not connection and spec.get("account_key"):
        # adlfs would rather take one of the environment, and that account.
        account = f"AccountName={spec.get('account_name')};AccountKey={spec['account_key']}"
        connection = f"{account};EndpointSuffix=core.windows.net"
    filesystem = AzureBlobFileSystem(
        account_name=spec.get("account_name"),
        account_key=spec.get("account_key"),
        connection_string=connection,
        # A signature may be good for its objects only: adlfs would ask in vain, and warn.
        assume_container_exists="sharedaccesssignature=" in (connection or "").lower() or None,
        skip_instance_cache=True,
    )
    policies = filesystem.service_client._pipeline._impl_policies
    [redirects] = [each for each in policies if isinstance(each, AsyncRedirectPolicy)]
    redirects.allow = False
    return filesystem

"""Open stores from DataJoint's configuration: which protocol is which backend is decided here."""

import json
import logging
import os
import re
import sys
from functools import partial
from typing import Any, NamedTuple

from datajoint.errors import DataJointError

from dj_npy._errors import StoreError
from dj_npy._stores.amazon import endpoint_of, region_of, server_time
from dj_npy._stores.base import Store
from dj_npy._stores.botocore import S3Requests, ambient_secrets
from dj_npy._stores.described import StoreConfig
from dj_npy._stores.environment import proxy_for
from dj_npy._stores.filesystems import azure_filesystem, google_filesystem, s3_filesystem
from dj_npy._stores.fsspec import GenericStore
from dj_npy._stores.local.store import LocalStore
from dj_npy._stores.remote import RemoteStore
from dj_npy._stores.secret import TOKEN_FILTER, Redactor, without_context, without_secrets

_ANY_SERVICE = "https://storage.googleapis.com"
_SERVICES = ("s3", "gcs", "azure")


class Addressing(NamedTuple):
    """The settings of a store that determine paths in it."""

    prefix: str
    partition: str
    token_length: int


# One store object per configured store and process.
_open_stores: dict[str, Store] = {}
# The same by configuration and name: a cheap lookup, done for every array.
_recent: dict[tuple[int, str], tuple[dict[str, Any], Store]] = {}
_MAX_RECENT = 1000


def open_store(config: StoreConfig, name: str | None) -> Store:
    """
    Return the store called `name` in DataJoint's configuration.

    Parameters
    ----------
    config : StoreConfig
        The connection's configuration.
    name : str or None
        None and ``""`` are the default store.

    Raises
    ------
    datajoint.DataJointError
        If the store is not configured, or not properly.
    """
    stores = config.stores
    name = name or stores.get("default") or ""
    if not isinstance(name, str):
        raise StoreError("stores['default'] must be the name of a store, and that a text")
    settings = stores.get(name)
    known = _recent.get((id(config), name))
    # Compared by value: a configuration may change in place, and an id be reused.
    if known is not None and known[0] == settings:
        return known[1]
    if name and settings is None:
        raise StoreError(
            f"no store is called {name!r:.200}: set dj.config.stores, or correct the row or the "
            f"table's definition"
        )
    if settings is not None and not isinstance(settings, dict):  # "default" names a store
        raise StoreError(f"no store is called {name!r}, with settings that are a dict")
    if settings and not isinstance(settings.get("protocol"), str):
        raise StoreError(f"store {name!r} has no `protocol`, or one that is no text")
    spec = config.get_store_spec(name or None)
    identity = json.dumps([name, spec], sort_keys=True, default=repr)
    store = _open_stores.get(identity)
    if store is None:
        with without_context():
            store = _open_stores.setdefault(identity, _new_store(name, spec))
        if isinstance(store, RemoteStore) and not spec.get("access_key"):
            store.denied = partial(_forget, identity)
    if len(_recent) >= _MAX_RECENT:
        _recent.clear()
    _recent[id(config), name] = (dict(settings or {}), store)
    return store


def _forget(identity: str) -> None:
    """Open a store anew on next use, as new credentials may be found after a refusal."""
    store = _open_stores.pop(identity, None)
    for key, (_, recent) in list(_recent.items()):
        if recent is store:
            _recent.pop(key, None)


def schema_addressing(config: StoreConfig, store: Store) -> Addressing:
    """
    Return the user's settings for paths in a store.

    Taken as the user wrote them: DataJoint fills in a default `schema_prefix` of ``_schema``, which
    the specification's paths do not have.
    """
    settings = config.stores[store.name]
    for key, kind in (("schema_prefix", str), ("partition_pattern", str), ("token_length", int)):
        if not isinstance(settings.get(key) or kind(), kind):
            raise StoreError(f"store {store.name!r}: `{key}` must be of type {kind.__name__}")
    return Addressing(
        settings.get("schema_prefix") or "",
        settings.get("partition_pattern") or "",
        settings.get("token_length") or 0,
    )


def _new_store(name: str, spec: dict[str, Any]) -> Store:
    protocol = spec["protocol"].lower()
    spec = {**spec, "protocol": protocol}
    try:
        if protocol == "file":
            return LocalStore(name, _folder(name, os.fspath(spec["location"])))
        if protocol in _SERVICES:
            return _service_store(name, spec)
        return _generic_store(name, spec)
    except DataJointError:
        raise
    except ModuleNotFoundError as error:
        package = f"dj-npy[{protocol}]" if protocol in _SERVICES else error.name
        raise StoreError(
            f"store {name!r} has protocol {protocol!r}, for which {error.name or error} is not "
            f"installed: pip install '{package}'"
        ) from error
    except Exception as error:
        # Of any type: botocore, google-auth, azure-identity and others look for credentials.
        message = Redactor(spec).redact(str(error))
        message = re.sub(r"\w+://\S+|\w+=\S+", "...", " ".join(message.split()))[:200]
        raise StoreError(
            f"store {name!r} cannot be opened with its settings ({type(error).__name__}: {message})"
        ) from None


def _folder(name: str, location: str) -> str:
    """Return the folder of a local store; refuse a relative path, which depends on the process."""
    meant = os.path.expanduser(re.sub(r"^file:(//[^/]*)?", "", location))
    if location and os.path.isabs(location):
        return location
    raise StoreError(
        f"store {name!r}: `location` must be an absolute path, and is {location!r}. Perhaps "
        f"{os.path.abspath(meant)!r} is meant"
    )


def _service_store(name: str, spec: dict[str, Any]) -> Store:
    for key, value in spec.items():
        if isinstance(value, str) and re.search(r"[\0-\x1f\x7f]", value):
            raise StoreError(f"store {name!r}: `{key}` has a line break or control character in it")
    bucket = spec.get("bucket") or spec.get("container")
    if not isinstance(bucket, str) or not re.fullmatch(r"[$\w.-]+", bucket, re.ASCII):
        redacted_name = Redactor(spec).redact(repr(bucket))
        raise StoreError(f"store {name!r}: {redacted_name} is no name of a bucket or container")
    account = str(spec.get("account_name") or "")
    if spec["protocol"] == "azure" and not re.fullmatch(r"[A-Za-z0-9-]*", account):
        raise StoreError(f"store {name!r}: `account_name` is no name of an account")
    proxy = spec.get("proxy_server")
    if proxy and not re.match(r"https?://[^/\s]+", str(proxy)):
        raise StoreError(f"store {name!r}: `proxy_server` must begin with http:// or https://")
    # obstore and this package refuse empty components in object names.
    spec["location"] = "/".join(filter(None, str(spec.get("location") or "").split("/")))
    if spec["protocol"] == "s3":
        spec["endpoint"] = endpoint_of(name, spec)
        spec["region"] = region_of(spec)
    store = _client_store(name, spec, _identity(spec))
    proxy = proxy_for(spec.get("endpoint") or _ANY_SERVICE, spec.get("proxy_server"))
    store.via = without_secrets(proxy) if proxy else None
    if spec["protocol"] == "s3":
        url = f"{spec['endpoint']}/{bucket}"
        store.ask_time = partial(server_time, url, spec.get("proxy_server"))
    return store


def _client_store(name: str, spec: dict[str, Any], identity: str) -> RemoteStore:
    if not _forked:
        from dj_npy._stores.obstore.clients import UnsupportedByObstore, cloud_store

        try:
            return cloud_store(name, spec, identity, Redactor(spec))
        except UnsupportedByObstore:
            pass
    return _generic_store(name, spec, identity)


def _identity(spec: dict[str, Any]) -> str:
    connection = spec.get("connection_string") or ""
    found = re.search(r"(?i)BlobEndpoint=([^;]+)", connection)
    found = found or re.search(r"(?i)AccountName=([^;]+)", connection)
    where = spec.get("endpoint") or (found[1] if found else spec.get("account_name") or "")
    where = where.rpartition("://")[2].rpartition("@")[2].rstrip("/").lower()
    bucket = spec.get("bucket") or spec.get("container")
    return f"{spec['protocol']}://{'/'.join(filter(None, (where, bucket, spec['location'])))}"


def _generic_store(name: str, spec: dict[str, Any], identity: str | None = None) -> GenericStore:
    from datajoint.storage import StorageBackend  # optional, so imported late

    # DataJoint's backend is used without any request.
    backend = StorageBackend(spec)
    on_s3, redactor = spec["protocol"] == "s3", Redactor(spec)
    if on_s3:
        filesystem = s3_filesystem(spec)
        if not spec.get("access_key"):
            redactor.ask = ambient_secrets()
    elif spec["protocol"] == "azure":
        filesystem = azure_filesystem(spec)
    elif spec["protocol"] == "gcs":
        filesystem = google_filesystem(spec)
        redactor.ask = lambda: [filesystem.credentials.credentials.token]
    else:
        filesystem = backend.fs
    logging.getLogger(type(filesystem).__module__.partition(".")[0]).addFilter(TOKEN_FILTER)
    return GenericStore(
        name,
        filesystem,
        backend._full_path,
        identity or without_secrets(backend.get_url("").rstrip("/")),
        service=spec["protocol"] in _SERVICES,
        s3=S3Requests(spec) if on_s3 else None,
        redactor=redactor,
    )


# obstore's threads do not survive a fork, after which every call would hang.
_forked = False
_parent_stores: list[Any] = []


def _abandon_parent_stores() -> None:
    """In a forked child: open stores anew, through fsspec if obstore may have been in use."""
    global _forked
    _forked = _forked or "obstore" in sys.modules
    # Kept, because even dropping a client might wait for one of its threads.
    _parent_stores.append((_open_stores.copy(), _recent.copy()))
    _open_stores.clear()
    _recent.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_parent_stores)

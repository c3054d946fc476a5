"""From DataJoint's configuration to a store."""

import json
import os
import platform
import re
import sys
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import datajoint as dj
from datajoint.errors import DataJointError, ThreadSafetyError
from datajoint.storage import StorageBackend

from dj_npy._errors import StoreError
from dj_npy._stores.amazon import endpoint_of, region_of, s3_filesystem, s3_remove
from dj_npy._stores.base import Store
from dj_npy._stores.generic import GenericStore
from dj_npy._stores.local import LocalStore
from dj_npy._stores.remote import redacted

# What may travel in a pickle. All else, such as a plugin's own settings, may be a secret.
_PUBLIC = (
    "protocol",
    "location",
    "endpoint",
    "secure",
    "bucket",
    "container",
    "project",
    "account_name",
    "schema_prefix",
    "partition_pattern",
    "token_length",
    "subfolding",
    "hash_prefix",
    "filepath_prefix",
    "region",
)

_SHORTEST_SECRET = 3
_SERVICES = ("s3", "gcs", "azure")


class StoreConfig(Protocol):
    """What is used of DataJoint's configuration."""

    @property
    def stores(self) -> dict[str, Any]:
        """Settings by store; ``default`` names the default one."""
        ...

    def get_store_spec(self, store: str | None = None) -> dict[str, Any]:
        """Return the checked settings of a store; None is the default one."""
        ...


class Addressing(NamedTuple):
    """How a store's configuration shapes the paths in it."""

    prefix: str
    partition: str
    token_length: int


# One store object per configured store and process.
_opened: dict[str, Store] = {}
# The same by the configuration they came from: this much can be asked for every array.
_recent: dict[tuple[int, str], tuple[dict[str, Any], Store]] = {}
_MAX_RECENT = 1000


def open_store(config: StoreConfig, name: str | None) -> Store:
    """
    Return the store that DataJoint's configuration calls `name`.

    Parameters
    ----------
    config : StoreConfig
        The connection's configuration.
    name : str or None
        None and ``""`` are the default store.

    Raises
    ------
    datajoint.DataJointError
        If no such store is configured, or not properly.
    """
    stores = config.stores
    name = name or stores.get("default") or ""
    if not isinstance(name, str):
        raise StoreError("stores['default'] must be the name of a store, and that a text")
    settings = stores.get(name)
    known = _recent.get((id(config), name))
    # Compared by value: a configuration may be changed in place, and an id used again.
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
    store = _opened.get(identity) or _opened.setdefault(identity, _new_store(name, spec))
    if len(_recent) >= _MAX_RECENT:
        _recent.clear()
    _recent[id(config), name] = (dict(settings or {}), store)
    return store


def schema_addressing(config: StoreConfig, store: Store) -> Addressing:
    """
    Return what the user's settings say about paths in a store.

    Read as the user wrote them: DataJoint fills in a `schema_prefix` of ``_schema`` where
    none was set, which the specification's paths do not have.
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


class DescribedStore:
    """
    Configuration of one store as a pickled reference brings it: all but the secrets.

    Those come from this process's ``dj.config``, from its store of the same name.

    Parameters
    ----------
    name : str
        What the configuration calls it.
    public : tuple of (str, value)
        The settings that travel.
    withheld : tuple of str
        The names of those that do not.
    """

    def __init__(
        self, name: str, public: tuple[tuple[str, Any], ...], withheld: tuple[str, ...]
    ) -> None:
        self._name, self._public, self._withheld = name, public, withheld

    @property
    def identity(self) -> tuple[Any, ...]:
        """What tells it from another store, and is the same in every process."""
        return self._name, *self._public

    @property
    def stores(self) -> dict[str, Any]:
        """The store, as the default one."""
        own = self._own()
        return {"default": self._name, self._name: {**(own or {}), **dict(self._public)}}

    def get_store_spec(self, store: str | None = None) -> dict[str, Any]:
        """Return the settings of the store, the only one there is."""
        spec = self.stores.get(store or self._name, {})
        if "protocol" not in spec:
            raise StoreError(
                f"store {store or self._name!r} was not configured where this reference was "
                f"pickled, nor is it here: set dj.config.stores[{store or self._name!r}]"
            )
        if self._withheld and self._own() is None:
            said = " and ".join(f"`{key}`" for key in self._withheld)
            raise StoreError(
                f"store {self._name!r} is configured with {said} where this reference was "
                f"pickled. These do not travel, and in process {os.getpid()} on "
                f"{platform.node()!r} no store is called {self._name!r}: set it there, in "
                f"datajoint.json and its .secrets, in the environment variable DJ_STORES, or by "
                f"dj.config.stores[{self._name!r}] = {{...}}"
            )
        return dict(spec)

    def _own(self) -> dict[str, Any] | None:
        """What this process's own configuration says of it."""
        try:
            own: dict[str, Any] | None = dj.config.stores.get(self._name)
        except ThreadSafetyError:  # DataJoint in thread-safe mode has no configuration of its own
            own = None
        return own

    def __reduce__(self) -> tuple[Any, ...]:
        return _described, (self._name, self._public, self._withheld)


def describe(config: StoreConfig, name: str | None) -> DescribedStore:
    """Return what a pickle may hold of a store's configuration."""
    if isinstance(config, DescribedStore):  # and is handed on
        return config
    name = name or config.stores.get("default") or ""
    settings = config.stores.get(name) or {}
    if not isinstance(settings, dict):  # told when the store is opened
        settings = {}
    public = {key: settings[key] for key in _PUBLIC if key in settings}
    if public.get("protocol") == "file":  # the other process may be in another folder
        public["location"] = os.path.abspath(public["location"])
    if "@" in str(public.get("endpoint", "")):  # https://user:password@host
        del public["endpoint"]
    withheld = tuple(sorted(key for key in settings if settings[key] and key not in public))
    return _described(name, tuple(public.items()), withheld)


@lru_cache(maxsize=256)
def _described(
    name: str, public: tuple[tuple[str, Any], ...], withheld: tuple[str, ...]
) -> DescribedStore:
    """One object a store, however many references are unpickled: see `_recent`."""
    return DescribedStore(name, public, withheld)


def _new_store(name: str, spec: dict[str, Any]) -> Store:
    protocol = spec["protocol"].lower()
    spec = {**spec, "protocol": protocol}
    try:
        if protocol == "file":
            return LocalStore(name, spec["location"])
        if protocol in _SERVICES:
            return _service_store(name, spec)
        return _generic_store(name, spec, StorageBackend(spec).get_url("").rstrip("/"))
    except DataJointError:
        raise
    except ImportError as error:
        package = f"dj-npy[{protocol}]" if protocol in _SERVICES else error.name
        raise StoreError(
            f"store {name!r} has protocol {protocol!r}, for which {error.name or error} is not "
            f"installed: pip install '{package}'"
        ) from error
    except Exception as error:
        # Of any kind: credentials are looked for by botocore, google-auth, azure-identity ...
        said = redacted(str(error), _hidden(spec))
        said = re.sub(r"\w+://\S+|\w+=\S+", "...", " ".join(said.split()))[:200]
        raise StoreError(
            f"store {name!r} cannot be opened with its settings ({type(error).__name__}: {said})"
        ) from None


def _service_store(name: str, spec: dict[str, Any]) -> Store:
    for key, value in spec.items():
        if isinstance(value, str) and re.search(r"[\0-\x1f\x7f]", value):
            raise StoreError(f"store {name!r}: `{key}` has a line break or control character in it")
    bucket = spec.get("bucket") or spec.get("container")
    if not isinstance(bucket, str) or not re.fullmatch(r"[$\w.-]+", bucket, re.ASCII):
        raise StoreError(f"store {name!r}: {bucket!r} is no name of a bucket or container")
    proxy = spec.get("proxy_server")
    if proxy and not re.match(r"https?://[^/\s]+", str(proxy)):
        raise StoreError(f"store {name!r}: `proxy_server` must begin with http:// or https://")
    # An object's name has no empty component: neither obstore nor this package takes one.
    spec["location"] = "/".join(filter(None, str(spec.get("location") or "").split("/")))
    if spec["protocol"] == "s3":
        spec["endpoint"] = endpoint_of(name, spec)
        spec["region"] = region_of(spec)
    identity = _identity(spec)
    if not _forked:
        from dj_npy._stores.clients import Inexpressible, cloud_store

        try:
            return cloud_store(name, spec, identity, _hidden(spec))
        except Inexpressible:
            pass
    return _generic_store(name, spec, identity)


def _identity(spec: dict[str, Any]) -> str:
    connection = spec.get("connection_string") or ""
    said = re.search(r"(?i)BlobEndpoint=([^;]+)", connection)
    said = said or re.search(r"(?i)AccountName=([^;]+)", connection)
    where = spec.get("endpoint") or (said[1] if said else spec.get("account_name") or "")
    where = where.rpartition("://")[2].rpartition("@")[2].rstrip("/")
    bucket = spec.get("bucket") or spec.get("container")
    return f"{spec['protocol']}://{'/'.join(filter(None, (where, bucket, spec['location'])))}"


def _hidden(spec: dict[str, Any]) -> list[str]:
    """What no message may have: all that is not known to be public, and its parts."""
    values = _texts({key: value for key, value in spec.items() if key not in _PUBLIC})
    said = ";".join([*values, str(spec.get("endpoint") or "")])
    parts = re.findall(r"(?i)(?:AccountKey|SharedAccessSignature)=([^;]+)", said)
    parts += re.findall(r"://[^/@]*:([^/@]+)@", said)
    return [text for text in values + parts if len(text) > _SHORTEST_SECRET]


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [text for each in value for text in _texts(each)]
    return [str(value)] if value else []


def _generic_store(name: str, spec: dict[str, Any], identity: str) -> Store:
    # What is asked of DataJoint's backend makes no request.
    backend = StorageBackend(spec)
    on_s3 = spec["protocol"] == "s3"
    return GenericStore(
        name,
        s3_filesystem(spec) if on_s3 else backend.fs,
        backend._full_path,
        identity,
        service=spec["protocol"] in _SERVICES,
        remove=s3_remove(spec) if on_s3 else None,
        hidden=_hidden(spec),
    )


# Obstore's threads do not survive a fork, and whatever is asked of it then hangs for ever.
_forked = False
_of_the_parent: list[Any] = []


def _leave_the_parents_stores() -> None:
    """In a forked child: open stores anew, through fsspec if obstore may have been in use."""
    global _forked
    _forked = _forked or "obstore" in sys.modules
    # Kept, as even to let go of a client might wait for one of its threads.
    _of_the_parent.append((_opened.copy(), _recent.copy()))
    _opened.clear()
    _recent.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_the_parents_stores)

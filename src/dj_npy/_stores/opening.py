"""From DataJoint's configuration to a store."""

import json
import os
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import datajoint as dj
from datajoint.errors import ThreadSafetyError

from dj_npy._errors import StoreError
from dj_npy._stores.base import Store
from dj_npy._stores.local import LocalStore

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
)


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
    settings = stores.get(name)
    known = _recent.get((id(config), name))
    # Compared by value: a configuration may be changed in place, and an id used again.
    if known is not None and known[0] == settings:
        return known[1]
    if isinstance(settings, str):  # "default", which names a store and is none
        raise StoreError(f"no store is called {name!r}")
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
    return Addressing(settings.get("schema_prefix") or "", settings.get("partition_pattern") or "")


class DescribedStore:
    """
    Configuration of one store as a pickled reference brings it: all but the secrets.

    Those come from this process's ``dj.config``, from its store of the same name.
    """

    def __init__(self, name: str, public: tuple[tuple[str, Any], ...]) -> None:
        self._name, self._public = name, public

    @property
    def stores(self) -> dict[str, Any]:
        """The store, as the default one."""
        try:
            own = dj.config.stores.get(self._name, {})
        except ThreadSafetyError:  # DataJoint in thread-safe mode has no configuration of its own
            own = {}
        return {"default": self._name, self._name: {**own, **dict(self._public)}}

    def get_store_spec(self, store: str | None = None) -> dict[str, Any]:
        """Return the settings of the store, the only one there is."""
        spec = self.stores.get(store or self._name, {})
        if "protocol" not in spec:
            raise StoreError(
                f"store {store or self._name!r} was not configured where this reference was "
                f"pickled, nor is it here: set dj.config.stores[{store or self._name!r}]"
            )
        return dict(spec)

    def __reduce__(self) -> tuple[Any, ...]:
        return _described, (self._name, self._public)


def describe(config: StoreConfig, name: str | None) -> DescribedStore:
    """Return what a pickle may hold of a store's configuration."""
    name = name or config.stores.get("default") or ""
    settings = config.stores.get(name) or {}
    public = {key: settings[key] for key in _PUBLIC if key in settings}
    if public.get("protocol") == "file":  # the other process may be in another folder
        public["location"] = os.path.abspath(public["location"])
    if "@" in str(public.get("endpoint", "")):  # https://user:password@host
        del public["endpoint"]
    return _described(name, tuple(public.items()))


@lru_cache(maxsize=256)
def _described(name: str, public: tuple[tuple[str, Any], ...]) -> DescribedStore:
    """One object a store, however many references are unpickled: see `_recent`."""
    return DescribedStore(name, public)


def _new_store(name: str, spec: dict[str, Any]) -> Store:
    protocol = spec["protocol"].lower()
    if protocol == "file":
        return LocalStore(name, spec["location"])
    raise StoreError(
        f"store {name!r} has protocol {protocol!r}: this version reads and writes stores of "
        f"protocol 'file'. Do not import dj_npy to use DataJoint's own codec for it"
    )

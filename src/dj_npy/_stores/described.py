"""A store's configuration in a pickle: its location, without secrets."""

import os
import platform
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Protocol
from urllib.parse import urlsplit

import datajoint as dj
from datajoint.errors import DataJointError

from dj_npy._errors import ArrayInvalidError, StoreError
from dj_npy._stores import secret
from dj_npy._stores.amazon import is_amazon
from dj_npy._text import kind_of

_PORTS = {"http": ":80", "https": ":443"}


class StoreConfig(Protocol):
    """The part of DataJoint's configuration that is used."""

    @property
    def stores(self) -> dict[str, Any]:
        """Settings by store name; ``default`` names the default store."""
        ...

    def get_store_spec(self, store: str | None = None) -> dict[str, Any]:
        """Return the checked settings of a store; None is the default store."""
        ...


_chosen_config: StoreConfig | None = None


def use_config(config: StoreConfig | None) -> None:
    """
    Set the configuration in which unpickled references find their stores.

    A pickled reference has the name and location of its store, and no secret. In the process that
    unpickles it, all settings come from the store of that name in `datajoint.config`; in
    DataJoint's thread-safe mode, from ``datajoint.json``, ``.secrets`` and the environment as they
    were when the process started.

    Parameters
    ----------
    config : datajoint.settings.Config or None
        Such as ``instance.config`` of a `datajoint.Instance`. None restores the default.

    Raises
    ------
    ArrayInvalidError
        If `config` is not a configuration.

    Examples
    --------
    >>> import datajoint as dj
    >>> use_config(dj.config)
    >>> use_config(None)
    """
    global _chosen_config
    if config is not None and not hasattr(config, "get_store_spec"):
        right = ": use its config, instance.config" if hasattr(config, "config") else ""
        raise ArrayInvalidError(
            f"expected the config of a dj.Instance, not {kind_of(config)}{right}"
        )
    _chosen_config = config


def own_config() -> StoreConfig:
    """Return the configuration of this process: the one set by `use_config`, or DataJoint's."""
    if _chosen_config is not None:
        return _chosen_config
    # `dj.config` raises in thread-safe mode. The object behind it was read from files and the
    # environment, like that of every Instance.
    own: StoreConfig = dj.settings.config
    return own


class DescribedStore:
    """
    Configuration of one store in a pickled reference: all but the secrets.

    If this process has a store of that name, its settings apply, and the pickle only says which
    store it must be.

    Parameters
    ----------
    name : str
        Name of the store in the configuration.
    public : tuple of (str, value)
        The settings that a pickle has.
    withheld : tuple of str
        The names of the settings that it omits.
    """

    def __init__(
        self, name: str, public: tuple[tuple[str, Any], ...], withheld: tuple[str, ...]
    ) -> None:
        self._name, self._public, self._withheld = name, public, withheld
        self._checked_settings: dict[str, Any] | None = None

    @property
    def identity(self) -> tuple[Any, ...]:
        """A key that identifies the store, the same in every process."""
        return self._name, *self._public

    @property
    def stores(self) -> dict[str, Any]:
        """The store, also as the default."""
        own = self._own_settings()
        return {"default": self._name, self._name: dict(self._public) if own is None else own}

    def get_store_spec(self, store: str | None = None) -> dict[str, Any]:
        """Return the settings of the store; there is only one."""
        name = store or self._name
        if name == self._name and self._own_settings() is not None:
            return own_config().get_store_spec(name)
        spec = dict(self._public) if name == self._name else {}
        if "protocol" not in spec:
            raise StoreError(
                f"store {name!r} was not configured where this reference was pickled, nor is it "
                f"here: {_remedy(name)}"
            )
        if self._withheld:
            said = " and ".join(f"`{key}`" for key in self._withheld)
            raise StoreError(
                f"store {name!r} is configured with {said} where this reference was pickled. "
                f"These do not travel, and in process {os.getpid()} on {platform.node()!r} no "
                f"store is called {name!r}: {_remedy(name)}"
            )
        if not _is_safe_destination(spec):
            raise StoreError(
                f"a pickled reference is of {_where(spec)}, and the credentials of process "
                f"{os.getpid()} on {platform.node()!r} are not sent where only a pickle says so: "
                f"{_remedy(name)}"
            )
        return spec

    def _own_settings(self) -> dict[str, Any] | None:
        """Return this process's own settings for the store, checked to be the same store."""
        own = own_config().stores.get(self._name) if self._name else None
        if not isinstance(own, dict):
            return None
        if own != self._checked_settings:
            theirs = dict(self._public)
            if not _is_same_store(theirs, own):
                raise StoreError(
                    f"store {self._name!r} is {_where(theirs)} where this reference was pickled, "
                    f"and {_where(own)} in process {os.getpid()} on {platform.node()!r}: correct "
                    f"that, or give them two names"
                )
            self._checked_settings = dict(own)
        return own

    def __reduce__(self) -> tuple[Any, ...]:
        return store, (self._name, self._public, self._withheld)


def describe(config: StoreConfig, name: str | None) -> DescribedStore:
    """Return the part of a store's configuration that a pickle may contain."""
    if isinstance(config, DescribedStore):  # from a pickle, and pickled again
        return config
    name = name or config.stores.get("default") or ""
    settings = config.stores.get(name) or {}
    if not isinstance(settings, Mapping):  # opening the store raises the error
        settings = {}
    public = secret.public(dict(settings))
    if public.get("protocol") == "file" and "location" in public:
        public["location"] = os.path.abspath(public["location"])  # relative to this process
    withheld = tuple(sorted(key for key in settings if settings[key] and key not in public))
    return store(name, tuple(public.items()), withheld)


@lru_cache(maxsize=256)
def store(
    name: str, public: tuple[tuple[str, Any], ...], withheld: tuple[str, ...]
) -> DescribedStore:
    """
    Return the configuration of a store from a pickled reference.

    It is the same object for every reference, however many are unpickled.

    Parameters
    ----------
    name, public, withheld
        As for `DescribedStore`.
    """
    return DescribedStore(name, public, withheld)


store.__module__ = "dj_npy.pickles"  # the name in pickles of every version


def _remedy(name: str) -> str:
    try:
        dj.config.get("stores")
    except DataJointError:  # in thread-safe mode
        last = "hand the config of an Instance that has it to dj_npy.use_config"
    else:
        last = f"by dj.config.stores[{name!r}] = {{...}}"
    return (
        f"set it there, in datajoint.json and its .secrets, in the environment variable "
        f"DJ_STORES, or {last}"
    )


def _is_same_store(theirs: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    """Whether two descriptions agree, as far as both give a location."""
    one, other = _destination(theirs), _destination(own)
    return all(one[key] == other[key] for key in one.keys() & other.keys())


def _destination(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return where requests go. Each machine may have a folder at another path."""
    protocol = str(settings.get("protocol") or "").lower()
    found = {"protocol": protocol} if protocol else {}
    if protocol == "file":
        return found
    connection = str(settings.get("connection_string") or "")
    account = re.search(r"(?i)AccountName=([^;]+)", connection)
    named = {
        "bucket": settings.get("bucket") or settings.get("container"),
        "account": settings.get("account_name") or (account[1] if account else None),
    }
    found |= {key: str(value) for key, value in named.items() if value}
    if settings.get("endpoint"):
        found["endpoint"] = _endpoint(settings)
    if "location" in settings:
        location = secret.without_secrets(str(settings["location"] or ""))
        found["location"] = "/".join(filter(None, location.split("/")))
    return found


def _endpoint(settings: Mapping[str, Any]) -> str:
    url = str(settings["endpoint"])
    if "://" not in url:
        url = f"{'https' if settings.get('secure', True) else 'http'}://{url}"
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2].lower()
    return f"{parts.scheme}://{host.removesuffix(_PORTS.get(parts.scheme, ' '))}"


def _where(settings: Mapping[str, Any]) -> str:
    """Return the location of a store for a message, without secrets."""
    if str(settings.get("protocol")).lower() == "file":
        return f"the folder {settings.get('location')!r}"
    where = _destination(settings)
    rest = [where[key] for key in ("account", "bucket", "location") if where.get(key)]
    return f"{where.get('protocol')} at {'/'.join([where.get('endpoint', ''), *rest]).strip('/')}"


def _is_safe_destination(settings: Mapping[str, Any]) -> bool:
    """Whether requests to a location from a pickle cannot leak this machine's credentials."""
    protocol = str(settings["protocol"]).lower()
    if protocol == "s3":
        url = urlsplit(_endpoint(settings)) if settings.get("endpoint") else None
        return url is not None and url.scheme == "https" and is_amazon(url.netloc)
    # The hosts of Google and Azure are not taken from pickles. A plugin may do anything.
    return protocol in ("file", "gcs", "azure")

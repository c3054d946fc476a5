"""Resolve paths on this machine, through links, mounts and store names."""

import os
from collections.abc import Sequence
from contextlib import suppress

from datajoint.errors import DataJointError

from dj_npy._errors import NpyError
from dj_npy._format.aliases import folded
from dj_npy._stores.base import Store
from dj_npy._stores.described import StoreConfig
from dj_npy._stores.local.store import LocalStore
from dj_npy._stores.opening import open_store


def local_stores(config: StoreConfig) -> list[LocalStore]:
    """Return the configured local stores that can be opened."""
    found: list[Store] = []
    for name, settings in config.stores.items():
        if isinstance(settings, dict) and str(settings.get("protocol")).lower() == "file":
            with suppress(DataJointError):
                found.append(open_store(config, name))
    return [store for store in found if isinstance(store, LocalStore)]


def versions_of(path: str, stores: Sequence[LocalStore]) -> list[str]:
    """Return the version of the file at a path in each store that has it."""
    found = []
    for store in stores:
        with suppress(NpyError):
            if os.path.exists(os.path.join(store.location, store.check_path(path))):
                found.append(store.stat(path).version)
    return found


def nested_roots(store: Store, others: Sequence[LocalStore]) -> set[str]:
    """Return the paths in a store, `folded`, that are roots of other stores."""
    if not isinstance(store, LocalStore):
        return set()
    outer = f"{folded(os.path.realpath(store.location))}/"
    inner = (folded(os.path.realpath(other.location)) for other in others)
    return {path.removeprefix(outer) for path in inner if path.startswith(outer)}

"""Stores: one contract (`base`), one module a backend."""

from dj_npy._stores.base import Limits, Listed, Part, Replace, Stat, Store
from dj_npy._stores.described import StoreConfig, describe
from dj_npy._stores.opening import open_store, schema_addressing

__all__ = [
    "Limits",
    "Listed",
    "Part",
    "Replace",
    "Stat",
    "Store",
    "StoreConfig",
    "describe",
    "open_store",
    "schema_addressing",
]

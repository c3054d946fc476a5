"""Stores: one interface (`base`) and one module per backend."""

from dj_npy._stores.base import Listed, Replace, Stat, Store
from dj_npy._stores.described import StoreConfig, describe
from dj_npy._stores.opening import open_store, schema_addressing

__all__ = [
    "Listed",
    "Replace",
    "Stat",
    "Store",
    "StoreConfig",
    "describe",
    "open_store",
    "schema_addressing",
]

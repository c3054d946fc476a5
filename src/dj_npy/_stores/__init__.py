"""Stores: one contract (`base`), one module a backend."""

from dj_npy._stores.base import Limits, Part, Replace, Store
from dj_npy._stores.opening import StoreConfig, describe, open_store, schema_addressing

__all__ = [
    "Limits",
    "Part",
    "Replace",
    "Store",
    "StoreConfig",
    "describe",
    "open_store",
    "schema_addressing",
]

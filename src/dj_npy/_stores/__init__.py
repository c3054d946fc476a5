"""Stores: one contract (`base`), one module a backend."""

from dj_npy._stores.base import Store
from dj_npy._stores.opening import StoreConfig, describe, open_store, schema_addressing

__all__ = ["Store", "StoreConfig", "describe", "open_store", "schema_addressing"]

"""
Stores: bytes at paths, behind one interface (`base`).

`opening` chooses the backend by protocol: `local` for folders, `obstore` for S3, GCS and Azure,
`fsspec` for every other protocol, and for object stores in a forked process. A new backend is a
subclass of `Store`, or of `RemoteStore` (`remote`), that `opening._new_store` returns.

`local.store` and `obstore.store` create files under names that are not taken, though answers may be
lost. `pace` decides how many requests are in flight, `identity` whether a store is the right one,
`secret` what no message and no pickle may contain.
"""

from dj_npy._stores.base import Replace, Store
from dj_npy._stores.described import StoreConfig, describe
from dj_npy._stores.listed import Listed, Stat
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

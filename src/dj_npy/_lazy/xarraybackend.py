"""A reference as an xarray backend array. Imports xarray, so it is itself imported on first use."""

from typing import Any

import numpy as np
from xarray.backends import BackendArray
from xarray.core import indexing

from dj_npy._lazy.source import Source


class Stored(BackendArray):
    """
    The array that xarray indexes when it needs data.

    Parameters
    ----------
    ref : NpyRef
        Source of the data: read, loaded or kept as by ``ref[index]``.
    """

    def __init__(self, ref: Source) -> None:
        self._ref = ref
        self.shape, self.dtype = ref.shape, ref.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        support = indexing.IndexingSupport.OUTER_1VECTOR
        return indexing.explicit_indexing_adapter(key, self.shape, support, self._read)

    def _read(self, index: tuple[Any, ...]) -> Any:
        # NumPy treats an integer beside an array as an array, and may move axes to the front.
        collapse = tuple(0 if np.ndim(n) == 0 and not isinstance(n, slice) else ... for n in index)
        if any(isinstance(n, np.ndarray) for n in index) and 0 in collapse:
            wide = tuple(
                slice(n, n + 1) if one == 0 else n for n, one in zip(index, collapse, strict=True)
            )
            return self._ref[wide][tuple(slice(None) if one is ... else 0 for one in collapse)]
        return np.asarray(self._ref[index], self.dtype)


def lazily_indexed(ref: Source) -> indexing.LazilyIndexedArray:
    """Return an array that combines indexes until data are needed."""
    return indexing.LazilyIndexedArray(Stored(ref))

"""Dask arrays to insert: computed one row of chunks at a time."""

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from dj_npy._errors import ArrayInvalidError
from dj_npy._format.accepted import check_array
from dj_npy._format.blocks import Blocks
from dj_npy._format.npyfile import AnyArray


def is_dask(value: Any) -> bool:
    """Whether a value is a Dask array; does not import Dask."""
    dask_array = sys.modules.get("dask.array")
    return isinstance(value, getattr(dask_array, "Array", ()))


def check_dask(array: Any) -> None:
    """Raise for a Dask array whose blocks a ``.npy`` file would change, or with unknown shape."""
    if any(n != n for n in array.shape):
        raise ArrayInvalidError(
            f"<npy> needs to know the shape of a Dask array, and that of {array.name!r:.80} is "
            f"{array.shape}: call its compute_chunk_sizes() before"
        )
    check_array(array._meta)


def to_store(value: Any) -> Any:
    """Return the value to write: for a Dask array, its blocks, computed on demand."""
    if not is_dask(value):
        return value
    if not value.shape:
        return _computed(value)
    return Blocks(value.shape, value.dtype, _rows_of_blocks(value))


def _computed(value: Any) -> AnyArray:
    whole: Any = value.compute()
    array: AnyArray = whole if isinstance(whole, np.ndarray) else np.asarray(whole)
    check_array(array)
    if array.shape or array.dtype != value.dtype:
        raise ArrayInvalidError(
            f"a Dask array said to be of shape () and dtype {value.dtype}, and was computed to be "
            f"of shape {array.shape} and dtype {array.dtype}"
        )
    return array


def _rows_of_blocks(array: Any) -> Iterator[AnyArray]:
    for number in range(array.numblocks[0]):
        yield array.blocks[number].compute()

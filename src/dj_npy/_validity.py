"""Which arrays a ``.npy`` file would give back as they are."""

from typing import Any

import numpy as np

from dj_npy import _fileformat as fileformat
from dj_npy._errors import ArrayInvalidError

# Subclasses whose whole content is the data.
_PLAIN = (np.ndarray, np.memmap, np.matrix, np.recarray)


def check_array(value: Any) -> None:
    """
    Refuse what is no array, and arrays that a ``.npy`` file would change.

    Raises
    ------
    ArrayInvalidError
        See :meth:`dj_npy.NpyCodec.validate`.
    """
    if not isinstance(value, np.ndarray):
        raise ArrayInvalidError(f"<npy> requires numpy.ndarray, got {type(value).__name__}")
    if isinstance(value, np.ma.MaskedArray):
        raise ArrayInvalidError(
            "<npy> does not support masked arrays, the mask would be lost: store "
            "array.filled(value), or data and mask in two attributes"
        )
    if type(value) not in _PLAIN and _carries_more(value):
        raise ArrayInvalidError(
            f"<npy> requires a plain numpy.ndarray: {type(value).__name__} carries more "
            f"than its data, which would be lost. Store numpy.asarray(value) if it may be"
        )
    fileformat.check_dtype(value.dtype)


def _carries_more(value: Any) -> bool:
    """Whether a subclass of `ndarray` has attributes of its own."""
    return bool(getattr(value, "__dict__", None)) or any(
        cls.__dict__.get("__slots__")
        for cls in type(value).__mro__
        if cls not in _PLAIN and cls is not object
    )

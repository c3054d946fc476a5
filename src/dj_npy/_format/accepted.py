"""Check which arrays survive a round trip through a ``.npy`` file and a row."""

import json
import re
import sys
from functools import lru_cache
from typing import Any

import numpy as np

from dj_npy._errors import ArrayCorruptError, ArrayInvalidError
from dj_npy._format import npyfile
from dj_npy._format.metadata import ArrayMetadata
from dj_npy._format.npyfile import Header

_MAX_PARTS = npyfile.MAX_HEADER // 4
"""Most dtypes within one that fit in a header; each takes at least four bytes."""
MAX_DEPTH = 30
"""Deepest nesting of lists in a row's dtype; MariaDB allows one more for the row, others 100."""
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_MAX_QUOTED = 300
"""Most characters of a dtype in a message."""
# Subclasses that hold nothing but the data.
_PLAIN_TYPES = (np.ndarray, np.memmap, np.matrix, np.recarray)


def check_array(value: Any) -> None:
    """
    Reject anything but arrays, and arrays that a ``.npy`` file would change.

    Raises
    ------
    ArrayInvalidError
        See :meth:`dj_npy.NpyCodec.validate`.
    """
    if not isinstance(value, np.ndarray):
        raise ArrayInvalidError(
            f"<npy> requires numpy.ndarray, got {type(value).__name__}{_instead(value)}"
        )
    if isinstance(value, np.ma.MaskedArray):
        raise ArrayInvalidError(
            "<npy> does not support masked arrays, the mask would be lost: store "
            "array.filled(value), or data and mask in two attributes"
        )
    if type(value) not in _PLAIN_TYPES and _carries_more(value):
        raise ArrayInvalidError(
            f"<npy> requires a plain numpy.ndarray: {type(value).__name__} carries more "
            f"than its data, which would be lost. Store numpy.asarray(value) if it may be"
        )
    check_dtype(value.dtype)
    _check_shape(value.dtype, value.shape)


def check_header(header: Header) -> None:
    """
    Reject a file to copy if we would not write such a file.

    Raises
    ------
    ArrayInvalidError
        See :func:`check_dtype`.
    """
    check_dtype(header.dtype)
    _check_shape(header.dtype, header.shape)
    if header.offset > npyfile.MAX_HEADER:
        raise _too_long()


def check_dtype(dtype: np.dtype[Any]) -> None:
    """
    Reject a dtype that would not come back equal from its file and its row.

    Raises
    ------
    ArrayInvalidError
        If it contains Python objects or metadata, or would come back as another dtype or not at
        all, from the file or from a row in any of the databases.
    """
    parts = [dtype] if dtype.names is None else _parts(dtype)
    # `np.dtype((np.void, "O"))` has the kind of raw bytes, but holds pointers.
    if any(part.kind in "OV" and part.hasobject for part in parts):
        raise ArrayInvalidError("<npy> does not support object dtype arrays")
    # Equal dtypes may differ in metadata, so this must not be cached.
    found = next((part.metadata for part in parts if part.metadata is not None), None)
    if found is not None:
        plain = repr(dtype.str) if dtype.names is None else _dtype_text(dtype)
        raise ArrayInvalidError(
            f"<npy> cannot store the metadata of dtype {_dtype_text(dtype)}, which are "
            f"{dict(found)!s:.{_MAX_QUOTED}}. Without them, it can be stored: array.view({plain})"
        )
    _check_returned(dtype)


def _parts(dtype: np.dtype[Any]) -> list[np.dtype[Any]]:
    """Return a dtype and all dtypes within it; reject too many or too deep ones."""
    parts: list[np.dtype[Any]] = []
    waiting = [(dtype, 0)]
    while waiting:
        part, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise _too_deep()
        if len(parts) == _MAX_PARTS:
            raise _too_long()
        parts.append(part)
        if part.subdtype is not None:
            waiting.append((part.subdtype[0], depth + 1))
        elif part.names is not None:
            waiting += [(part[name], depth + 1) for name in part.names]
    return parts


@lru_cache(maxsize=256)
def _check_returned(dtype: np.dtype[Any]) -> None:
    """Round-trip header and row of an array of that dtype, with the longest shape."""
    longest = (0, sys.maxsize // max(dtype.itemsize, 1), *(1,) * (npyfile.MAX_AXES - 2))
    try:
        header = npyfile.header_bytes(dtype, longest, False)
        if len(header) > npyfile.MAX_HEADER:
            raise _too_long()
        dtype_json = npyfile.dtype_to_json(dtype)
        if npyfile.depth(dtype_json) > MAX_DEPTH:
            raise _too_deep()
        metadata = {"dtype": json.loads(json.dumps(dtype_json)), "shape": list(longest)}
        of_file, of_row = (
            npyfile.parse_header(header, len(header), "its file").dtype,
            ArrayMetadata(metadata).dtype,
        )
    except ArrayInvalidError:
        raise
    # Overlapping or unordered fields; NumPy's warning that it would pickle.
    except (*npyfile.PARSE_ERRORS, ArrayCorruptError) as error:
        raise ArrayInvalidError(f"<npy> cannot store dtype {_dtype_text(dtype)}: {error}") from None
    for returned in (of_file, of_row):
        if returned != dtype:
            raise ArrayInvalidError(
                f"<npy> cannot store dtype {_dtype_text(dtype)}: it would come back as "
                f"{_dtype_text(returned)}. Convert the array first, for example with .astype()"
            )
    for part in _parts(dtype):
        for name, (_, _, *title) in (part.fields or {}).items():
            if any(_UNSTORABLE.search(text) for text in (name, *title) if isinstance(text, str)):
                raise ArrayInvalidError(
                    f"<npy> cannot store dtype {_dtype_text(dtype)}: no row in PostgreSQL can hold "
                    f"the name {name!r}, which has a NUL or half a character. Rename the field"
                )


def _check_shape(dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    # NumPy creates larger arrays of zero-byte elements, but cannot load them.
    if not dtype.itemsize and not npyfile.is_shape(shape):
        raise ArrayInvalidError(
            f"<npy> cannot store an array of shape {shape}: numpy.load takes no more than "
            f"{sys.maxsize} elements"
        )


def _too_long() -> ArrayInvalidError:
    return ArrayInvalidError(
        f"<npy> cannot store a dtype of so many fields: its .npy header would be longer than "
        f"{npyfile.MAX_HEADER} bytes, the most that are read. Store the fields in several "
        f"attributes, or those of one type as an array of more axes"
    )


def _too_deep() -> ArrayInvalidError:
    return ArrayInvalidError(
        f"<npy> cannot store a dtype that is nested so deep: no row in MariaDB can describe it "
        f"(lists within lists, more than {MAX_DEPTH} deep). Store its parts in several attributes"
    )


def _instead(value: Any) -> str:
    """Say what to insert instead of a value that is no array, if that is clear."""
    name = type(value).__name__
    if name in ("NAType", "NaTType") or (isinstance(value, float | np.floating) and value != value):
        return (
            ", which stands where None is meant: no array. In a DataFrame, a merge puts it there: "
            "df.astype(object).where(df.notna(), None)"
        )
    if hasattr(value, "__array__") and not isinstance(value, np.generic):
        return f": insert numpy.asarray({name.lower()}), if its data alone are to be stored"
    return ""


def _dtype_text(dtype: np.dtype[Any]) -> str:
    return f"{dtype!s:.{_MAX_QUOTED}}"


def _carries_more(value: Any) -> bool:
    """Return whether a subclass of `ndarray` has attributes of its own."""
    return bool(getattr(value, "__dict__", None)) or any(
        cls.__dict__.get("__slots__")
        for cls in type(value).__mro__
        if cls not in _PLAIN_TYPES and cls is not object
    )

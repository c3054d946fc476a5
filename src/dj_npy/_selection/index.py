"""
Resolve a NumPy index into one `range` for each axis and the *points* that arrays pick.

Pure: no I/O. NumPy itself decides whether an index is valid.
"""

import math
import operator
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dj_npy._format.npyfile import AnyArray, empty

Offsets = npt.NDArray[np.intp]

_EVERYTHING = slice(None)
_ROW = slice(0, 1)


class Selection(NamedTuple):
    """
    What an index selects from an array, independent of its memory order in a file.

    Each axis of the result comes from a range ``("range", axis)``, from the points
    ``("points", number)``, from an array in a field ``("field", number)``, or is new
    ``("new", 0)``.
    """

    shape: tuple[int, ...]
    """Shape of the result."""
    dtype: np.dtype[Any]
    """Dtype of the result."""
    is_scalar: bool
    """Whether NumPy returns a scalar instead of an array."""
    ranges: dict[int, range]
    """By axis of the array; that of an integer is dropped from the result."""
    points: dict[int, Offsets]
    """By axis of the array: positions from arrays and masks, broadcast to one shape."""
    result: tuple[tuple[str, int], ...]
    field_offset: int = 0
    """Offset of the field within an element, in bytes."""

    @property
    def nbytes(self) -> int:
        """Bytes of the result."""
        return math.prod(self.shape) * self.dtype.itemsize


def select(index: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Selection:
    """
    Resolve `index`.

    Parameters
    ----------
    index
        Any object.
    shape, dtype
        Those of the array, which may be larger than memory.

    Raises
    ------
    IndexError, TypeError, ValueError, KeyError
        What NumPy raises for this index: it is applied to an array of this shape with strides 0,
        whose elements share one byte.
    """
    if isinstance(index, str) or (isinstance(index, list) and index and _are_names(index)):
        return _fields(index, shape, dtype)
    stand_in: AnyArray = np.ndarray(shape, np.uint8, b"\0", strides=(0,) * len(shape))
    entries = index if isinstance(index, tuple) else (index,)
    if all(map(_is_basic, entries)):
        return _basic(_expanded(entries, len(shape)), shape, dtype, stand_in[index])
    try:
        entries = tuple(map(_array_or_basic, entries))
        expanded = _expanded(entries, len(shape))
        dots = [entry for entry in entries if entry is Ellipsis]
        # One row of each slice is enough to validate; an Ellipsis that expands to no axis still
        # makes a scalar result an array.
        found = stand_in[(*(_ROW if isinstance(e, slice) else e for e in expanded), *dots)]
        if all(map(_is_basic, expanded)):  # integers in arrays of no axes
            return _basic(expanded, shape, dtype, found)
        return _advanced(expanded, shape, dtype, found, apart=_are_apart(entries))
    except Exception:
        stand_in[index]  # of several errors, raise the one that NumPy finds first
        raise


def _are_names(index: list[Any]) -> bool:
    return all(isinstance(name, str) for name in index)


def _is_basic(entry: Any) -> bool:
    return (
        isinstance(entry, slice)
        or entry is None
        or entry is Ellipsis
        or (isinstance(entry, (int, np.integer)) and not isinstance(entry, bool))
    )


def _array_or_basic(entry: Any) -> Any:
    if _is_basic(entry):
        return entry
    array = np.asarray(entry)
    if array.dtype == bool:
        return array
    if array.ndim == 0:
        return operator.index(entry)
    # asarray([]) has floats, which NumPy accepts as an index only as a list.
    return array if array.size or array is entry else array.astype(np.intp)


def _fields(index: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Selection:
    element = empty((), dtype)[index]
    assert dtype.fields is not None  # or NumPy would have raised
    offset = dtype.fields[index][1] if isinstance(index, str) else 0
    result = [("range", axis) for axis in range(len(shape))]
    result += [("field", number) for number in range(element.ndim)]
    ranges = dict(enumerate(map(range, shape)))
    return Selection(
        (*shape, *element.shape), element.dtype, False, ranges, {}, tuple(result), offset
    )


def _expanded(entries: tuple[Any, ...], ndim: int) -> list[Any]:
    """Expand the Ellipsis: one entry for each axis; new axes take none, masks several."""
    if not any(entry is Ellipsis for entry in entries):
        entries = (*entries, Ellipsis)
    taken = sum(map(_axes, entries))
    expanded: list[Any] = []
    for entry in entries:
        expanded += [_EVERYTHING] * (ndim - taken) if entry is Ellipsis else [entry]
    return expanded


def _axes(entry: Any) -> int:
    """Return the number of axes that an entry indexes."""
    if entry is None or entry is Ellipsis:
        return 0
    return entry.ndim if isinstance(entry, np.ndarray) and entry.dtype == bool else 1


def _are_apart(entries: tuple[Any, ...]) -> bool:
    """Return whether integers and arrays are separated; NumPy then puts their axes first."""
    taking = [n for n, e in enumerate(entries) if isinstance(e, (int, np.integer, np.ndarray))]
    return taking[-1] - taking[0] >= len(taking)


def _basic(
    entries: list[Any], shape: tuple[int, ...], dtype: np.dtype[Any], found: Any
) -> Selection:
    ranges: dict[int, range] = {}
    result = []
    for entry in entries:
        axis = len(ranges)
        if entry is None:
            result.append(("new", 0))
        elif isinstance(entry, slice):
            ranges[axis] = range(shape[axis])[entry]
            result.append(("range", axis))
        else:
            position = range(shape[axis])[entry]
            ranges[axis] = range(position, position + 1)
    lengths = (1 if kind == "new" else len(ranges[axis]) for kind, axis in result)
    is_scalar = not isinstance(found, np.ndarray)
    return Selection(tuple(lengths), dtype, is_scalar, ranges, {}, tuple(result))


def _advanced(
    entries: list[Any], shape: tuple[int, ...], dtype: np.dtype[Any], found: Any, *, apart: bool
) -> Selection:
    ranges: dict[int, range] = {}
    arrays: dict[int, Offsets] = {}
    scalars: list[Offsets] = []  # 0-d masks, which keep all or nothing
    result: list[tuple[str, int]] = []
    position = None
    for entry in entries:
        axis = len(ranges) + len(arrays)
        if entry is None:
            result.append(("new", 0))
            continue
        if isinstance(entry, slice):
            ranges[axis] = range(shape[axis])[entry]
            result.append(("range", axis))
            continue
        if position is None:
            position = 0 if apart else len(result)
        array = np.asarray(entry)
        if array.dtype != bool:
            array = array.astype(np.intp, copy=False)
            negative = array < 0
            arrays[axis] = array + shape[axis] * negative if negative.any() else array
        elif array.ndim:
            arrays.update(enumerate(array.nonzero(), axis))
        else:
            scalars.append(np.zeros(int(array), np.intp))
    common = _common_shape([array.shape for array in [*arrays.values(), *scalars]])
    result[position:position] = [("points", number) for number in range(len(common))]
    points = {axis: np.broadcast_to(array, common) for axis, array in arrays.items()}
    lengths = tuple(
        common[n] if kind == "points" else len(ranges[n]) if kind == "range" else 1
        for kind, n in result
    )
    is_scalar = not isinstance(found, np.ndarray)
    return Selection(lengths, dtype, is_scalar, ranges, points, tuple(result))


def _common_shape(shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    """Like `numpy.broadcast_shapes`, but for more than its 32 axes."""
    axes = zip_longest(*(shape[::-1] for shape in shapes), fillvalue=1)
    return tuple(next((n for n in lengths if n != 1), 1) for lengths in axes)[::-1]

"""Indexes of every kind that NumPy takes, and of some that it does not."""

import operator
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tests.support.arrays import arrays, same

INTEGER_TYPES = st.sampled_from(["i8", "i4", "i1", "u1", "u8", ">i2"])


@st.composite
def indexes(draw: st.DrawFn, shape: tuple[int, ...]) -> Any:
    """An index of an array of this shape; one in ten or so is bad."""
    entries: list[Any] = []
    axis = 0
    while axis < len(shape) and draw(st.integers(0, 7)):
        kind = draw(st.sampled_from("ssssiiiaaammnnebx"))
        length = shape[axis]
        if kind == "s":
            bound = st.none() | st.integers(-length - 2, length + 2)
            step = draw(st.sampled_from([None, None, 1, 2, 3, -1, -2]))
            entries.append(slice(draw(bound), draw(bound), step))
        elif kind == "i" and length:
            number = draw(st.integers(-length, length - 1))
            entries.append(draw(st.sampled_from([number, np.int64(number), np.array(number)])))
        elif kind == "a" and length:
            entries.append(draw(integer_arrays(length)))
        elif kind == "m":
            taken = shape[axis : axis + draw(st.integers(1, 2))]
            bits = draw(st.integers(0, 2**32 - 1))
            entries.append(np.random.default_rng(bits).random(taken) < 0.4)
            axis += len(taken) - 1
        elif kind == "n":
            entries.append(None)
            axis -= 1
        elif kind == "e" and not any(entry is Ellipsis for entry in entries):
            entries.append(Ellipsis)
            axis += draw(st.integers(0, 2)) - 1
        elif kind == "b":
            entries.append(draw(st.booleans()))
            axis -= 1
        elif kind == "x":
            bad = [length, -length - 1, 1.5, "x", [1.0], [[1], [1, 2]], slice("a"), slice(0, 1, 0)]
            entries.append(draw(st.sampled_from([*bad, [length], np.zeros(0), None, {}])))
        axis += 1
    single = len(entries) == 1 and draw(st.booleans())
    return entries[0] if single else tuple(entries)


@st.composite
def pairs(draw: st.DrawFn) -> Any:
    """An array in either order, and an index."""
    array = sound(np.array(draw(arrays()), order=draw(st.sampled_from("CF"))))
    return array, draw(indexes(array.shape))


def sound(array: Any) -> Any:
    """Of arbitrary bytes, some are no text and no truth: NumPy makes other elements of them."""
    if array.dtype.names is not None:
        for name in array.dtype.names:
            array[name] = sound(array[name].copy())
    if array.dtype.kind in "Ub":
        array[...] = np.arange(array.size).reshape(array.shape).astype(array.dtype)
    return array


@st.composite
def integer_arrays(draw: st.DrawFn, length: int) -> Any:
    kind = np.dtype(draw(INTEGER_TYPES))
    shape = draw(st.sampled_from([(), (1,), (2,), (3,), (0,), (2, 1), (1, 3), (5,)]))
    limits = np.iinfo(kind)
    numbers = st.integers(max(-length, limits.min), min(length - 1, limits.max))
    array = np.array([draw(numbers) for _ in range(int(np.prod(shape)))], kind).reshape(shape)
    return array.tolist() if array.ndim and draw(st.booleans()) else array


def outcome(index: Any, array: Any) -> Any:
    """What NumPy returns, or the class of what it raises."""
    try:
        return operator.getitem(array, index)
    except Exception as error:
        return type(error)


def as_numpy(found: Any, expected: Any) -> bool:
    """Equal in all that can be seen, and nobody else's memory."""
    if not isinstance(expected, np.ndarray):
        plain = type(found) is type(expected)
        return plain and same(np.array(found, found.dtype), np.array(expected, expected.dtype))
    return same(found, np.array(expected)) and found.flags.owndata and found.flags.writeable

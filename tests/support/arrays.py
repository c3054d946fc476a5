"""Arrays of every kind that a `.npy` file can hold."""

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

SIMPLE = (
    npst.boolean_dtypes()
    | npst.integer_dtypes(endianness="?")
    | npst.unsigned_integer_dtypes(endianness="?")
    | npst.floating_dtypes(endianness="?")
    | npst.complex_number_dtypes(endianness="?")
    | npst.datetime64_dtypes(endianness="?")
    | npst.timedelta64_dtypes(endianness="?")
    | npst.byte_string_dtypes(endianness="?", min_len=1, max_len=5)
    | npst.unicode_string_dtypes(endianness="?", min_len=1, max_len=5)
    | st.sampled_from([np.dtype("V3"), np.dtype(np.longdouble), np.dtype("M8")])
)
STRUCTURED: st.SearchStrategy[np.dtype[Any]] = st.recursive(
    SIMPLE,
    lambda inner: (
        npst.array_dtypes(inner, max_size=3, allow_subarrays=True)
        | st.tuples(inner, inner).map(
            lambda pair: np.dtype([("a", pair[0]), ("größe", pair[1], (2,))], align=False)
        )
        | st.tuples(inner, inner).map(
            lambda pair: np.dtype([(("a title", "x"), pair[0]), ("y", pair[1])], align=True)
        )
    ),
    max_leaves=4,
)
DTYPES = (
    SIMPLE
    | st.just(np.dtype("S0"))
    # With a NUL in a name it is refused: see test_accepted.py.
    | STRUCTURED.filter(lambda dtype: dtype.subdtype is None and r"\x00" not in repr(dtype))
)


@st.composite
def arrays(draw: st.DrawFn) -> Any:
    """An array of any dtype, shape and memory layout; its bytes are arbitrary."""
    dtype = draw(DTYPES)
    shape = draw(npst.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4))
    nbytes = int(np.prod(shape, dtype=int)) * dtype.itemsize
    seed = draw(st.integers(0, 2**32 - 1))
    data = np.random.default_rng(seed).integers(0, 128, nbytes, np.uint8).tobytes()
    array = np.ndarray(shape, dtype, bytearray(data) if nbytes else None)
    layout = draw(st.sampled_from(["C", "F", "transposed", "strided", "reversed", "broadcast"]))
    if layout == "F":
        return np.asfortranarray(array) if array.ndim else array
    if layout == "transposed":
        return array.transpose(draw(st.permutations(range(array.ndim))))
    if layout == "strided":
        return np.repeat(array, 2, axis=0)[::2] if array.ndim else array
    if layout == "reversed":
        return array[::-1] if array.ndim else array
    if layout == "broadcast":
        return np.broadcast_to(array, (2, *array.shape))
    return array


def same(one: Any, other: Any) -> bool:
    """Equal in type, dtype, shape and every byte but padding, not-a-numbers included."""
    return (
        type(one) is type(other) is np.ndarray
        and one.dtype == other.dtype
        and one.shape == other.shape
        and same_data(one, other)
    )


def same_data(one: Any, other: Any) -> bool:
    """Field by field: NumPy copies the padding between them or not, as it sees fit."""
    names = one.dtype.names
    if names is None:
        return bool(significant(one) == significant(other))
    return all(same_data(one[name], other[name]) for name in names)


def significant(array: Any) -> bytes:
    """An array's bytes; of a long double of 10 in 16, what NumPy leaves in the rest is chance."""
    data: bytes = array.tobytes()
    if array.dtype.char not in "gG" or np.finfo(np.longdouble).nmant != 63:
        return data
    size = np.dtype(np.longdouble).itemsize
    return np.frombuffer(data, np.uint8).reshape(-1, size)[:, :10].tobytes()

"""NumPy protocols over data that are loaded on first use."""

import math
import operator
import sys
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from dj_npy._array import reductions
from dj_npy._format.npyfile import AnyArray

as_scalar: ContextVar[bool] = ContextVar("as_scalar", default=False)
"""While true, NumPy converts an array-like to one Python object, not to its data."""


def _method(name: str) -> Callable[..., Any]:
    def method(self: "ArrayLike", *args: Any, **kwargs: Any) -> Any:
        return getattr(self._array(), name)(*args, **kwargs)

    method.__name__ = name
    method.__doc__ = f"Load the data and call :meth:`numpy.ndarray.{name}`."
    return method


def _reduction(name: str) -> Callable[..., Any]:
    def method(self: "ArrayLike", *args: Any, **kwargs: Any) -> Any:
        if self._exceeds_memory():
            return reductions.reduce(self, name, args, kwargs)
        return getattr(self._array(), name)(*args, **kwargs)

    method.__name__ = name
    method.__doc__ = (
        f"Load the data and call :meth:`numpy.ndarray.{name}`; "
        f"beyond ``settings.memory``, read them block by block."
    )
    return method


class ArrayLike(NDArrayOperatorsMixin):
    """
    Operators, ufuncs, methods and conversions of an array, on data that are loaded on first use.

    A subclass defines `shape` and `dtype`, without I/O, `_array()`, which may load the data
    and returns them read-only, and an index. All methods of `ndarray` that do not modify it are
    here; in-place changes raise, as they would change a copy in memory and not the file.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""

    @property
    @abstractmethod
    def dtype(self) -> np.dtype[Any]:
        """Type of an element."""

    @abstractmethod
    def _array(self) -> AnyArray: ...

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.size * self.itemsize

    @abstractmethod
    def __getitem__(self, index: Any) -> Any:
        """Return the selection of `index` as a copy."""

    @abstractmethod
    def _stand_in(self) -> AnyArray:
        """Return an array of this shape, dtype and memory order without data; see `stand_in`."""

    @abstractmethod
    def _exceeds_memory(self) -> bool:
        """Return whether the data are neither loaded nor worth keeping once they are."""

    @abstractmethod
    def _blocks_ahead(self, nbytes: int) -> int:
        """Return how many blocks of `nbytes` are best read at a time."""

    @property
    def copy(self) -> Callable[..., AnyArray]:
        """Load the data and return a copy, as `numpy.ndarray.copy` does."""
        # Dask copies what it is to slice, lest somebody change it. Nobody changes a reference.
        if sys._getframe(1).f_code.co_name == "from_array":
            raise AttributeError("copy")
        return self._copy

    def byteswap(self) -> AnyArray:
        """Load the data and return a byte-swapped copy."""
        return self._array().byteswap()

    all = _reduction("all")
    any = _reduction("any")
    argmax = _reduction("argmax")
    argmin = _reduction("argmin")
    argpartition = _method("argpartition")
    argsort = _method("argsort")
    astype = _method("astype")
    choose = _method("choose")
    clip = _method("clip")
    compress = _method("compress")
    conj = _method("conj")
    conjugate = _method("conjugate")
    _copy = _method("copy")
    cumprod = _method("cumprod")
    cumsum = _method("cumsum")
    dot = _method("dot")
    dump = _method("dump")
    dumps = _method("dumps")
    flatten = _method("flatten")
    getfield = _method("getfield")
    max = _reduction("max")
    mean = _reduction("mean")
    min = _reduction("min")
    nonzero = _method("nonzero")
    prod = _reduction("prod")
    ravel = _method("ravel")
    repeat = _method("repeat")
    reshape = _method("reshape")
    round = _method("round")
    searchsorted = _method("searchsorted")
    squeeze = _method("squeeze")
    std = _reduction("std")
    sum = _reduction("sum")
    swapaxes = _method("swapaxes")
    tobytes = _method("tobytes")
    tofile = _method("tofile")
    tolist = _method("tolist")
    trace = _method("trace")
    transpose = _method("transpose")
    var = _reduction("var")
    view = _method("view")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> AnyArray:
        """
        Convert to an array (the array protocol of NumPy 1 and 2).

        Returns the shared read-only data, or a new array for ``copy=True`` or another dtype.
        """
        if as_scalar.get():
            scalar = np.empty((), object)
            scalar[()] = self
            return scalar
        array = self._array()
        if copy:
            return np.array(array, dtype=dtype)
        if dtype is None or array.dtype == dtype:
            return array
        if copy is False:
            raise ValueError(f"cannot convert {array.dtype} to {np.dtype(dtype)} without a copy")
        return array.astype(dtype)

    def __dlpack__(self, *, copy: bool | None = None, **options: Any) -> Any:
        """
        Export a copy of the data to another library, as for ``torch.from_dlpack(ref)``.

        Many libraries, including PyTorch, write into memory that DLPack marks read-only.
        """
        if copy is False:
            raise BufferError(
                f"an {type(self).__name__} shares its data with others, so DLPack gets a copy: "
                f"leave copy=False away, or take numpy.asarray(ref), which is read-only"
            )
        return np.array(self._array()).__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        """Return the CPU as the device of the data."""
        return 1, 0

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        outputs = kwargs.get("out", ())
        if any(isinstance(x, ArrayLike) for x in outputs) or (
            method == "at" and isinstance(inputs[0], ArrayLike)
        ):
            raise TypeError(
                f"numpy.{ufunc.__name__} cannot change an {type(self).__name__} in place: "
                f"compute a new array (`x = ref + 1`), or change the file itself through "
                f"ref.load(mmap_mode='r+')"
            )
        if "where" in kwargs:
            kwargs["where"] = materialized(kwargs["where"])
        first, by_blocks = inputs[0], method == "reduce" and ufunc in reductions.ASSOCIATIVE
        if by_blocks and isinstance(first, ArrayLike) and first._exceeds_memory():
            return reductions.fold(first, ufunc, **{"axis": 0, **kwargs})
        return getattr(ufunc, method)(*map(materialized, inputs), **kwargs)

    # The mixin calls numpy.power, which for bool ** 2 returns another dtype than the operator.
    def __pow__(self, other: Any) -> Any:
        return operator.pow(self._array(), materialized(other))

    def __rpow__(self, other: Any) -> Any:
        return operator.pow(other, self._array())

    def __format__(self, specification: str) -> str:
        if specification and not self.shape:  # like NumPy, only for scalars
            return format(self._array(), specification)
        return object.__format__(self, specification)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of unsized object")  # NumPy's message
        return self.shape[0]

    def __iter__(self) -> Iterator[Any]:
        if not self.shape:
            raise TypeError("iteration over a 0-d array")
        return self._rows()

    def _rows(self) -> Iterator[Any]:  # a generator: iter() alone loads nothing
        yield from map(owned, self._array())

    def __contains__(self, value: Any) -> bool:
        return value in self._array()

    def __float__(self) -> float:
        return float(self._single_element())

    def __int__(self) -> int:
        return int(self._single_element())

    def __complex__(self) -> complex:
        return complex(self._single_element())

    def __index__(self) -> int:
        if self.shape:
            message = "only integer scalar arrays can be converted to a scalar index"
            if self.dtype.kind in "iu":
                # `bytearray(ref)` ignores a TypeError, and converts each element to a byte.
                raise ValueError(f"{message}; for bytes, there is ref.tobytes()")
            raise TypeError(message)
        return int(self._single_element().__index__())

    def __bytes__(self) -> bytes:
        # Without this, `bytes(ref)` converts each element to a byte.
        if not self.shape and self.dtype.kind in "iu":
            raise TypeError(
                "bytes() of one integer would be as many zeros: use ref.tobytes(), or int(ref)"
            )
        return bytes(self._array())

    def __bool__(self) -> bool:
        return bool(self._single_element())

    def _single_element(self) -> Any:
        """Return the data of a single element; else a stand-in on which NumPy raises its error."""
        return self._array() if self.size == 1 else np.zeros(min(self.size, 2), self.dtype)

    # The mixin's elementwise __eq__ would make it unhashable.
    __hash__ = object.__hash__


def owned(part: Any) -> Any:
    """Return the result of indexing or iterating an array as a copy that owns its memory."""
    if not isinstance(part, np.ndarray):
        return part.copy() if isinstance(part, np.void) else part
    if part.flags.owndata:
        return part
    # A copy of |S0 would be |S1: gigabytes for an array without data.
    return np.array(part) if part.dtype.itemsize else np.ndarray(part.shape, part.dtype)


def materialized(value: Any) -> Any:
    """Replace array-likes by their data, also within an index."""
    if isinstance(value, ArrayLike):
        return value._array()
    if isinstance(value, tuple):
        return tuple(map(materialized, value))
    return value

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
from dj_npy._array.cells import compared_as_cells
from dj_npy._format.npyfile import AnyArray

as_scalar: ContextVar[bool] = ContextVar("as_scalar", default=False)
"""
While true, NumPy converts an array-like to one Python object, not to its data.

Set around a fetch of DataJoint's, whose `numpy.array` calls `__array__` without arguments of ours.
"""


def _method(name: str) -> Callable[..., Any]:
    def method(self: "ArrayLike", *args: Any, **kwargs: Any) -> Any:
        kwargs = {key: materialized(value) for key, value in kwargs.items()}
        return getattr(self._array(), name)(*map(materialized, args), **kwargs)

    method.__name__ = name
    method.__doc__ = f"Load the data and call :meth:`numpy.ndarray.{name}`."
    return method


def _reduction(name: str) -> Callable[..., Any]:
    of_loaded = _method(name)

    def method(self: "ArrayLike", *args: Any, **kwargs: Any) -> Any:
        if self._exceeds_memory():
            return reductions.reduce(self, getattr(np.ndarray, name), args, kwargs)
        return of_loaded(self, *args, **kwargs)

    method.__name__ = name
    method.__doc__ = (
        f"Load the data and call :meth:`numpy.ndarray.{name}`; "
        f"beyond ``settings.memory``, read them block by block."
    )
    return method


def _operator(function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def method(self: "ArrayLike", other: Any) -> Any:
        return function(self._array(), materialized(other))

    return method


def _comparison(function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def method(self: "ArrayLike", other: Any) -> Any:
        result = compared_as_cells(function, self, other)
        return function(self._array(), materialized(other)) if result is None else result

    return method


def _reflected(function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def method(self: "ArrayLike", other: Any) -> Any:
        return function(materialized(other), self._array())

    return method


class ArrayLike(NDArrayOperatorsMixin):
    """
    Operators, ufuncs, methods and conversions of an array, on data that are loaded on first use.

    A subclass defines `shape` and `dtype`, without I/O, `_array()`, which may load the data
    and returns them read-only, and an index. All methods of `ndarray` that do not modify it are
    here; in-place changes raise, as they would change a copy in memory and not the file.
    """

    __slots__ = ()

    # Above a DataFrame's: pandas leaves operators to us, and gets the data.
    __pandas_priority__ = 5000

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

    def _unflattened(self) -> "ArrayLike":
        """Return the array of which these are all elements in C order."""
        return self

    @property
    def copy(self) -> Callable[..., AnyArray]:
        """Load the data and return a copy, as `numpy.ndarray.copy` does."""
        # Dask's `from_array` copies what has this, in case it is changed later. A reference cannot
        # be changed.
        if sys._getframe(1).f_globals.get("__name__", "").startswith("dask."):
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

        Returns the shared read-only data, or a new array for ``copy=True`` or another dtype. A
        dtype that may lose something is left to NumPy, which converts what it gets, or refuses
        to: ``np.asarray(ref, int)`` of floats truncates, ``np.take(x, ref)`` raises.
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
        return array.astype(dtype) if np.can_cast(array.dtype, dtype) else array

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

    def __arrow_array__(self, type: Any = None) -> Any:  # noqa: A002 - pyarrow's name
        """Convert to a ``pyarrow.Array`` at once; pyarrow would take element by element."""
        import pyarrow  # whoever calls this has it

        return pyarrow.array(self._array(), type=type)

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

    # Python's own operators on the data, not ufuncs as in the mixin: `bool ** 2` has another dtype
    # than numpy.power returns, and pandas and others answer an operator in their own way.
    __lt__, __le__ = _comparison(operator.lt), _comparison(operator.le)
    __gt__, __ge__ = _comparison(operator.gt), _comparison(operator.ge)
    __eq__, __ne__ = _comparison(operator.eq), _comparison(operator.ne)
    __add__, __radd__ = _operator(operator.add), _reflected(operator.add)
    __sub__, __rsub__ = _operator(operator.sub), _reflected(operator.sub)
    __mul__, __rmul__ = _operator(operator.mul), _reflected(operator.mul)
    __matmul__, __rmatmul__ = _operator(operator.matmul), _reflected(operator.matmul)
    __truediv__, __rtruediv__ = _operator(operator.truediv), _reflected(operator.truediv)
    __floordiv__, __rfloordiv__ = _operator(operator.floordiv), _reflected(operator.floordiv)
    __mod__, __rmod__ = _operator(operator.mod), _reflected(operator.mod)
    __divmod__, __rdivmod__ = _operator(divmod), _reflected(divmod)
    __pow__, __rpow__ = _operator(operator.pow), _reflected(operator.pow)
    __lshift__, __rlshift__ = _operator(operator.lshift), _reflected(operator.lshift)
    __rshift__, __rrshift__ = _operator(operator.rshift), _reflected(operator.rshift)
    __and__, __rand__ = _operator(operator.and_), _reflected(operator.and_)
    __xor__, __rxor__ = _operator(operator.xor), _reflected(operator.xor)
    __or__, __ror__ = _operator(operator.or_), _reflected(operator.or_)

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

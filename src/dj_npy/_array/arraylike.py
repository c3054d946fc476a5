"""What behaves as an array in NumPy's hands although its data are elsewhere."""

import math
import operator
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from dj_npy._format.npyfile import AnyArray, empty

as_scalar: ContextVar[bool] = ContextVar("as_scalar", default=False)
"""While true, NumPy is handed an array-like as one Python object, not as its data."""


def _method(name: str) -> Callable[..., Any]:
    def method(self: "ArrayLike", *args: Any, **kwargs: Any) -> Any:
        return getattr(self._array(), name)(*args, **kwargs)

    method.__name__ = name
    method.__doc__ = f"Load the data and call :meth:`numpy.ndarray.{name}`."
    return method


class ArrayLike(NDArrayOperatorsMixin):
    """
    Operators, ufuncs, methods and conversions of an array, on data that come when needed.

    A subclass says `shape` and `dtype`, which cost nothing, and `_array()`, which may, and
    which is read-only. All of `ndarray` is here that changes nothing; what changes the array in
    place is refused, as the change would reach a copy in memory and no file.
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

    # Properties as in NumPy, but lazy: `hasattr` evaluates a property and must not load.
    @property
    def T(self) -> "View":  # noqa: N802
        """The array with its axes reversed, still unloaded."""
        return View(self, "T", np.transpose, self.shape[::-1], self.dtype)

    @property
    def mT(self) -> "View":  # noqa: N802
        """The array with its last two axes swapped, still unloaded."""
        if self.ndim < 2:
            raise ValueError("matrix transpose with ndim < 2 is undefined")  # as NumPy says it
        shape = (*self.shape[:-2], self.shape[-1], self.shape[-2])
        return View(self, "mT", matrix_transpose, shape, self.dtype)

    @property
    def real(self) -> "View":
        """The real part, still unloaded."""
        return View(self, "real", np.real, self.shape, empty((0,), self.dtype).real.dtype)

    @property
    def imag(self) -> "View":
        """The imaginary part, still unloaded."""
        return View(self, "imag", np.imag, self.shape, empty((0,), self.dtype).imag.dtype)

    @property
    def flat(self) -> "View":
        """All elements along one axis, the last varying fastest, still unloaded."""
        return View(self, "flat", np.ravel, (self.size,), self.dtype)

    def byteswap(self) -> AnyArray:
        """Load the data and return them with the bytes of each element in the other order."""
        return self._array().byteswap()

    all = _method("all")
    any = _method("any")
    argmax = _method("argmax")
    argmin = _method("argmin")
    argpartition = _method("argpartition")
    argsort = _method("argsort")
    astype = _method("astype")
    choose = _method("choose")
    clip = _method("clip")
    compress = _method("compress")
    conj = _method("conj")
    conjugate = _method("conjugate")
    copy = _method("copy")
    cumprod = _method("cumprod")
    cumsum = _method("cumsum")
    diagonal = _method("diagonal")
    dot = _method("dot")
    dump = _method("dump")
    dumps = _method("dumps")
    flatten = _method("flatten")
    getfield = _method("getfield")
    item = _method("item")
    max = _method("max")
    mean = _method("mean")
    min = _method("min")
    nonzero = _method("nonzero")
    prod = _method("prod")
    ravel = _method("ravel")
    repeat = _method("repeat")
    reshape = _method("reshape")
    round = _method("round")
    searchsorted = _method("searchsorted")
    squeeze = _method("squeeze")
    std = _method("std")
    sum = _method("sum")
    swapaxes = _method("swapaxes")
    take = _method("take")
    tobytes = _method("tobytes")
    tofile = _method("tofile")
    tolist = _method("tolist")
    trace = _method("trace")
    transpose = _method("transpose")
    var = _method("var")
    view = _method("view")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> AnyArray:
        """
        Hand the data to NumPy (the array protocol of NumPy 1 and 2).

        Read-only and without a copy; with ``copy=True``, or as another dtype, of one's own.
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
        Hand a copy of the data to another library, as ``torch.from_dlpack(ref)`` does.

        Many libraries, PyTorch among them, write into what DLPack says is read-only.
        """
        if copy is False:
            raise BufferError(
                f"an {type(self).__name__} shares its data with others, so DLPack gets a copy: "
                f"leave copy=False away, or take numpy.asarray(ref), which is read-only"
            )
        return np.array(self._array()).__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        """Say that they are, or will be, in the processor's memory."""
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
        return getattr(ufunc, method)(*map(materialized, inputs), **kwargs)

    # The mixin would call numpy.power, which gives bool ** 2 another dtype than the operator.
    def __pow__(self, other: Any) -> Any:
        return operator.pow(self._array(), materialized(other))

    def __rpow__(self, other: Any) -> Any:
        return operator.pow(other, self._array())

    def __format__(self, specification: str) -> str:
        if specification and not self.shape:  # NumPy, too, formats numbers only
            return format(self._array(), specification)
        return object.__format__(self, specification)

    def __getitem__(self, index: Any) -> Any:
        return owned(self._array()[materialized(index)])

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of unsized object")  # as NumPy says it
        return self.shape[0]

    def __iter__(self) -> Iterator[Any]:
        if not self.shape:
            raise TypeError("iteration over a 0-d array")
        return self._rows()

    def _rows(self) -> Iterator[Any]:  # a generator, so that iter() alone loads nothing
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
                # `bytearray(ref)` overlooks a TypeError, and makes a byte of each element.
                raise ValueError(f"{message}; for bytes, there is ref.tobytes()")
            raise TypeError(message)
        return int(self._single_element().__index__())

    def __bytes__(self) -> bytes:
        # Without this, `bytes(ref)` makes a byte of each element.
        if not self.shape and self.dtype.kind in "iu":
            raise TypeError(
                "bytes() of one integer would be as many zeros: use ref.tobytes(), or int(ref)"
            )
        return bytes(self._array())

    def __bool__(self) -> bool:
        return bool(self._single_element())

    def _single_element(self) -> Any:
        """The data if they are one element; else a stand-in of which NumPy says what is wrong."""
        return self._array() if self.size == 1 else np.zeros(min(self.size, 2), self.dtype)

    # The mixin defines __eq__ elementwise, which would take the hash away.
    __hash__ = object.__hash__


class View(ArrayLike):
    """
    What an attribute of an unloaded array (``ref.T``) is: the array seen another way.

    Parameters
    ----------
    source : ArrayLike
        Where the data are.
    name : str
        The attribute of the source that this is.
    function : callable
        Turns the source's data into the view's.
    shape, dtype
        What will come of that.
    """

    __slots__ = ("_dtype", "_function", "_name", "_shape", "_source")

    def __init__(
        self,
        source: ArrayLike,
        name: str,
        function: Callable[[AnyArray], AnyArray],
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
    ) -> None:
        self._source, self._name, self._function = source, name, function
        self._shape, self._dtype = shape, dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        return self._shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of an element."""
        return self._dtype

    def _array(self) -> AnyArray:
        array = self._function(self._source._array())
        array.flags.writeable = False  # whether it is a copy depends on the memory order
        return array

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self._source, self._name)  # no name of ours, which may change

    def __repr__(self) -> str:
        return f"{self._function.__name__}({self._source!r})"


def matrix_transpose(array: AnyArray) -> AnyArray:
    return np.swapaxes(array, -1, -2)  # numpy.matrix_transpose is NumPy 2's


def owned(part: Any) -> Any:
    """Return what NumPy's index or iterator gives of an array, in memory of its own."""
    if not isinstance(part, np.ndarray):
        return part.copy() if isinstance(part, np.void) else part
    if part.flags.owndata:
        return part
    # Of |S0, a copy would be |S1: gigabytes, of an array without data.
    return np.array(part) if part.dtype.itemsize else np.ndarray(part.shape, part.dtype)


def materialized(value: Any) -> Any:
    """Return the data of an array-like, also one within an index."""
    if isinstance(value, ArrayLike):
        return value._array()
    if isinstance(value, tuple):
        return tuple(map(materialized, value))
    return value

"""
Reductions of arrays larger than memory, block by block, with NumPy's dtypes and errors.

Blocks that reduce to the same elements are merged pairwise, so that rounding errors grow with the
logarithm of their number, as in NumPy's own sums.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from dj_npy._concurrency.threads import side_by_side
from dj_npy._format.npyfile import AnyArray
from dj_npy._selection.parts import contiguous_shape

ASSOCIATIVE = {
    *(np.add, np.multiply, np.minimum, np.maximum, np.fmin, np.fmax, np.logical_and),
    *(np.logical_or, np.bitwise_and, np.bitwise_or, np.bitwise_xor),
}
"""Ufuncs that :func:`fold` reduces."""
_MAX_ELEMENTS = 2 << 20
"""Most elements of a block; those of 8 bytes and their temporary arrays have 16 MiB each."""
_MAX_NBYTES = 16 << 20
_MAX_AHEAD = 16
_UFUNCS = {
    "sum": np.add,
    "prod": np.multiply,
    "min": np.minimum,
    "max": np.maximum,
    "all": np.logical_and,
    "any": np.logical_or,
}
_POSITIONAL = {
    **dict.fromkeys(("sum", "prod"), ("axis", "dtype", "out", "keepdims", "initial", "where")),
    **dict.fromkeys(("min", "max"), ("axis", "out", "keepdims", "initial", "where")),
    **dict.fromkeys(("all", "any", "ptp"), ("axis", "out", "keepdims")),
    "mean": ("axis", "dtype", "out", "keepdims"),
    **dict.fromkeys(("std", "var"), ("axis", "dtype", "out", "ddof", "keepdims")),
    **dict.fromkeys(("argmin", "argmax"), ("axis", "out")),
    "count_nonzero": ("axis",),
}
_Partial = tuple[Any, ...]


def reduce(array: Any, function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """
    Return what a function or a method of NumPy returns for an array-like.

    Parameters
    ----------
    array : ArrayLike
        With at least one axis and one element.
    function : callable
        Method of `numpy.ndarray` or function of NumPy, whose name, without ``nan`` before it, is
        one of `_POSITIONAL`.
    args, kwargs
        Its arguments after the array.
    """
    name = function.__name__.removeprefix("nan")
    skip_nan, positional = name != function.__name__, _POSITIONAL[name]
    if len(args) > len(positional):
        raise TypeError(f"{name}() takes at most {len(positional)} arguments, not {len(args)}")
    given = dict(zip(positional, args, strict=False)) | kwargs
    given = {key: value for key, value in given.items() if value is not np._NoValue}
    is_odd = given.get("out") is not None and (skip_nan or name == "ptp")
    if is_odd or np.ndim(given.get("ddof", 0)) or np.ndim(given.get("correction", 0)):
        return function(np.asarray(array), *args, **kwargs)  # too odd to do in blocks
    # Raises what NumPy raises, as for an argument that only other functions have.
    like = function(
        np.zeros((1,) * array.ndim, array.dtype),
        *(_fitting(array, *each) for each in zip(positional, args, strict=False)),
        **{key: _fitting(array, key, value) for key, value in kwargs.items()},
    )
    if skip_nan and name in ("min", "max"):
        found = fold(array, np.fmin if name == "min" else np.fmax, **given)
        if np.isnan(found).any():
            warnings.warn("All-NaN slice encountered", RuntimeWarning, stacklevel=4)
        return found
    skip_nan = skip_nan and array.dtype.kind in "fc"
    if name in _UFUNCS:
        return fold(array, _UFUNCS[name], nan_function=function if skip_nan else None, **given)
    if _needs_whole(array, like, given.get("dtype"), given.get("out"), "fc"):
        return function(np.asarray(array), *args, **kwargs)
    task = _Task(array, like, given, skip_nan)
    if name == "mean":
        return _mean(task)
    if name in ("std", "var"):
        return _variance(task, given, np.sqrt if name == "std" else np.positive)
    if name in ("argmin", "argmax"):
        return _position(task, function)
    if name == "ptp":
        return _range(task)
    return _count(task)


def _fitting(array: Any, key: str, value: Any) -> Any:
    """Return an argument for `array` as it fits an array of one element."""
    if value is None or value is np._NoValue:
        return value
    if key == "out":
        return None
    if key == "where":
        return value if value is True else np.ones((), getattr(value, "dtype", bool))
    if key == "mean":
        return np.zeros((1,) * array.ndim, getattr(value, "dtype", float))
    # As it was, one element would have too few degrees of freedom, of which NumPy warns.
    return -abs(value) if key in ("ddof", "correction") else value


def _needs_whole(array: Any, like: Any, dtype: Any, out: Any, kinds: str) -> bool:
    """
    Return whether NumPy's result cannot be merged from those of blocks.

    That is so where NumPy rounds intermediate results: to an output of another dtype than `like`,
    the result for an array of one element, or to a given dtype whose kind is not in `kinds`.
    """
    kind = array.dtype.kind
    if dtype is not None and np.dtype(dtype) != array.dtype:
        given = np.dtype(dtype).kind
        if given not in kinds or (kind == "c" and given != "c"):
            return True
    return kind not in "biufcmM" or (isinstance(out, np.ndarray) and out.dtype != like.dtype)


def fold(
    array: Any,
    ufunc: np.ufunc,
    *,
    axis: Any = None,
    dtype: Any = None,
    out: Any = None,
    keepdims: Any = False,
    initial: Any = np._NoValue,
    where: Any = True,
    nan_function: Any = None,
) -> Any:
    """
    Return ``ufunc.reduce(array, ...)`` of an array-like with at least one axis and element.

    If `nan_function` is given, NumPy's function of that name, not-a-numbers are left out.
    """
    out = out[0] if isinstance(out, tuple) else out
    is_sum = ufunc in (np.add, np.multiply)
    options = {"axis": axis, "dtype": dtype, "keepdims": keepdims}
    first = {} if initial is np._NoValue else {"initial": initial}
    like = ufunc.reduce(np.zeros((1,) * array.ndim, array.dtype), **options)
    if _needs_whole(array, like, dtype, out, "biufc"):
        whole = nan_function or ufunc.reduce
        return whole(np.asarray(array), out=out, where=where, **options, **first)
    given = {"axis": axis, "out": out, "keepdims": keepdims, "where": where}
    task = _Task(array, like, given, False)
    options |= {"axis": task.axes, "keepdims": True}
    if is_sum:
        options["dtype"] = _accumulator(like.dtype, dtype)
    # Without an identity, as of a minimum, what is given may count in each block.
    later = first if ufunc.identity is None else {}

    def work(block: _Block) -> _Partial:
        if nan_function:
            block.data[np.isnan(block.data)] = ufunc.identity
        extra = first if block.is_first else later
        return (ufunc.reduce(block.data, where=block.where, **options, **extra),)

    (found,) = task.run(work, lambda a, b: (ufunc(a[0], b[0]),))
    return task.finish(found)


def _mean(task: "_Task") -> Any:
    dtype = _accumulator(task.like.dtype, task.given.get("dtype"))
    of_array = task.array.dtype
    if dtype is None and of_array.kind in "bui":
        # Exact, where NumPy adds floats; eight bytes could overflow.
        dtype = "f8" if of_array.itemsize > 4 else "u8" if of_array.kind == "u" else "i8"

    def work(block: _Block) -> _Partial:
        total = np.add.reduce(
            block.data, axis=task.axes, dtype=dtype, keepdims=True, where=block.where
        )
        return task.count(block), total

    count, total = task.run(work, lambda a, b: (a[0] + b[0], a[1] + b[1]))
    if not count.all():
        warnings.warn("Mean of empty slice", RuntimeWarning, stacklevel=5)
    with np.errstate(invalid="ignore", divide="ignore"):
        return task.finish(total / count)


def _variance(task: "_Task", given: dict[str, Any], finish: Callable[[Any], Any]) -> Any:
    """Return the variance: of two passes over each block, merged as by Chan et al. (1979)."""
    dtype = np.result_type(task.like.dtype, task.array.dtype)
    dtype = _accumulator(dtype, dtype)
    means = given.get("mean")
    if means is not None:
        means = np.broadcast_to(means, task.reduced_shape)

    def work(block: _Block) -> _Partial:
        options = {"axis": task.axes, "keepdims": True, "where": block.where}
        count = task.count(block)
        if means is None:
            mean = np.add.reduce(block.data, dtype=dtype, **options) / np.maximum(count, 1)
        else:
            mean = means[task.place(block.at)]
        deviation = np.subtract(block.data, mean.astype(dtype, copy=False))
        if deviation.dtype.kind == "c":
            square = np.square(deviation.real)
            square += np.square(deviation.imag)
        else:
            square = np.square(deviation, out=deviation)
        return count, mean, np.add.reduce(square, **options)

    def merge(a: _Partial, b: _Partial) -> _Partial:
        count, delta = a[0] + b[0], b[1] - a[1]
        share = b[0] / np.maximum(count, 1)
        square = (delta * np.conjugate(delta)).real
        return count, a[1] + delta * share, a[2] + b[2] + square * (a[0] * share)

    count, _, square = task.run(work, merge)
    ddof = given.get("ddof", 0) if given.get("correction") is None else given["correction"]
    freedom = np.maximum(count - ddof, 0)
    if not freedom.all():
        warnings.warn("Degrees of freedom <= 0 for slice", RuntimeWarning, stacklevel=5)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = square / freedom
    if task.skip_nan:
        found[freedom == 0] = np.nan
    return task.finish(finish(found))


def _position(task: "_Task", function: Any) -> Any:
    axis = task.axes[0] if len(task.axes) == 1 else None

    def work(block: _Block) -> _Partial:
        if axis is not None:
            found = function(block.data, axis=axis, keepdims=True)
            value = np.take_along_axis(block.data, found, axis)
            return value, found + block.at[axis].start
        at = np.unravel_index(function(block.data), block.data.shape)
        whole = [n + part.start for n, part in zip(at, block.at, strict=True)]
        value = block.data[at].reshape(task.reduced_shape)
        return value, np.full(task.reduced_shape, np.ravel_multi_index(whole, task.array.shape))

    def merge(a: _Partial, b: _Partial) -> _Partial:
        values = np.stack([a[0], b[0]])
        # Of equals, not-a-numbers included, NumPy takes the first of those that it sees.
        a_wins, b_wins = function(values, axis=0) == 0, function(values[::-1], axis=0) == 0
        take = a_wins & (~b_wins | (a[1] < b[1]))
        return np.where(take, a[0], b[0]), np.where(take, a[1], b[1])

    return task.finish(task.run(work, merge)[1])


def _range(task: "_Task") -> Any:
    functions = (np.maximum, np.minimum)

    def work(block: _Block) -> _Partial:
        return tuple(f.reduce(block.data, axis=task.axes, keepdims=True) for f in functions)

    highest, lowest = task.run(
        work, lambda a, b: tuple(f(*pair) for f, *pair in zip(functions, a, b, strict=True))
    )
    return task.finish(highest - lowest)


def _count(task: "_Task") -> Any:
    def work(block: _Block) -> _Partial:
        return (np.count_nonzero(block.data, axis=task.axes, keepdims=True),)

    return task.finish(task.run(work, lambda a, b: (a[0] + b[0],))[0])


def _accumulator(dtype: np.dtype[Any], given: Any) -> Any:
    """Return the dtype for a sum: NumPy, too, adds half precision in single precision."""
    return np.dtype("f4") if dtype.kind == "f" and dtype.itemsize == 2 else given


class _Block(NamedTuple):
    """A block of an array."""

    data: AnyArray
    at: tuple[slice, ...]
    """Its place in the array."""
    where: Any
    """Which of its elements count: a mask, or True."""
    is_first: bool
    """Whether it is the first of those that reduce to the same elements."""


class _Task:
    """
    One reduction.

    Parameters
    ----------
    array : ArrayLike
        With at least one axis and element.
    like
        Result for an array of one element: its type, dtype and number of axes.
    given : dict
        Arguments `axis`, `out`, `keepdims` and `where`, of which NumPy has checked the first.
    skip_nan : bool
        Whether not-a-numbers are left out.
    """

    def __init__(self, array: Any, like: Any, given: dict[str, Any], skip_nan: bool) -> None:
        self.like, self.given, self.skip_nan = like, given, skip_nan
        axis = given.get("axis")
        axes = range(array.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
        self.axes = tuple(n % array.ndim for n in axes)
        lengths = list(enumerate(array.shape))
        self.reduced_shape = tuple(1 if n in self.axes else length for n, length in lengths)
        self._shape = tuple(length for n, length in lengths if n not in self.axes)
        if given.get("keepdims"):
            self._shape = self.reduced_shape
        self._out, where = given.get("out"), given.get("where", True)
        self._where = None if where is True else np.broadcast_to(where, array.shape)
        self.array = array._unflattened() if self.axes else array
        if self.array is not array:  # all elements, whose order does not matter
            self.axes = tuple(range(self.array.ndim))
            self.reduced_shape = (1,) * self.array.ndim
            if self._where is not None:
                self._where = self._where.reshape(self.array.shape)
        if self._out is None:
            return
        if not isinstance(self._out, np.ndarray):
            raise TypeError(f"output must be an array, not {type(self._out).__name__}")
        if self._out.shape != self._shape:
            raise ValueError(f"output has shape {self._out.shape}, the result {self._shape}")

    def place(self, index: tuple[slice, ...]) -> tuple[slice, ...]:
        """Return the place in the result, with axes kept, of a block."""
        return tuple(slice(0, 1) if n in self.axes else part for n, part in enumerate(index))

    def count(self, block: _Block) -> Any:
        """Return how many elements count for each of the result."""
        shape = block.data.shape
        if block.where is True:
            return math.prod(shape[n] for n in self.axes)
        mask = np.broadcast_to(block.where, shape)
        return np.add.reduce(mask, axis=self.axes, dtype=np.intp, keepdims=True)

    def run(
        self,
        work: Callable[[_Block], _Partial],
        merge: Callable[[_Partial, _Partial], _Partial],
    ) -> tuple[AnyArray, ...]:
        """Return what `work` returns for all blocks, merged, with reduced axes of length 1."""
        array = self.array
        results: tuple[AnyArray, ...] = ()
        array[(slice(0, 1),) * array.ndim]  # afterwards, the memory order is known
        strides = array._stand_in().strides
        slowest_first = sorted(range(array.ndim), key=lambda n: -abs(strides[n]))
        limit = min(_MAX_NBYTES, _MAX_ELEMENTS * array.itemsize)
        lengths = contiguous_shape(array.shape, array.itemsize, slowest_first, limit)
        steps = [range(0, n, step) for n, step in zip(array.shape, lengths, strict=True)]
        blocks_each = math.prod(len(steps[n]) for n in self.axes)

        def indices() -> Iterator[tuple[slice, ...]]:
            for starts in product(*(steps[n] for n in slowest_first)):
                at = dict(zip(slowest_first, starts, strict=True))
                yield tuple(slice(at[n], at[n] + lengths[n]) for n in range(array.ndim))

        nbytes = math.prod(lengths) * array.itemsize
        found = side_by_side(
            lambda index: (index, array[index]),
            indices(),
            _MAX_AHEAD,
            lambda: array._blocks_ahead(nbytes),
        )
        # By place: number of blocks and what they give, as the digits of a binary counter.
        waiting: dict[Any, list[tuple[int, _Partial]]] = {}
        for index, data in found:
            place = self.place(index)
            key = tuple(part.start for part in place)
            done = waiting.setdefault(key, [])
            done.append((1, work(_Block(data, index, self._mask(data, index), not done))))
            is_last = sum(count for count, _ in done) == blocks_each
            while len(done) > 1 and (is_last or done[-1][0] == done[-2][0]):
                (count, one), (other_count, other) = done.pop(-2), done.pop()
                done.append((count + other_count, merge(one, other)))
            if is_last:
                partial = [np.asarray(part) for part in waiting.pop(key)[0][1]]
                results = results or tuple(
                    np.empty(self.reduced_shape, part.dtype) for part in partial
                )
                for result, part in zip(results, partial, strict=True):
                    result[place] = part
        return results

    def finish(self, found: AnyArray) -> Any:
        """Return the result in the form that NumPy has."""
        found = found.reshape(self._shape)
        if self._out is not None:
            np.copyto(self._out, found, casting="unsafe")
            return self._out
        if isinstance(self.like, int):  # NumPy counts in Python's integers
            return int(found)
        found = found.astype(self.like.dtype, copy=False)
        return found if isinstance(self.like, np.ndarray) else found[()]

    def _mask(self, data: AnyArray, index: tuple[slice, ...]) -> Any:
        where = True if self._where is None else self._where[index]
        return where & ~np.isnan(data) if self.skip_nan else where
